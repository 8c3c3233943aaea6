"""Options of Text2Video-Zero and its presets, with controls and with text alone. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from methods.axes import (
    Attention,
    ControlledConfig,
    Guidance,
    NoiseText,
    Unit,
)
from methods.options import Options

Text = Mapping[str, Any]


class Motion(Options):
    """The motion field: frame k begins as the first one, moved k times as far (section 3.3.1)."""

    on: bool = Field(default=False, description="otherwise all frames begin as `noise` says")
    x: float = Field(default=12.0, description="pixels per frame, of a picture 512 pixels wide")
    y: float = Field(default=12.0, description="pixels per frame, of a picture 512 pixels high")
    t0: Annotated[int, Field(ge=0)] = Field(
        default=44, description="the first frame is moved when so many steps and one more remain"
    )
    t1: Annotated[int, Field(ge=1)] = Field(
        default=47, description="the others are noised back to where so many and one more remain"
    )
    grid: Literal["centred", "repo"] = Field(
        default="centred", description="repo: pictures are read half a pixel (of 512) off"
    )
    forward: Literal["exact", "repo"] = Field(
        default="exact",
        description="noise between two steps; repo multiplies the alphas of one timestep earlier",
    )


_CONTROLLED: Text = {
    "attention": {"pattern": "first"},
    "controlnet_attention": {"pattern": "first"},
    "noise": "shared",
    "steps": 20,
    "eta": 0.0,
    "guidance": {"scale": 9.0},
    "controls": ("edges",),
    "controlnet_scale": 1.0,
    "residuals_in_place": False,
    "motion": {"on": False},
}
_FROM_TEXT: Text = {
    **_CONTROLLED,
    "steps": 50,
    "guidance": {"scale": 7.5},
    "controls": (),
    "motion": {
        "on": True,
        "x": 12.0,
        "y": 12.0,
        "t0": 44,
        "t1": 47,
        "grid": "centred",
        "forward": "exact",
    },
}


class Text2VideoZeroConfig(ControlledConfig):
    """Text2Video-Zero with ControlNets (`paper`, `repo`) and from text (`paper_text`, `repo_text`).

    The presets of the paper and of the released code (Picsart-AI-Research/Text2Video-Zero at
    fd76734) differ in what the code does besides: residuals added in place, as diffusers did then,
    and two details of the motion field. Its chunks of eight frames repeat the first frame with the
    same noise, which changes no frame, so that all frames are made at once here.
    """

    preset: Literal["paper", "repo", "paper_text", "repo_text"] = Field(
        default="paper", description="stands in for every option that is not given"
    )
    attention: Attention = Field(
        default=Attention(pattern="first"), description="frame attention of the UNet"
    )
    controlnet_attention: Attention = Field(
        default=Attention(pattern="first"), description="frame attention of the ControlNets"
    )
    residuals_in_place: bool = Field(
        default=False, description="the last ControlNet down residual also enters the middle block"
    )
    noise: NoiseText = Field(
        default="shared",
        description="initial noise: shared, independent, or mixed:x with the fraction x shared",
    )
    motion: Motion = Field(default=Motion(), description="motion field on the latents")
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(default=20, description="DDIM steps")
    eta: Unit = Field(default=0.0, description="0 is DDIM, 1 adds as much noise as DDPM")
    guidance: Guidance = Field(default=Guidance(scale=9.0), description="classifier-free guidance")

    PRESETS: ClassVar[Mapping[str, Text]] = MappingProxyType(
        {
            "paper": _CONTROLLED,
            "repo": {**_CONTROLLED, "residuals_in_place": True},
            "paper_text": _FROM_TEXT,
            "repo_text": {
                **_FROM_TEXT,
                "motion": {**_FROM_TEXT["motion"], "grid": "repo", "forward": "repo"},
            },
        }
    )

    @model_validator(mode="after")
    def _possible(self) -> Text2VideoZeroConfig:
        if self.motion.on and not self.motion.t0 < self.motion.t1 < self.steps:
            t0, t1 = self.motion.t0, self.motion.t1
            raise ValueError(
                f"motion.t0 < motion.t1 < steps is needed, here {t0}, {t1}, {self.steps}; "
                "the published 44 and 47 are of 50 steps"
            )
        return self
