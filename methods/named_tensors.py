"""Tensors by name, as checkpoints hold them: reading, comparing with what is wanted, writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from crossframe.checkpoints import SAFETENSORS, require_plain_tensors, require_whole
from crossframe.files import replacing

Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]

_DISTRIBUTED = "module."


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def read_tensors(path: Path, where: str) -> dict[str, Tensor]:
    """Read named tensors onto the CPU: safetensors, or a pickle that holds nothing else.

    The prefix `module.` of distributed training is dropped. Raises UserError, located at `where`,
    for a file that is absent, damaged, or holds anything but tensors by name.
    """
    require_whole(path, where)
    if path.suffix == SAFETENSORS:
        from safetensors.torch import load_file

        found: Tensors = load_file(path)
    else:
        require_plain_tensors(path, where)
        found = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix(_DISTRIBUTED): tensor for name, tensor in found.items()}


def differences(found: Tensors, wanted: Shapes) -> str:
    """Say in one line how tensors differ from what is wanted in names and shapes; "" if nowhere."""
    return "; ".join(_differences(found, wanted))


def plain_tensors(tensors: Tensors, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return copies on the CPU, so that no file holds a storage larger than its tensor."""
    return {
        name: tensor.detach().to("cpu", dtype).clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write plain tensors: safetensors by that suffix, else a pickle. The file appears whole."""
    with replacing(path) as temporary:
        if path.suffix == SAFETENSORS:
            from safetensors.torch import save_file

            save_file(dict(tensors), temporary)
        else:
            # Through an open file, since else the name of the file would be part of it.
            with open(temporary, "wb") as file:
                torch.save(dict(tensors), file)


def _differences(found: Tensors, wanted: Shapes) -> Iterator[str]:
    missing = [name for name in wanted if name not in found]
    if missing:
        yield f"{len(missing)} of {len(wanted)} tensors are missing, among them {missing[0]}"
    foreign = [name for name in found if name not in wanted]
    if foreign:
        yield f"{len(foreign)} are unknown, among them {foreign[0][:120]}"
    common = [name for name in wanted if name in found]
    odd = [name for name in common if tuple(found[name].shape) != tuple(wanted[name])]
    if odd:
        shapes = f"{tuple(found[odd[0]].shape)}, not {tuple(wanted[odd[0]])}"
        yield f"{len(odd)} have another shape, among them {odd[0]} with {shapes}"
