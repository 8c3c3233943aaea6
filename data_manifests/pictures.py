"""Folders of pictures read as a video: natural order, one size, errors as for video files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crossframe.errors import Problem, UserError
from crossframe.form import Size, show_size
from crossframe.video import fit_frame, too_few

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
DEEP = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits per channel."""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key by which `f2.png` comes before `f10.png`."""
    parts = re.findall(r"\d+|\D+", name.lower())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def picture_paths(folder: str | Path) -> list[Path]:
    """Return the pictures in `folder` in natural order; hidden files and others are left out.

    Raises UserError when the folder is missing or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(Problem(str(folder), "no such folder"))
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
        what = f"holds no pictures, but {len(inner)} folders" if inner else "holds no pictures"
        fix = f"name one of the folders, as {folder / inner[0]}" if inner else ""
        raise UserError(Problem(str(folder), what, f"a folder of {' '.join(SUFFIXES)}", fix))
    return sorted(found, key=lambda path: natural_key(path.name))


def read_pictures(
    folder: str | Path, *, frames: int, start: int = 0, stride: int = 1, size: Size | None = None
) -> np.ndarray:
    """Return pictures start, start+stride, ... as uint8 (frames, h, w, 3), RGB.

    With `size` each is cropped and resized as video frames are. A rotation stored by the camera is
    applied, an alpha channel dropped.

    Raises UserError when the folder is missing, empty or too short (with what would fit), and for
    pictures that are damaged, deeper than 8 bits or of different sizes, all of them at once.
    """
    paths = picture_paths(folder)
    wanted = range(start, start + frames * stride, stride)
    if wanted[-1] >= len(paths):
        raise UserError(too_few(Path(folder), len(paths), wanted))
    read = [_read(paths[index]) for index in wanted]
    problems = [item for item in read if isinstance(item, Problem)]
    pictures = [item for item in read if not isinstance(item, Problem)]
    if problems:
        raise UserError(problems)
    _require_one_size([paths[index] for index in wanted], pictures)
    return np.stack([fit_frame(picture, size) for picture in pictures])


def read_picture(path: Path, size: Size | None = None) -> np.ndarray:
    """Return one picture, uint8 (h, w, 3) RGB, cropped and resized as `read_pictures` does.

    Raises UserError when it is missing, damaged or deeper than 8 bits.
    """
    read = _read(path)
    if isinstance(read, Problem):
        raise UserError(read)
    return fit_frame(read, size)


def _read(path: Path) -> np.ndarray | Problem:
    try:
        with Image.open(path) as image:
            if image.mode.startswith(DEEP):
                return Problem(str(path), f"has more than 8 bits per channel ({image.mode})")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        return Problem(str(path), "is not a picture that Pillow can read")
    except (OSError, SyntaxError) as error:
        return Problem(str(path), f"is damaged or cut short ({error})")


def _require_one_size(paths: list[Path], pictures: list[np.ndarray]) -> None:
    first = _size(pictures[0])
    problems = [
        Problem(str(path), f"is {_size(picture)} pixels, {paths[0].name} is {first}")
        for path, picture in zip(paths, pictures, strict=True)
        if _size(picture) != first
    ]
    if problems:
        raise UserError(problems)


def _size(picture: np.ndarray) -> str:
    return show_size(picture.shape[1::-1])
