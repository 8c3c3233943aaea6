"""Layers of the UNet and the decoder of Stable Video Diffusion, chosen by where they stand.

A level is a spatial resolution: 0 is the full one (latents in the UNet, pixels in the decoder),
each next one half of it; the middle block belongs to the deepest.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn

from crossframe.errors import Problem, UserError
from methods.svd.options import Where

_NAME = re.compile(r"(?:decoder\.)?(down|mid|up)_blocks?\.(?:(\d+)\.)?")


class Place(NamedTuple):
    """Where a layer stands: `down`, `mid` or `up`, and its level."""

    block: str
    level: int


def place_of(layer: str, depth: int) -> Place | None:
    """Return the place of a layer, by its name, in a network of `depth` levels; None elsewhere."""
    match = _NAME.match(layer)
    if match is None:
        return None
    index = int(match[2] or 0)
    level = {"down": index, "mid": depth - 1, "up": depth - 1 - index}[match[1]]
    return Place(match[1], level)


def depth_of(net: nn.Module) -> int:
    """Return the number of levels of a UNet, or of the decoder of an autoencoder."""
    decoder = getattr(net, "decoder", net)
    return len(list(decoder.get_submodule("up_blocks").children()))


def choose_layers(
    net: nn.Module, where: Where, name: re.Pattern[str], what: str
) -> dict[str, nn.Module]:
    """Return the modules whose names match `name` (searched) and which stand at `where`.

    what: the option that chooses them, for the message.

    Raises UserError when the network lacks a level, or has no such layer there.
    """
    depth = depth_of(net)
    outside = [level for level in where.levels or () if level >= depth]
    if outside:
        missing = f"the network has no level {', '.join(map(str, outside))}"
        allowed = f"0..{depth - 1}, 0 = full resolution"
        raise UserError(Problem(f"{what}.levels", missing, allowed))
    chosen = {
        layer: module
        for layer, module in net.named_modules()
        if name.search(layer) and _stands(place_of(layer, depth), where)
    }
    if not chosen:
        levels = "all levels" if where.levels is None else f"levels {list(where.levels)}"
        nowhere = f"no such layer in {levels}, blocks {', '.join(where.blocks)}"
        raise UserError(Problem(what, f"{type(net).__name__}: {nowhere}"))
    return chosen


def _stands(place: Place | None, where: Where) -> bool:
    if place is None or place.block not in where.blocks:
        return False
    return where.levels is None or place.level in where.levels
