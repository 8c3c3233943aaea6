"""Options of FRESCO and its presets: the released code, the paper's text. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from crossframe.errors import Problem
from methods.axes import (
    Attention,
    ControlledConfig,
    Guidance,
    NoiseText,
)
from methods.fresco.options import PAPER, Correspondence, Losses, Smoothing
from methods.keyframe_config import Between, KeyFrames
from methods.options import Options, merge

Levels = tuple[Annotated[int, Field(ge=0)], ...]
Factor = Annotated[float, Field(ge=0)]


class CrossFrame(Attention):
    """Cross-frame attention: which tokens of which frames are keys and values, where and when."""

    levels: Levels | None = Field(
        default=(0, 1),
        description="spatial levels that take part, 0 = full latent resolution; null = all",
    )
    blocks: tuple[Literal["down", "mid", "up"], ...] = Field(
        default=("up",), description="parts of the network that take part"
    )
    tokens: Literal["unseen", "all"] = Field(
        default="unseen",
        description="unseen: of each frame only what the frame before it does not show (all of "
        "frame 0), the efficient attention of the paper; all: every token",
    )


class Guided(Options):
    """What the two guidances of attention have in common."""

    on: bool = Field(default=True, description="whether it is done at all")
    factor: Factor = Field(
        default=0.2, description="factor of the logits, one over the paper's lambda; 0 averages"
    )
    levels: Levels | None = Field(
        default=None, description="levels among those of `attention`; null = all of them"
    )


class SpatialGuidance(Guided):
    """Queries re-mixed by the similarities within the source frame."""

    steps: Annotated[int, Field(ge=1)] | None = Field(
        default=1, description="done in the first so many steps; null = in all"
    )


class TemporalGuidance(Guided):
    """Attention results re-mixed along the motion of the source."""

    timesteps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = Field(
        default=(350, 1000),
        description="[lowest, highest] diffusion timestep at which it is done; null = always",
    )

    @model_validator(mode="after")
    def _ordered(self) -> TemporalGuidance:
        if self.timesteps and self.timesteps[0] > self.timesteps[1]:
            raise ValueError("timesteps are [lowest, highest]")
        return self


_COMMON: Mapping[str, Any] = {
    "attention": {"pattern": "full", "tokens": "unseen", "blocks": ["up"]},
    "noise": "shared",
    "step_noise": "independent",
    "steps": 20,
    "strength": 0.75,
    "guidance": {"scale": 7.5},
    "controlnet_scale": 0.7,
    "batch": 8,
}


class FrescoConfig(ControlledConfig):
    """FRESCO: five switches, of which Table 2 of the paper shows six settings.

    `attention.pattern` (cross-frame attention; `individual` is none), `spatial_attention.on`,
    `temporal_attention.on`, `loss.spatial` and `loss.temporal` (0 is off).

    `preset: repo` is the released code (williamyang1991/FRESCO at 736a714) with the settings of its
    example `boxer`, but that every frame is a key frame, where that takes every second one;
    `preset: paper` is the text, and the released value where the text is silent.
    """

    preset: Literal["paper", "repo"] = Field(
        default="repo", description="stands in for every option that is not given"
    )
    attention: CrossFrame = Field(
        default=CrossFrame(), description="cross-frame attention of the UNet"
    )
    spatial_attention: SpatialGuidance = Field(
        default=SpatialGuidance(), description="spatial-guided attention"
    )
    temporal_attention: TemporalGuidance = Field(
        default=TemporalGuidance(), description="temporal-guided attention"
    )
    loss: Losses = Field(default=Losses(), description="feature optimisation")
    smoothing: Smoothing = Field(default=Smoothing(), description="background smoothing")
    correspondence: Correspondence = Field(
        default=Correspondence(), description="flow and occlusion of the source"
    )
    keyframes: KeyFrames = Field(default=KeyFrames(), description="frames that are drawn")
    between: Between = Field(default=Between(), description="frames between key frames")
    batch: Annotated[int, Field(ge=3)] = Field(
        default=8,
        description="key frames drawn together; later batches begin with the first key frame and "
        "the last of the batch before",
    )
    noise: NoiseText = Field(
        default="shared",
        description="initial noise: shared, independent, or mixed:x with the fraction x shared",
    )
    encode: Literal["sample", "mode"] = Field(
        default="sample",
        description="frames as latents, at the start, for the source's features and after pixels "
        "are smoothed: drawn from the autoencoder's posterior, as released, or its mode",
    )
    step_noise: NoiseText = Field(
        default="independent", description="noise added at each step, spelt like noise"
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=20, description="steps of the whole schedule"
    )
    strength: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.75,
        description="share of the steps that are run, from the noised source (SDEdit); 1 starts "
        "from noise",
    )
    guidance: Guidance = Field(default=Guidance(scale=7.5), description="classifier-free guidance")

    def networks(self) -> tuple[str, ...]:
        """Return the networks that shape frames besides the backbone's."""
        return self.correspondence.networks

    def absent(self) -> Sequence[Problem]:
        """Return what these options need and this machine lacks."""
        return self.correspondence.absent()

    @model_validator(mode="after")
    def _guided_levels_take_part(self) -> FrescoConfig:
        among = self.attention.levels
        for name in ("spatial_attention", "temporal_attention"):
            guided = getattr(self, name)
            outside = sorted(set(guided.levels or ()) - set(among or ()))
            if guided.on and outside and among is not None:
                wanted, there = (", ".join(map(str, levels)) for levels in (outside, among))
                raise ValueError(f"{name}.levels has {wanted}, but attention.levels only {there}")
        return self

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "repo": merge(
                _COMMON,
                {
                    "attention": {"levels": [0, 1]},
                    "spatial_attention": {"on": True, "factor": 0.2, "steps": 1},
                    "temporal_attention": {"on": True, "factor": 0.2, "timesteps": [350, 1000]},
                    "keyframes": {"change": "blurred", "last": False},
                },
            ),
            "paper": merge(
                merge(_COMMON, PAPER),
                {
                    "attention": {"levels": None},
                    "spatial_attention": {"on": True, "factor": 0.2, "steps": None},
                    "temporal_attention": {"on": True, "factor": 0.2, "timesteps": None},
                },
            ),
        }
    )
