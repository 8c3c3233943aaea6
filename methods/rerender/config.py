"""Options of Rerender-A-Video, as far as it is here. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from crossframe.errors import Problem
from methods.axes import (
    Attention,
    ControlledConfig,
    Guidance,
    NoiseText,
    PatternText,
    Unit,
)
from methods.fresco.options import Correspondence
from methods.keyframe_config import Between, KeyFrames
from methods.options import Options


class DecoderAttention(Attention):
    """Cross-frame attention of Rerender: the first and the previous key frame, in the up blocks."""

    pattern: PatternText = Field(
        default="first+previous",
        description="frames whose tokens are keys and values (methods/patterns.py)",
    )
    blocks: tuple[Literal["down", "mid", "up"], ...] = Field(
        default=("up",), description="parts of the network that take part"
    )


class Fusion(Options):
    """Shape-aware fusion of predicted clean latents (paper eq. 7)."""

    on: bool = Field(default=True, description="whether it is done at all")
    anchor: Literal["first", "previous"] = Field(
        default="first", description="key frame whose latents are carried to the others"
    )
    steps: tuple[Unit, Unit] = Field(
        default=(0.0, 0.1), description="done while the share of the steps done is in [from, to)"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Fusion:
        if self.steps[0] > self.steps[1]:
            raise ValueError("steps are [from, to]")
        return self


class RerenderConfig(ControlledConfig):
    """Rerender-A-Video's cross-frame attention and shape-aware fusion on key frames.

    Defaults are those of the paper and its code (20 DDIM steps, every tenth frame a key frame). Not
    here: pixel-aware fusion, fidelity encoding and colour-aware normalisation of its later steps.
    """

    attention: DecoderAttention = Field(
        default=DecoderAttention(), description="cross-frame attention of the UNet"
    )
    fusion: Fusion = Field(default=Fusion(), description="shape-aware fusion")
    correspondence: Correspondence = Field(
        default=Correspondence(), description="flow and occlusion of the source"
    )
    keyframes: KeyFrames = Field(
        default=KeyFrames(min=10, max=10), description="frames that are drawn"
    )
    between: Between = Field(default=Between(), description="frames between key frames")
    noise: NoiseText = Field(
        default="shared",
        description="initial noise: shared, independent, or mixed:x with the fraction x shared",
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(default=20, description="DDIM steps")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.75, description="1 starts from noise; below, from the noised source (SDEdit)"
    )
    guidance: Guidance = Field(default=Guidance(scale=7.5), description="classifier-free guidance")

    def networks(self) -> tuple[str, ...]:
        """Return the networks that shape frames besides the backbone's."""
        return self.correspondence.networks

    def absent(self) -> Sequence[Problem]:
        """Return what these options need and this machine lacks."""
        return self.correspondence.absent()
