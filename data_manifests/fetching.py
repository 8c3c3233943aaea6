"""Downloads of the files in manifests: resumed where they stopped, checked by sha256, unpacked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crossframe.errors import Problem, UserError
from data_manifests.datasets import dataset_folder, holder, is_here, missing
from data_manifests.manifest import DataFile, Manifest

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are here, and the bytes there are in all."""

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30
RESUMED, UNSATISFIABLE = 206, 416
"""HTTP status: the rest of a file follows, and there is no such rest."""


def fetch(facts: Manifest, progress: Progress) -> Iterator[Problem]:
    """Download and unpack what is missing of a set; yield a problem for every file still absent.

    Sets that a person must place themselves are told with how to do that. A file whose bytes do
    not hash to the manifest's sha256 is deleted.
    """
    owner = holder(facts)
    if owner.kind != "fetched":
        yield from missing(owner)
        return
    for file in _wanted(owner):
        folder = dataset_folder(owner)
        try:
            if not is_here(folder, file):
                download(file, folder, progress)
            if file.unpack and not (folder / Path(file.name).stem).is_dir():
                _unpack(folder / file.name, folder / Path(file.name).stem)
        except UserError as error:
            yield from error.problems


def download(file: DataFile, folder: Path, progress: Progress) -> Path:
    """Download one file into `folder` and return its path; what is there already is continued.

    Raises UserError when it cannot be reached or is not the expected file, with its address,
    length, sha256 and the place to put it by hand.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{file.name}.part"
    try:
        pooch.retrieve(
            file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=file.name,
            path=folder,
            downloader=_Resuming(part, file, progress),
        )
    except requests.RequestException as error:
        raise UserError(_failed(file, folder, f"cannot be reached ({_reason(error)})")) from error
    except ValueError as error:  # pooch's word for a hash that differs
        raise UserError(
            _failed(file, folder, "is not the expected file: its hash differs")
        ) from error
    except OSError as error:
        raise UserError(_failed(file, folder, f"cannot be stored ({error.strerror})")) from error
    return folder / file.name


class _Resuming:
    """A downloader for pooch that keeps an unfinished file as `.part` and asks for the rest."""

    def __init__(self, part: Path, file: DataFile, progress: Progress) -> None:
        self.part = part
        self.file = file
        self.progress = progress

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        if self._have() > self.file.bytes:
            self.part.unlink()
        if self._have() < self.file.bytes:
            self._request(url)
        os.replace(self.part, output_file)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _request(self, url: str) -> None:
        import requests

        have = self._have()
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as reply:
            if reply.status_code == UNSATISFIABLE:
                self.part.unlink()
            reply.raise_for_status()
            resumed = reply.status_code == RESUMED
            have = have if resumed else 0
            with open(self.part, "ab" if resumed else "wb") as file:
                for chunk in reply.iter_content(CHUNK_BYTES):
                    file.write(chunk)
                    have += len(chunk)
                    self.progress(self.file.name, have, self.file.bytes)


def _wanted(facts: Manifest) -> list[DataFile]:
    """Return the files to look after: none when a person placed the unpacked clips."""
    folder = dataset_folder(facts)
    absent = [file for file in facts.files if not is_here(folder, file)]
    return list(facts.files) if not absent or list(missing(facts)) else []


def _unpack(archive: Path, folder: Path) -> None:
    from crossframe.files import unpack

    unpack(archive, folder)


def _failed(file: DataFile, folder: Path, what: str) -> Problem:
    facts = f"{file.bytes:,} bytes, sha256 {file.sha256}"
    fix = f"download it elsewhere and put it at {folder / file.name}, or try again"
    return Problem(file.url, f"{what}; {facts}", fix=fix)


def _reason(error: Exception) -> str:
    """Return the last, plainest line of a chain of network errors."""
    while (cause := error.__cause__ or error.__context__) is not None and isinstance(
        cause, Exception
    ):
        error = cause
    return str(error).splitlines()[0] if str(error) else type(error).__name__
