"""Options of the inversion-only baseline. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from methods.axes import Attention, GroupNormMode, Guidance, PatternText
from methods.inversion_config import Inversion
from methods.options import MethodConfig


class OwnFrameAttention(Attention):
    """Frame attention of the UNet; each frame on its own unless said otherwise."""

    pattern: PatternText = Field(
        default="individual",
        description="frames whose tokens are keys and values (methods/patterns.py)",
    )


class InversionOnlyConfig(MethodConfig):
    """DDIM inversion of the source, then sampling with another prompt; the network is as it is."""

    attention: OwnFrameAttention = Field(
        default=OwnFrameAttention(), description="frame attention of the UNet"
    )
    group_norm: GroupNormMode = Field(
        default="per_frame", description="pooled takes the statistics over all frames"
    )
    inversion: Inversion = Field(
        default=Inversion(prompt="source"), description="how the source becomes noise"
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(default=50, description="DDIM steps")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="share of the steps that are inverted and sampled again"
    )
    guidance: Guidance = Field(
        default=Guidance(scale=7.5), description="classifier-free guidance while sampling"
    )
    negative_prompt: str = Field(default="", description="prompt of the unconditional half")

    def shared_work(self, seed: int) -> Mapping[str, Any]:
        """Return what decides the inversion."""
        network = [self.attention, self.group_norm]
        return {"inversion": [network, self.inversion, self.steps, self.strength]}
