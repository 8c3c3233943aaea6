"""`net.pth`, and files laid out like it: all five networks in one, by the names of the authors.

Networks of any size are written this way, so that the authors' classes load them with `strict`.
Pickled files are read under weights_only.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.files import read_json, write_json
from methods.hallo.keys import to_own, to_published
from methods.hallo.networks import HalloNets
from methods.hallo.sizes import Sizes, read_sizes
from methods.named_tensors import (
    Tensors,
    differences,
    plain_tensors,
    read_tensors,
    shapes_of,
    write_tensors,
)

CONFIG = "config.json"
"""Beside the file: the sizes of its networks. Without it they are the released ones."""

WHERE = "backbone.net"


def empty_nets(sizes: Sizes) -> HalloNets:
    """Return networks whose tensors have shapes and no values."""
    with torch.device("meta"):
        return HalloNets(sizes)


def published_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what a `net.pth` of these sizes holds; 2,656 as released."""
    return to_published(shapes_of(empty_nets(sizes).state_dict()))


def load_net(path: Path, where: str = WHERE) -> HalloNets:
    """Read the networks of a file onto the CPU, in the arithmetic that the file has.

    Raises UserError, located at `where`, for a file that is absent, broken or holds anything but
    tensors, and for one whose tensors are not exactly those of the sizes beside it.
    """
    beside = path.with_name(CONFIG)
    sizes = read_sizes(read_json(beside), where) if beside.is_file() else Sizes()
    return nets_of(read_tensors(path, where), sizes, where)


def nets_of(tensors: Tensors, sizes: Sizes, where: str = WHERE) -> HalloNets:
    """Return networks of these sizes that hold `tensors`, by the names in `net.pth`.

    Raises UserError, located at `where`, unless there is exactly one tensor for every place.
    """
    nets = empty_nets(sizes)
    wanted = to_published(shapes_of(nets.state_dict()))
    if told := differences(tensors, wanted):
        fix = f"give the whole file of Hallo's networks, with its {CONFIG} where it is not released"
        raise UserError(Problem(where, f"not the networks of Hallo: {told}", fix=fix))
    nets.load_state_dict(to_own(tensors), assign=True)
    return nets


def published_tensors(nets: HalloNets, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return copies of all tensors on the CPU, by the names in `net.pth`."""
    return plain_tensors(to_published(nets.state_dict()), dtype)


def write_net(path: Path, nets: HalloNets, dtype: torch.dtype = torch.float32) -> None:
    """Write networks as safetensors by that suffix, else as a pickle, and their sizes beside it."""
    write_tensors(path, published_tensors(nets, dtype))
    write_json(path.with_name(CONFIG), nets.sizes.plain())
