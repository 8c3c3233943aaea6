"""Options of ControlVideo and its presets: the paper's text, the released code. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from methods.axes import (
    Attention,
    ControlKind,
    ControlNetAttention,
    GroupNormMode,
    Guidance,
    NoiseText,
    Unit,
)
from methods.options import MethodConfig


class ControlVideoConfig(MethodConfig):
    """ControlVideo without its smoother and its sampler for long videos.

    `preset: paper` is the text of the paper; where that is silent (guidance scale, prompts, noise,
    group norm) it stays with the released guidance scale and otherwise with the plain choice.
    `preset: repo` is the released code (YBYBZhang/ControlVideo at 4eac95f): group norm pooled over
    frames, the same noise for every frame, residuals added in place, prompt decoration.
    """

    preset: Literal["paper", "repo"] = Field(
        default="paper", description="stands in for every option that is not given"
    )
    attention: Attention = Field(default=Attention(), description="frame attention of the UNet")
    controlnet_attention: ControlNetAttention = Field(
        default=ControlNetAttention(), description="frame attention of the ControlNets"
    )
    group_norm: GroupNormMode = Field(
        default="per_frame", description="UNet: pooled takes the statistics over all frames"
    )
    controlnet_group_norm: GroupNormMode = Field(
        default="per_frame", description="same, ControlNets"
    )
    residuals_in_place: bool = Field(
        default=False, description="the last ControlNet down residual also enters the middle block"
    )
    noise: NoiseText = Field(
        default="independent",
        description="initial noise: shared, independent, or mixed:x with the fraction x shared",
    )
    step_noise: NoiseText = Field(
        default="independent", description="noise added at each step when eta > 0, spelt like noise"
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(default=50, description="DDIM steps")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="1 starts from noise; below, from the noised source (SDEdit)"
    )
    eta: Unit = Field(default=0.0, description="0 is DDIM, 1 adds as much noise as DDPM")
    guidance: Guidance = Field(default=Guidance(), description="classifier-free guidance")
    controls: tuple[ControlKind, ...] = Field(
        default=("edges",), description="ControlNets whose residuals are summed; [] for none"
    )
    controlnet_scale: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="weight of the ControlNet residuals"
    )
    prompt_suffix: str = Field(default="", description="appended to every prompt, as it stands")
    negative_prompt: str = Field(default="", description="prompt of the unconditional half")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": {
                "attention": {"pattern": "full"},
                "controlnet_attention": {"pattern": "individual"},
                "group_norm": "per_frame",
                "controlnet_group_norm": "per_frame",
                "residuals_in_place": False,
                "noise": "independent",
                "steps": 50,
                "eta": 0.0,
                "guidance": {"scale": 12.5},
                "controlnet_scale": 1.0,
                "prompt_suffix": "",
                "negative_prompt": "",
            },
            "repo": {
                "attention": {"pattern": "full"},
                "controlnet_attention": {"pattern": "individual"},
                "group_norm": "pooled",
                "controlnet_group_norm": "pooled",
                "residuals_in_place": True,
                "noise": "shared",
                "steps": 50,
                "eta": 0.0,
                "guidance": {"scale": 12.5},
                "controlnet_scale": 1.0,
                "prompt_suffix": " ,best quality, extremely detailed, HD, ultra-realistic, 8K, HQ, "
                "masterpiece, trending on artstation, art, smooth",
                # Sic: "difits" is what the released command line sends to the text encoder.
                "negative_prompt": "longbody, lowres, bad anatomy, bad hands, missing fingers, "
                "extra digit, fewer difits, cropped, worst quality, low quality, deformed body, "
                "bloated, ugly, unrealistic",
            },
        }
    )

    @model_validator(mode="after")
    def _each_control_once(self) -> ControlVideoConfig:
        if len(set(self.controls)) < len(self.controls):
            raise ValueError(f"controls lists one kind twice: {', '.join(self.controls)}")
        return self
