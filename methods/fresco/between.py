"""Frames between key frames: both neighbours carried to the moment, and blended.

Shapes: f frames of the clip, k key frames; pictures (3, h, w) in [0, 1] as tensors, (h, w, 3) in
`methods.blending` and `methods.ebsynth`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossframe.flow.fields import warp_backward
from methods.base import SampleRequest
from methods.blending import Picture, histogram_mix, mix, poisson, second_share
from methods.ebsynth import guide_pictures, require_ebsynth, synthesise
from methods.fresco.correspondence import correspondence
from methods.fresco.options import Correspondence
from methods.keyframe_config import Between


@dataclass(frozen=True)
class Way:
    """From a frame to one of its key frames.

    key: index of the key frame in the clip. flow: (2, h, w) pixels, on the grid of the frame.
    visible: (h, w) bool, pixels that the key frame shows.
    """

    key: int
    flow: Tensor
    visible: Tensor


def fill_between(
    request: SampleRequest,
    keys: Sequence[int],
    drawn: Tensor,
    flow: Correspondence,
    options: Between,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return all frames of a clip, (f, 3, h, w), from its key frames, which stay as they are.

    keys: indices of the key frames, ascending, the first is 0. drawn: the key frames, (k, 3, h, w)
    in [0, 1] on the CPU. Frames after the last key frame follow from that one. device: where a
    network of optical flow runs.

    Raises UserError when the flow or EbSynth cannot be had.
    """
    pictures = dict(zip(keys, drawn, strict=True))
    frames = [
        pictures[frame]
        if frame in pictures
        else _fill(request, ways(request, keys, frame, flow, device), pictures, frame, options)
        for frame in range(len(request.frames))
    ]
    return torch.stack(frames)


def require_painter(options: Between, keys: Sequence[int], frames: int) -> None:
    """Raise NotAvailable when EbSynth shall paint frames between key frames and is not there."""
    if options.by == "ebsynth" and len(keys) < frames:
        require_ebsynth(options.ebsynth)


def ways(
    request: SampleRequest,
    keys: Sequence[int],
    frame: int,
    flow: Correspondence,
    device: torch.device | str = "cpu",
) -> tuple[Way, ...]:
    """Return the ways from a frame to the key frame before it and, if there is one, after it."""
    after = bisect_right(keys, frame)
    around = [keys[after - 1], frame, *keys[after : after + 1]]
    flows = correspondence(request, flow, around, cyclic=False, device=device)
    found = [Way(around[0], flows.backward[0], ~flows.hidden_backward[0])]
    if len(around) == 3:
        found.append(Way(around[2], flows.forward[1], ~flows.hidden_forward[1]))
    return tuple(found)


def _fill(
    request: SampleRequest,
    found: Sequence[Way],
    pictures: dict[int, Tensor],
    frame: int,
    options: Between,
) -> Tensor:
    carried = [_carry(request, way, pictures[way.key], frame, options) for way in found]
    if len(found) == 1:
        return _to_tensor(carried[0])
    (before, after), (first, second) = found, carried
    position = (frame - before.key) / (after.key - before.key)
    share = second_share(before.visible.numpy(), after.visible.numpy(), position)
    if options.colours == "histogram":
        ends = [_to_picture(pictures[way.key]) for way in found]
        made = histogram_mix(first, second, share, ends, position)
    else:
        made = mix(first, second, share)
    if options.poisson:
        made = poisson(made, first, second, share)
    return _to_tensor(made)


def _carry(
    request: SampleRequest, way: Way, drawn: Tensor, frame: int, options: Between
) -> Picture:
    """A key frame as it looks at another moment, (h, w, 3)."""
    warped = _to_picture(warp_backward(drawn[None], way.flow[None])[0])
    if options.by == "flow":
        return warped
    key, now = (_to_picture(request.frames[i]) for i in (way.key, frame))
    style, flow = _to_picture(drawn), way.flow.permute(1, 2, 0).numpy()
    return synthesise(options.ebsynth, style, guide_pictures(key, now, style, flow, warped))


def _to_picture(image: Tensor) -> Picture:
    return image.permute(1, 2, 0).contiguous().numpy()


def _to_tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1)
