"""Options that several methods share: frame attention, guidance, noise, controls. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from crossframe.errors import UserError
from methods.options import Options
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
