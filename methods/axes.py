"""Options that several methods share: frame attention, guidance, noise, controls. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from crossframe.errors import UserError, did_you_mean
from methods.condition_kinds import parse_control
from methods.options import MethodConfig, Options
from methods.patterns import parse_pattern

GroupNormMode = Literal["pooled", "per_frame"]
AnnotatorRange = Literal["correct", "repo_wrapped"]
SchedulerName = Literal["ddim", "ddpm", "dpmpp"]
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
        raise ValueError("there is no reference image that `reference` could attend to")
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


def _control_text(value: Any) -> str:
    """Canonical text of a control."""
    try:
        return str(parse_control(str(value)))
    except UserError as error:
        problem = error.problems[0]
        hint = f"; {problem.fix}" if problem.fix else ""
        raise ValueError(f"{problem.what}{hint}; allowed: {problem.allowed}") from error


def _control_scale(value: Any) -> float | dict[str, float]:
    """Canonical scale: by control only where one of them is not 1."""
    if not isinstance(value, Mapping):
        return _scale(value)
    scales = {_control_text(control): _scale(scale) for control, scale in value.items()}
    return {name: scale for name, scale in sorted(scales.items()) if scale != 1} or 1.0


def _scale(value: Any) -> float:
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not (number and value >= 0):
        raise ValueError(f"{value!r} is not a number of 0 or more, nor such numbers by control")
    return float(value)


def scale_of(scale: float | Mapping[str, float], control: str) -> float:
    """Return the weight of one control's residuals; 1 where a mapping does not name it."""
    return scale.get(control, 1.0) if isinstance(scale, Mapping) else scale


def check_controls(controls: Sequence[str], scale: float | Mapping[str, float]) -> None:
    """Raise ValueError for a control that is listed twice, and for scales of others."""
    if len(set(controls)) < len(controls):
        raise ValueError(f"controls lists one kind twice: {', '.join(controls)}")
    for name in scale if isinstance(scale, Mapping) else ():
        if name not in controls:
            hint = did_you_mean(name, controls)
            text = (
                f"controlnet_scale names {name}, which is not in controls ({', '.join(controls)})"
            )
            raise ValueError(f"{text}; {hint}" if hint else text)


PatternText = Annotated[str, BeforeValidator(_pattern_text)]
ControlKind = Annotated[str, BeforeValidator(_control_text)]
ControlScale = Annotated[
    float | dict[str, float],
    BeforeValidator(_control_scale),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}},
            ]
        }
    ),
]
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


class ControlledConfig(MethodConfig):
    """What methods with prompts and ControlNets have in common; see `methods.networks.opened`."""

    controls: tuple[ControlKind, ...] = Field(
        default=("edges",), description="ControlNets whose residuals are summed; [] for text alone"
    )
    controlnet_scale: ControlScale = Field(
        default=1.0, description="weight of the ControlNet residuals: a number, or one by control"
    )
    prompt_suffix: str = Field(default="", description="appended to every prompt, as it stands")
    negative_prompt: str = Field(default="", description="prompt of the unconditional half")

    @model_validator(mode="after")
    def _controls_fit(self) -> Self:
        check_controls(self.controls, self.controlnet_scale)
        return self
