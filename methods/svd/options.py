"""Option groups of the axes of Stable Video Diffusion (SVD, arXiv 2311.15127). Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from methods.axes import PatternText, Unit
from methods.options import Options

Block = Literal["down", "mid", "up"]
BLOCKS: tuple[Block, ...] = ("down", "mid", "up")


def _ordered(share: tuple[float, float]) -> tuple[float, float]:
    if share[0] >= share[1]:
        raise ValueError("a part of the run is [from, to] with 0 <= from < to <= 1")
    return share


Share = Annotated[tuple[Unit, Unit], AfterValidator(_ordered)]


def within(share: tuple[float, float], step: int, steps: int) -> bool:
    """Whether step 0 .. steps-1 (noisiest first) lies in a part of the run, by its middle.

    A middle on a border belongs to the later part, so that adjoining parts hold each step once.
    """
    return share[0] <= (step + 0.5) / steps < share[1]


class FrameRamp(Options):
    """Guidance scale of each frame; SVD raises it from the first frame to the last (app. D.4).

    With u = i / (f - 1) the share of the way from min to max is, by shape: constant 1/2,
    linear u, cosine (1 - cos(pi u)) / 2, triangle 1 - |2u - 1|. The first three have the mean
    (min + max) / 2 over the frames for any f; the triangle has it only in the limit of many
    frames (12/25 of the way at 25, 6/13 at 14): give `mean` to compare shapes at equal strength.
    """

    min: Annotated[float, Field(ge=0)] = Field(default=1.0, description="lowest scale")
    max: Annotated[float, Field(ge=0)] = Field(
        default=3.0, description="highest scale; below min the ramp falls"
    )
    shape: Literal["constant", "linear", "cosine", "triangle"] = Field(
        default="linear",
        description="course over the frames; constant is the midpoint of min and max, which is "
        "the mean of linear and cosine; triangle rises to the middle frame and falls again, as "
        "for the orbits of SV3D (arXiv 2403.12008)",
    )
    mean: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="mean over the frames, to which the whole course is shifted, so that shapes "
        "are compared at equal mean; null = as min, max and shape give it",
    )
    values: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        default=None, description="a scale for each frame, in place of min, max and shape"
    )
    reversed: bool = Field(default=False, description="the last frame comes first")
    steps: Share = Field(
        default=(0.0, 1.0),
        description="[from, to], part of the run with guidance, 0 = noisiest; outside of it the "
        "scale is 1, which needs no unconditional half (interval guidance, arXiv 2404.07724)",
    )

    @model_validator(mode="after")
    def _some_values(self) -> FrameRamp:
        if self.values is not None and not self.values:
            raise ValueError("values needs a scale for each frame")
        return self

    @model_validator(mode="after")
    def _mean_high_enough(self) -> FrameRamp:
        """Linear and cosine here; what depends on the number of frames, when that is known."""
        least = abs(self.max - self.min) / 2
        known = self.values is None and self.shape in ("linear", "cosine")
        if known and self.mean is not None and self.mean < least:
            raise ValueError(f"a mean below {least:g}, half of max - min, makes scales negative")
        return self


class Where(Options):
    """Layers of a network that take part."""

    levels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        description="spatial levels that take part, 0 = full resolution of the network (latents "
        "in the UNet, pixels in the decoder), the middle belongs to the deepest; null = all",
    )
    blocks: tuple[Block, ...] = Field(
        default=BLOCKS, min_length=1, description="parts of the network that take part"
    )


class Blend(Where):
    """Weight of the temporal layers where a network mixes them with the spatial ones.

    diffusers' `AlphaBlender` holds a learned logit for each of 38 places in the UNet and 14 in the
    decoder. All values here are the weight of the temporal branch in both networks: 0 leaves the
    frames alone. Its own alpha is the weight of the spatial branch in the UNet and of the temporal
    one in the decoder.
    """

    value: Unit | None = Field(
        default=None, description="weight of the temporal branch, in place of the learned one"
    )
    shift: float = Field(
        default=0.0, description="added to the logit of the learned temporal weight"
    )
    gain: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="factor of the learned temporal weight: 0 = spatial layers only, 1 = as "
        "learned, above 1 = extrapolated",
    )
    layers: tuple[Literal["resnet", "attention"], ...] = Field(
        default=("resnet", "attention"),
        min_length=1,
        description="places of mixing that take part; the decoder has none in its attention",
    )
    networks: tuple[Literal["unet", "vae"], ...] = Field(
        default=("unet",), min_length=1, description="networks that take part"
    )

    @property
    def is_stock(self) -> bool:
        """Whether the learned weights stay as they are."""
        return self.value is None and self.shift == 0 and self.gain == 1

    @model_validator(mode="after")
    def _one_change(self) -> Blend:
        if (self.value is not None) + (self.shift != 0) + (self.gain != 1) > 1:
            raise ValueError("give one of value, shift and gain")
        return self


class SpatialAttention(Where):
    """Frame attention in the spatial self-attention: across pixels, in the frames of a pattern."""

    pattern: PatternText = Field(
        default="individual",
        description="frames whose tokens are keys and values (methods/patterns.py); individual "
        "is the released network, and a pattern of k frames costs k times its scores",
    )
    alpha: Unit = Field(
        default=1.0, description="weight of the cross-frame result against the frame's own"
    )

    @property
    def is_stock(self) -> bool:
        """Whether every frame attends to itself alone, as in the released network."""
        return self.pattern == "individual" or self.alpha == 0


class TemporalAttention(Where):
    """Which frames see each other in the temporal self-attention: at one pixel, over time."""

    pattern: PatternText = Field(
        default="full",
        description="frames that are keys and values (methods/patterns.py); full is the released "
        "network, window[k] lets a frame see k frames to either side. Temporal convolutions and "
        "norms see all frames in any case",
    )
    alpha: Unit = Field(
        default=1.0, description="weight of the pattern's result against the frame's own value"
    )

    @property
    def is_stock(self) -> bool:
        """Whether all frames see each other, as in the released network."""
        return self.pattern == "full" and self.alpha == 1


class FrameAttention(Options):
    """Attention of frames to each other at the two places where SVD can have it.

    Cross-attention is no such place: it has one key, so its result is the same for every query.
    """

    spatial: SpatialAttention = Field(
        default=SpatialAttention(), description="self-attention over the pixels"
    )
    temporal: TemporalAttention = Field(
        default=TemporalAttention(), description="self-attention over the frames"
    )


class Decoding(Options):
    """How the temporal decoder gets its frames. All of it changes the result."""

    chunk: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="frames that are decoded together; null = all. The released scripts take 14, "
        "diffusers all; memory grows with it",
    )
    overlap: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="frames that neighbouring chunks share, cross-faded; 0 = chunks side by side",
    )
    framewise: bool = Field(
        default=False,
        description="without the decoder's temporal layers and its last convolution over time, "
        "so that chunks make no difference",
    )

    @model_validator(mode="after")
    def _overlaps_less(self) -> Decoding:
        if self.chunk is None and self.overlap:
            raise ValueError("overlap needs a chunk")
        if self.chunk is not None and self.overlap >= self.chunk:
            raise ValueError("overlap is less than chunk")
        return self


class LongVideo(Options):
    """Videos of more frames than the network was trained with, predicted in windows.

    In every step each window is predicted by itself and the predictions are fused (MultiDiffusion,
    arXiv 2302.08113, over time). Each window counts its frames from 0, as the network learned it,
    and is given the same image.
    """

    window: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="frames that are predicted together; null = all"
    )
    overlap: Annotated[int, Field(ge=0)] = Field(
        default=0, description="frames that neighbouring windows share, at least"
    )
    fusion: Literal["mean", "pyramid", "nearest"] = Field(
        default="pyramid",
        description="weight of a frame in each of its windows: equal; growing towards the centre "
        "of the window, which fades linearly; or all of it in the window whose centre is nearest",
    )
    noise: Literal["independent", "rescheduled"] = Field(
        default="independent",
        description="first latents: drawn for each frame, or the noise of the first window "
        "repeated, shuffled within each stride (FreeNoise, arXiv 2310.15169)",
    )

    @model_validator(mode="after")
    def _whole(self) -> LongVideo:
        if self.window is None and (self.overlap or self.noise == "rescheduled"):
            raise ValueError("overlap and rescheduled noise need a window")
        if self.window is not None and self.overlap >= self.window:
            raise ValueError("overlap is less than window")
        return self


_Every = Annotated[int, Field(ge=1)]


class Reuse(Options):
    """Results of layers that are kept over several steps: approximate, except `cross`.

    Distances in steps as in Pyramid Attention Broadcast (arXiv 2408.12588): a layer is computed in
    every n-th step and its result taken again in the steps between. Where guidance begins or ends,
    the batch has another size, for which nothing was kept yet.
    """

    spatial: _Every = Field(default=1, description="spatial self-attention every n-th step")
    temporal: _Every = Field(default=1, description="temporal self-attention every n-th step")
    deep: _Every = Field(
        default=1,
        description="all blocks below the outermost of the UNet every n-th step (DeepCache, "
        "arXiv 2312.00858, cut between blocks)",
    )
    cross: bool = Field(
        default=False,
        description="cross-attention, whose only key is the image, as the constant that it is: "
        "the same result up to rounding",
    )
    steps: Share = Field(
        default=(0.0, 1.0),
        description="[from, to], part of the run in which results are taken again, 0 = noisiest",
    )


class Memory(Options):
    """What saves memory and changes no result beyond rounding.

    `decoding.chunk`, which saves most, changes the frames and stands with the method's options.
    """

    forward_chunk: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="frames that go through a feed-forward layer together, a divisor of the "
        "number of frames; null = all",
    )
    offload: bool = Field(
        default=False, description="a network is on the device only while it works"
    )
