"""Options of ControlVideo and its presets: the paper's text, the released code. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from crossframe.errors import UserError
from methods.options import MethodConfig, Options
from methods.patterns import parse_pattern

ControlKind = Literal["edges", "depth", "canny"]
GroupNormMode = Literal["pooled", "per_frame"]
Unit = Annotated[float, Field(ge=0, le=1)]


def _pattern_text(value: Any) -> str:
    """Canonical text of a pattern in any of its spellings."""
    try:
        pattern = parse_pattern(value)
    except UserError as error:
        problem = error.problems[0]
        hint = f"; {problem.fix}" if problem.fix else ""
        raise ValueError(f"{problem.what}{hint}; allowed: {problem.allowed}") from error
    if pattern.needs_bank:
        raise ValueError("ControlVideo has no reference image that `reference` could attend to")
    return str(pattern)


def shared_fraction(noise: str) -> float:
    """Return the share of the noise variance common to all frames: 1 shared, 0 independent.

    Raises ValueError for anything but `shared`, `independent` and `mixed:x` with 0 <= x <= 1.
    """
    named = {"shared": 1.0, "independent": 0.0}
    if noise in named:
        return named[noise]
    kind, _, number = noise.partition(":")
    try:
        fraction = float(number)
    except ValueError:
        fraction = -1.0
    if kind != "mixed" or not 0 <= fraction <= 1:
        raise ValueError(f"{noise!r} is not one of shared, independent, mixed:x with 0 <= x <= 1")
    return fraction


def _noise_text(value: str) -> str:
    fraction = shared_fraction(value)
    return {1.0: "shared", 0.0: "independent"}.get(fraction, f"mixed:{fraction!r}")


PatternText = Annotated[str, BeforeValidator(_pattern_text)]
NoiseText = Annotated[str, AfterValidator(_noise_text)]


class Attention(Options):
    """Frame attention of a network: which frames, how strongly, where and when."""

    pattern: PatternText = Field(
        default="full", description="frames whose tokens are keys and values (methods/patterns.py)"
    )
    alpha: Unit = Field(
        default=1.0, description="weight of the cross-frame result against the frame's own"
    )
    levels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        description="spatial levels that take part, 0 = full latent resolution; null = all",
    )
    blocks: tuple[Literal["down", "mid", "up"], ...] = Field(
        default=("down", "mid", "up"), description="parts of the network that take part"
    )
    timesteps: tuple[int, int] | None = Field(
        default=None,
        description="[lowest, highest] diffusion timestep with frame attention; null = always",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Attention:
        if self.timesteps and self.timesteps[0] > self.timesteps[1]:
            raise ValueError("timesteps are [lowest, highest]")
        return self


class ControlNetAttention(Attention):
    """Frame attention of the ControlNets; each frame on its own unless said otherwise."""

    pattern: PatternText = Field(
        default="individual",
        description="frames whose tokens are keys and values (methods/patterns.py)",
    )


class Ramp(Options):
    """A guidance scale that changes from the first (noisiest) step to the last."""

    min: Annotated[float, Field(ge=0)] = Field(description="scale at the first step")
    max: Annotated[float, Field(ge=0)] = Field(
        description="scale at the last step; below min the ramp falls"
    )
    shape: Literal["constant", "linear", "cosine"] = Field(
        default="linear",
        description="constant is the midpoint, which is the mean of the other two shapes",
    )


class Guidance(Options):
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598)."""

    scale: Annotated[float, Field(ge=0)] = Field(
        default=12.5,
        description="eps = uncond + scale (cond - uncond); 1 skips the unconditional half",
    )
    ramp: Ramp | None = Field(default=None, description="replaces the constant scale")


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
