"""The interleaved-frame smoother: an edit of the predicted clean latents (paper, Algorithm 1).

Decode, replace every other frame by the middle of its neighbours, encode all frames again; the step
then goes on with the noise it had predicted. Frames pass through in order, a chunk at a time, each
decoded once, so that memory does not depend on the length of the video.

Shapes: f frames, latents (f, 4, h, w) float32, pictures (n, 3, H, W) float32 in [0, 1] on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from methods.backbones import Backbone, decode_latents, encode_frames
from methods.base import SampleRequest
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.layout import Boundary, Replaced, middle_frames, replaced_frames
from methods.controlvideo.options import Smoother
from methods.interpolators import INTERPOLATORS, Interpolator, interpolator_weights
from methods.noise import frame_noise

# Latents (n, 4, h, w) -> pictures.
Decode = Callable[[Tensor], Tensor]
# Pictures, and noise (n, 4, h, w) to sample the posterior with, or None for its mode -> latents.
Encode = Callable[[Tensor, Tensor | None], Tensor]
# Index of the step -> noise (f, 4, h, w), or None.
EncodeNoise = Callable[[int], Tensor | None]


@dataclass(frozen=True)
class FrameSmoother:
    """An `EditX0`: smooths the steps named in `replaced`, leaves the others alone.

    replaced: by step index of the run, which frames are replaced.
    boundary: what becomes of end frames (`layout.middle_frames`).
    blend: weight of the smoothed latents against the given ones.
    chunk: frames at work at once.
    """

    decode: Decode
    encode: Encode
    interpolator: Interpolator
    replaced: Mapping[int, Replaced]
    boundary: Boundary = "pull"
    blend: float = 1.0
    noise: EncodeNoise = field(default=lambda index: None)
    chunk: int = 8

    def __call__(self, clean: Tensor, index: int) -> Tensor:
        """Clean latents (f, 4, h, w) as predicted at step `index` -> those to step towards."""
        if index not in self.replaced:
            return clean
        smoothed = self._smooth(clean, self.replaced[index], self.noise(index))
        return smoothed if self.blend == 1 else torch.lerp(clean, smoothed, self.blend)

    def _smooth(self, clean: Tensor, replaced: Replaced, noise: Tensor | None) -> Tensor:
        middles = {
            frame: (left, right)
            for left, right, frame in middle_frames(len(clean), replaced, self.boundary)
        }
        encoded = []
        shown: dict[int, Tensor] = {}
        for start in range(0, len(clean), self.chunk):
            frames = range(start, min(start + self.chunk, len(clean)))
            # The frame before the chunk is still known: it may be the left neighbour of the first.
            shown = {frame: picture for frame, picture in shown.items() if frame >= start - 1}
            self._show(shown, clean, range(start, min(frames.stop + 1, len(clean))))
            drawn = None if noise is None else noise[start : frames.stop]
            encoded.append(self.encode(self._replace(shown, frames, middles), drawn).to(clean))
        return torch.cat(encoded)

    def _show(self, shown: dict[int, Tensor], clean: Tensor, frames: range) -> None:
        """Decode those of `frames` that are not known yet."""
        unseen = [frame for frame in frames if frame not in shown]
        if unseen:
            shown.update(zip(unseen, self.decode(clean[unseen]), strict=True))

    def _replace(
        self, shown: Mapping[int, Tensor], frames: range, middles: Mapping[int, tuple[int, int]]
    ) -> Tensor:
        pictures = torch.stack([shown[frame] for frame in frames])
        due = [frame for frame in frames if frame in middles]
        if due:
            left, right = (torch.stack([shown[middles[f][side]] for f in due]) for side in (0, 1))
            pictures[[frame - frames.start for frame in due]] = self.interpolator.middle(
                left, right
            )
        return pictures


def make_smoother(
    backbone: Backbone, request: SampleRequest, config: ControlVideoConfig, taken: int
) -> FrameSmoother | None:
    """Return the smoother of a run of `taken` steps, or None when it is off.

    Raises NotAvailable when the interpolator's weights are absent, UserError when they are not
    those that the options name.
    """
    chosen = config.smoother
    if not chosen.on:
        return None
    _check_weights(chosen)
    skipped = config.steps - taken
    return FrameSmoother(
        decode=partial(decode_latents, backbone),
        encode=partial(encode_frames, backbone),
        interpolator=INTERPOLATORS.load(chosen.interpolator)(backbone.device),
        replaced={
            index - skipped: replaced_frames(index, config.steps, chosen.parity)
            for index in config.smoothed_steps
        },
        boundary=chosen.boundary,
        blend=chosen.blend,
        noise=_posterior_noise(backbone, request, sampled=chosen.encode == "sample"),
        chunk=backbone.chunk,
    )


def _check_weights(chosen: Smoother) -> None:
    found = interpolator_weights(chosen.interpolator)
    if chosen.weights and found and found != chosen.weights:
        what = f"the weights of {chosen.interpolator} that are here have the sha256 {found}"
        fix = "leave smoother.weights out to use them"
        raise UserError(Problem("smoother.weights", what, chosen.weights, fix))


def _posterior_noise(backbone: Backbone, request: SampleRequest, *, sampled: bool) -> EncodeNoise:
    """Independent noise for each frame and step, or none at all."""
    f, _, height, width = request.frames.shape
    channels = backbone.unet.config.in_channels
    shape = (channels, height // backbone.factor, width // backbone.factor)

    def draw(index: int) -> Tensor | None:
        return frame_noise(request.seed, ("smoother", index), f, shape, 0.0) if sampled else None

    return draw
