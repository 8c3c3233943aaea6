"""What decides how a clip reads, told without reading it; so that a plan need not read it again.

The entry of a clip source in `SOURCES` names what its clips depend on: `code` (modules and packages
of this project), `packages` (whose release may change a pixel), `files` (suffixes, "" for the file
itself) or `state` (a function that lists the files' states). A source that names no `code` has no
fingerprints.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

from crossframe.cache import file_state
from crossframe.keys import file_sha256, identity
from data_manifests.clips import SOURCES, ClipRequest, split_ref


def fingerprint(request: ClipRequest) -> str | None:
    """Return a text that differs whenever the clip could, or None when that cannot be known.

    It holds the request, the code that reads the clip, the releases of its packages, the machine
    (the last bit of a sine may differ between two), and the state of the files that are read.
    """
    source, name = split_ref(request.ref)
    extra = SOURCES.entry(source).extra if source in SOURCES else {}
    if not extra.get("code"):
        return None
    files = [_state(name, suffix) for suffix in extra.get("files", ())]
    files += _listed(extra.get("state", ""), source, name)
    if None in files:
        return None
    packages = _releases(tuple(extra.get("packages", ())))
    if None in packages:
        return None
    code = _code(tuple(extra["code"]))
    return identity([astuple(request), code, packages, os.uname().nodename, files])


@cache
def _code(names: tuple[str, ...]) -> list[str]:
    """Hash modules, and every module of packages."""
    files = [_origin(name) for name in names]
    return [
        file_sha256(module)
        for file in files
        for module in (sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file])
    ]


@cache
def _releases(packages: tuple[str, ...]) -> list[Any]:
    return [file_state(_origin(package)) for package in packages]


def _state(name: str, suffix: str) -> Any:
    """Return the state of a file; "absent" where a file beside the clip's own may be missing."""
    path = Path(name).with_suffix(suffix) if suffix else Path(name)
    if suffix and not path.exists():
        return "absent"
    return file_state(path) if path.is_file() else None


def _listed(target: str, source: str, name: str) -> list[Any]:
    """Call the `state` of a source, `module:function`, where it names one."""
    if not target:
        return []
    module, _, attribute = target.partition(":")
    states: list[Any] = getattr(importlib.import_module(module), attribute)(source, name)
    return states


def _origin(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return Path(spec.origin)
