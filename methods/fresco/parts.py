"""What FRESCO adds to the steps of a batch of key frames, found before the first of them.

Shapes: k key frames of the clip, n of the batch, latents (n, 4, h, w) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from methods.attention import TokenGuide
from methods.axes import shared_fraction
from methods.backbones import Backbone, decode_latents, encode_frames
from methods.base import SampleRequest
from methods.ddim import EditX0, Schedule
from methods.fresco.config import FrescoConfig
from methods.fresco.correspondence import Flows, correspondence
from methods.fresco.guides import guided_layers, guides_at, layer_data
from methods.fresco.hooks import optimised_inputs
from methods.fresco.reference import SourceFeatures, source_features
from methods.fresco.smoothing import background_weight, smooth_background
from methods.networks import Networks
from methods.noise import frame_noise


@dataclass(frozen=True)
class Run:
    """What all batches of a clip have in common.

    scales: guidance scale per step. latents: of all key frames before the first step,
    (k, 4, h, w). seed: of the sample. step_noise: `shared`, `independent` or `mixed:x`.
    """

    networks: Networks
    schedule: Schedule
    scales: tuple[float, ...]
    latents: Tensor
    seed: int
    step_noise: str

    def noise(self, index: int) -> Tensor:
        """Return the noise of all key frames for step `index`, (k, 4, h, w)."""
        k, *shape = self.latents.shape
        shared = shared_fraction(self.step_noise)
        drawn = frame_noise(self.seed, ("step", index), k, tuple(shape), shared)
        return drawn.to(self.latents.device)


@dataclass(frozen=True)
class BatchParts:
    """What FRESCO adds to the steps of one batch.

    guides: (step index, timestep) -> guides of the attention layers. edit: of the predicted clean
    latents. optimising: a context in which the networks optimise their features.
    """

    guides: Callable[[int, int], dict[str, TokenGuide]]
    edit: EditX0
    optimising: Callable[[], AbstractContextManager[None]]


def batch_parts(
    backbone: Backbone,
    run: Run,
    request: SampleRequest,
    config: FrescoConfig,
    members: Sequence[int],
) -> BatchParts:
    """Find the correspondences of a batch, and what follows from them.

    members: indices of its frames in the clip.
    """
    unet, chosen = run.networks.unet, list(members)
    flows = correspondence(request, config.correspondence, chosen).to(backbone.device)
    frames = request.frames[chosen].to(backbone.device)
    features = _features(backbone, run, request, config, chosen)
    data = layer_data(unet, config, flows, frames, features.tokens, backbone.factor)
    background = background_weight(request, config.smoothing.saliency, chosen)
    if background is not None:
        background = background.to(backbone.device)
    inside = background if config.smoothing.features else None
    # A frame by itself has nothing to agree with over time.
    loss = config.loss if len(chosen) > 1 else config.loss.model_copy(update={"temporal": 0.0})
    optimising = partial(optimised_inputs, unet.net, flows, loss, features.blocks, inside)
    idle = not loss.active and inside is None
    return BatchParts(
        partial(guides_at, data, config),
        _pixel_smoother(backbone, run.schedule, config, flows, background),
        nullcontext if idle else optimising,
    )


def smoothed_steps(schedule: Schedule, config: FrescoConfig) -> range:
    """Return the steps, counted from the first that is run, whose pixels are smoothed."""
    if config.smoothing.pixels is None:
        return range(0)
    skipped = config.steps - len(schedule)
    shares = (round((skipped + index) / config.steps, 9) for index in range(len(schedule)))
    start, end = config.smoothing.pixels
    inside = [index for index, share in enumerate(shares) if start <= share < end]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def _pixel_smoother(
    backbone: Backbone,
    schedule: Schedule,
    config: FrescoConfig,
    flows: Flows,
    background: Tensor | None,
) -> EditX0:
    steps = smoothed_steps(schedule, config)

    def edit(clean: Tensor, index: int) -> Tensor:
        if background is None or index not in steps:
            return clean
        pictures = decode_latents(backbone, clean).to(backbone.device)
        return encode_frames(backbone, smooth_background(pictures, flows, background))

    return edit


def _features(
    backbone: Backbone,
    run: Run,
    request: SampleRequest,
    config: FrescoConfig,
    members: Sequence[int],
) -> SourceFeatures:
    """Features of the source frames that the options need, from the last step's timestep."""
    layers = guided_layers(run.networks.unet, config)
    blocks = config.loss.layers if config.loss.active and config.loss.spatial else ()
    if not (layers or blocks):
        return SourceFeatures()
    chosen = list(members)
    clean = encode_frames(backbone, request.frames[chosen])
    shape = tuple(int(side) for side in clean.shape[1:])
    noise = frame_noise(request.seed, ("reference",), len(request.frames), shape, 0.0)
    return source_features(
        run.networks,
        clean,
        noise[chosen].to(clean.device),
        run.schedule.timesteps[-1],
        run.schedule.alpha_bar[-1],
        layers=layers,
        blocks=blocks,
    )
