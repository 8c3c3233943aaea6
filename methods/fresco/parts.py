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
from methods.ddim import EditX0, Schedule, add_noise
from methods.fresco.config import FrescoConfig
from methods.fresco.correspondence import Flows, correspondence
from methods.fresco.guides import attended_share, guided_layers, guides_at, layer_data
from methods.fresco.hooks import optimised_inputs
from methods.fresco.reference import SourceFeatures, source_features
from methods.fresco.smoothing import background_weight, smooth_background
from methods.networks import Networks
from methods.noise import frame_noise


@dataclass(frozen=True)
class Run:
    """What all batches of a clip have in common.

    scales: guidance scale per step. keys: indices of the key frames in the clip. clean: latents of
    the source at all key frames, (k, 4, h, w). latents: before the first step, the same shape.
    seed: of the sample.
    """

    networks: Networks
    schedule: Schedule
    scales: tuple[float, ...]
    keys: tuple[int, ...]
    clean: Tensor
    latents: Tensor
    seed: int
    config: FrescoConfig

    def noise(self, index: int) -> Tensor:
        """Return the noise of all key frames for step `index`, (k, 4, h, w)."""
        return self._drawn(("step", index), shared_fraction(self.config.step_noise))

    def encoding_noise(self, index: int) -> Tensor | None:
        """Return what frames that are encoded in step `index` are drawn by, None for the mode."""
        return None if self.config.encode == "mode" else self._drawn(("encoding", index), 0.0)

    def _drawn(self, stream: tuple[str | int, ...], shared: float) -> Tensor:
        k, *shape = self.latents.shape
        drawn = frame_noise(self.seed, stream, k, tuple(shape), shared)
        return drawn.to(self.latents.device)


def encode_keys(backbone: Backbone, request: SampleRequest, encode: str) -> Tensor:
    """Return the latents of the key frames, (k, 4, h, w) float32 on the backbone's device.

    request: of the key frames alone. encode: `sample` or `mode` of the posterior.
    """
    if encode == "mode":
        return encode_frames(backbone, request.frames)
    k, _, *sides = request.frames.shape
    height, width = (side // backbone.factor for side in sides)
    shape = (backbone.unet.config.in_channels, height, width)
    noise = frame_noise(request.seed, ("encoding",), k, shape, 0.0)
    return encode_frames(backbone, request.frames, noise)


def start(clean: Tensor, schedule: Schedule, config: FrescoConfig, seed: int) -> Tensor:
    """Return the latents before the first step: pure noise at strength 1, else the noised source.

    clean: latents of the source, (k, 4, h, w).
    """
    k, *shape = clean.shape
    drawn = frame_noise(seed, ("initial",), k, tuple(shape), shared_fraction(config.noise))
    noise = drawn.to(clean.device)
    return noise if config.strength == 1 else add_noise(clean, noise, schedule.alpha_bar[0])


@dataclass(frozen=True)
class BatchParts:
    """What FRESCO adds to the steps of one batch.

    guides: (step index, timestep) -> guides of the attention layers. edit: of the predicted clean
    latents. optimising: a context in which the networks optimise their features. attended: share
    of the batch's tokens that a query attends to, the mean over frames and layers.
    """

    guides: Callable[[int, int], dict[str, TokenGuide]]
    edit: EditX0
    optimising: Callable[[], AbstractContextManager[None]]
    attended: float


def batch_parts(
    backbone: Backbone,
    run: Run,
    request: SampleRequest,
    config: FrescoConfig,
    positions: Sequence[int],
) -> BatchParts:
    """Find the correspondences of a batch, and what follows from them.

    positions: of its frames among the key frames.
    """
    unet, device = run.networks.unet, backbone.device
    chosen = [run.keys[position] for position in positions]
    flows = correspondence(request, config.correspondence, chosen, device=device).to(device)
    frames = request.frames[chosen].to(device)
    features = _features(run, request, config, positions)
    data = layer_data(unet, config, flows, frames, features.tokens, backbone.factor)
    background = background_weight(request, config.smoothing.saliency, chosen)
    if background is not None:
        background = background.to(device)
    inside = background if smooths_features(config) else None
    # A frame by itself has nothing to agree with over time.
    loss = config.loss if len(chosen) > 1 else config.loss.model_copy(update={"temporal": 0.0})
    optimising = partial(optimised_inputs, unet.net, flows, loss, features.blocks, inside)
    idle = not loss.active and inside is None
    return BatchParts(
        partial(guides_at, data, config),
        _pixel_smoother(backbone, run, positions, flows, background),
        nullcontext if idle else optimising,
        attended_share(data, config.attention.pattern, len(chosen)),
    )


def smooths_features(config: FrescoConfig) -> bool:
    """Tell whether the background of features is smoothed."""
    return config.smoothing.features and config.smoothing.saliency != "none"


def edits_features(config: FrescoConfig) -> bool:
    """Tell whether what enters the up blocks is optimised or smoothed."""
    return config.loss.active or smooths_features(config)


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
    run: Run,
    positions: Sequence[int],
    flows: Flows,
    background: Tensor | None,
) -> EditX0:
    steps, members = smoothed_steps(run.schedule, run.config), list(positions)

    def edit(clean: Tensor, index: int) -> Tensor:
        """The clean latents (k, 4, h, w) of step `index`, background smoothed in pixels."""
        if background is None or index not in steps:
            return clean
        pictures = decode_latents(backbone, clean).to(backbone.device)
        smooth = smooth_background(pictures, flows, background)
        noise = run.encoding_noise(index)
        return encode_frames(backbone, smooth, None if noise is None else noise[members])

    return edit


def _features(
    run: Run, request: SampleRequest, config: FrescoConfig, positions: Sequence[int]
) -> SourceFeatures:
    """Features of the source frames that the options need, from the last step's timestep."""
    layers = guided_layers(run.networks.unet, config)
    blocks = config.loss.layers if config.loss.active and config.loss.spatial else ()
    if not (layers or blocks):
        return SourceFeatures()
    clean = run.clean[list(positions)]
    shape = tuple(int(side) for side in clean.shape[1:])
    noise = frame_noise(request.seed, ("reference",), len(request.frames), shape, 0.0)
    return source_features(
        run.networks,
        clean,
        noise[[run.keys[position] for position in positions]].to(clean.device),
        run.schedule.timesteps[-1],
        run.schedule.alpha_bar[-1],
        layers=layers,
        blocks=blocks,
    )
