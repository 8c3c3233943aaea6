"""Loading the networks of any family: from folders, onto a device, whole or not at all.

Random weights are never an answer: a checkpoint that does not fill a network is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossframe.checkpoints import PICKLED, require_plain_tensors
from crossframe.errors import Problem, UserError
from methods.weight_files import Part, weight_files

Loaded = tuple[nn.Module, Mapping[str, Any]]
"""A network and what loading it told: `missing_keys`, and `temporal` where files hold more."""

Loader = Callable[[Path, Part, torch.dtype], Loaded]


def pick_device(name: str) -> torch.device:
    """Return the device called `auto`, `cpu` or `cuda`; auto is cuda if there is one.

    Raises UserError for cuda without a usable GPU.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        what = "torch finds no CUDA device"
        raise UserError(
            Problem("backbone.device", what, "auto, cpu", "install a CUDA build of torch")
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def load_network(
    part: Part, folder: Path, dtype: torch.dtype, loaders: Mapping[str, Loader]
) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Load one network from its folder, with the tensors that its files hold besides, mostly {}.

    loaders: how to read each kind of part (`Part.family`).

    Raises UserError for a checkpoint that runs code, is broken or leaves parameters unset.
    """
    for path in weight_files(folder, part.variant):
        if path.suffix == PICKLED:
            require_plain_tensors(path, f"backbone.{part.role}")
    try:
        net, info = loaders[part.family](folder, part, dtype)
    except UserError:
        raise
    except Exception as error:  # loaders raise a dozen kinds for one broken folder
        files = ", ".join(
            f"{f.name} {f.stat().st_size:,} B" for f in weight_files(folder, part.variant)
        )
        lines = str(error).splitlines() or [type(error).__name__]
        what = f"{str(folder)!r} cannot be loaded: {lines[0]}"
        fix = f"compare with the original ({files})"
        raise UserError(Problem(f"backbone.{part.role}", what, fix=fix)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        what = f"{str(folder)!r} leaves {len(missing)} tensors unset, among them {missing[0]}"
        raise UserError(Problem(f"backbone.{part.role}", what, fix="use a complete checkpoint"))
    return net, info.get("temporal", {})


def from_diffusers(model: Any, folder: Path, part: Part, dtype: torch.dtype) -> Loaded:
    """Load a model of diffusers from its folder, and what loading told."""
    (first, *_) = weight_files(folder, part.variant)
    return model.from_pretrained(
        folder,
        torch_dtype=dtype,
        variant=part.variant or None,
        use_safetensors=first.suffix == ".safetensors",
        output_loading_info=True,
        local_files_only=True,
    )
