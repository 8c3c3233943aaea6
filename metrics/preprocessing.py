"""How pictures become the input of an encoder, as data: part of what a score is. Torch-free.

Resizing, filter, antialiasing, crop and normalisation move CLIP scores by more than many published
differences, so they are named, recorded with every score, and hashed into its key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from crossframe.errors import NotAvailable, Problem, UserError, did_you_mean

Filter = Literal["bilinear", "bicubic"]
# The numbers that Pillow, and so every preprocessing file, gives to its filters.
_FILTERS: Mapping[int, Filter] = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Preprocessing:
    """Steps in the order in which they are done.

    lower_square: cut a picture that is higher than wide to the square at its bottom. squash: resize
    to (h, w) first, whatever the shape. resize: the shorter side in pixels, or (h, w). filter,
    antialias: how `squash` and `resize` sample. crop: (h, w) about the centre, or None for no crop.
    mean, std: per channel, for values in [0, 1].
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    filter: Filter = "bicubic"
    antialias: bool = True
    squash: tuple[int, int] | None = None
    lower_square: bool = False

    def identity(self) -> dict[str, Any]:
        """Return what enters the key of a score: every field."""
        return asdict(self)


GEOMETRIES: Mapping[str, Mapping[str, Any]] = {
    "own": {},
    "tgve": {"squash": (480, 480)},
    "fatezero": {"lower_square": True},
    "vbench": {"antialias": False},
}
"""What evaluation codes change about an encoder's own preprocessing.

tgve: frames squashed to 480x480 before (`scripts/run_eval.py`). fatezero: frames higher than wide
are cut to the bottom square before (`CLIP/frame_acc_tem_con.py`). vbench: tensors are resized
without antialiasing (`vbench/utils.py`).
"""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DINO = Preprocessing(224, None, IMAGENET_MEAN, IMAGENET_STD, filter="bilinear", antialias=False)
"""VBench's input of DINO: shorter side 224, no crop, no antialiasing."""


def with_geometry(preprocessing: Preprocessing, name: str) -> Preprocessing:
    """Return the preprocessing changed as `GEOMETRIES[name]` says; UserError for other names."""
    if name not in GEOMETRIES:
        fix = did_you_mean(name, GEOMETRIES)
        what = f"unknown geometry {name!r}"
        raise UserError(Problem("encoder", what, ", ".join(GEOMETRIES), fix))
    return replace(preprocessing, **GEOMETRIES[name])


def read_preprocessing(folder: Path, geometry: str = "own") -> Preprocessing:
    """Read what a transformers folder says and change it as `geometry` asks.

    Raises NotAvailable when the folder has no preprocessing file, UserError for one that is
    not understood.
    """
    config = _processor_config(folder)
    try:
        size, crop = config["size"], config.get("crop_size", config["size"])
        if isinstance(crop, int):
            crop = {"height": crop, "width": crop}
        shortest = size if isinstance(size, int) else size.get("shortest_edge")
        made = Preprocessing(
            resize=shortest or (size["height"], size["width"]),
            crop=(crop["height"], crop["width"]),
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
            filter=_FILTERS[config.get("resample", 3)],
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            Problem(
                str(folder),
                f"cannot use the preprocessing in its image processor file: {error!r}",
                allowed="size, crop_size, image_mean, image_std, resample 2 or 3",
            )
        ) from error
    return with_geometry(made, geometry)


def _processor_config(folder: Path) -> Mapping[str, Any]:
    """Read `preprocessor_config.json`, or its part of transformers 5's `processor_config.json`."""
    alone, combined = folder / "preprocessor_config.json", folder / "processor_config.json"
    if alone.is_file():
        found: Mapping[str, Any] = json.loads(alone.read_text(encoding="utf-8"))
        return found
    if combined.is_file():
        inner: Mapping[str, Any] = json.loads(combined.read_text(encoding="utf-8"))
        return inner.get("image_processor", {})
    raise NotAvailable(
        "clip", f"no {alone.name} in {folder}", "it must state size, image_mean and image_std"
    )
