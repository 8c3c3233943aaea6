"""Options of ControlVideo and its presets: the paper's text, the released code. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from crossframe.errors import Problem
from methods.axes import (
    AnnotatorRange,
    Attention,
    ControlledConfig,
    GroupNormMode,
    Guidance,
    NoiseText,
    SchedulerName,
    Unit,
)
from methods.controlvideo.layout import smoothed_steps
from methods.controlvideo.options import Hierarchical, Smoother
from methods.controlvideo.passes import pass_problems
from methods.interpolators import absent_weights
from methods.options import merge

_PAPER: Mapping[str, Any] = {
    "attention": {"pattern": "full"},
    "controlnet_attention": {"pattern": "individual"},
    "group_norm": "per_frame",
    "controlnet_group_norm": "per_frame",
    "residuals_in_place": False,
    "noise": "independent",
    "steps": 50,
    "scheduler": "ddim",
    "eta": 0.0,
    "guidance": {"scale": 12.5},
    "controlnet_scale": 1.0,
    "annotator_range": "correct",
    "smoother": {
        "on": False,
        "interpolator": "rife",
        "at": 0.62,  # "{30, 31}" of 50, counted by what remains
        "count": 2,
        "parity": "paper",
        "boundary": "keep",
        "encode": "mode",
        "blend": 1.0,
        "step": "follow",
    },
    "hierarchical": {
        "on": False,
        "window": "sqrt",
        "inter_keys": "paper",
        "reuse_keys": False,
    },
    "prompt_suffix": "",
    "negative_prompt": "",
}
# What the released code does otherwise.
_REPO: Mapping[str, Any] = {
    "group_norm": "pooled",
    "controlnet_group_norm": "pooled",
    "residuals_in_place": True,
    "noise": "shared",
    "annotator_range": "repo_wrapped",
    "smoother": {
        "at": 0.4,  # smooth_steps [19, 20] of 50, counted by what remains
        "parity": "repo",
        "boundary": "pull",
        "encode": "sample",
        "step": "ddim",
    },
    "hierarchical": {"inter_keys": "repo"},
    "prompt_suffix": " ,best quality, extremely detailed, HD, ultra-realistic, 8K, HQ, "
    "masterpiece, trending on artstation, art, smooth",
    # Sic: "difits" is what the released command line sends to the text encoder.
    "negative_prompt": "longbody, lowres, bad anatomy, bad hands, missing fingers, "
    "extra digit, fewer difits, cropped, worst quality, low quality, deformed body, "
    "bloated, ugly, unrealistic",
}


class ControlVideoConfig(ControlledConfig):
    """ControlVideo with its interleaved-frame smoother and its sampler for long videos.

    `preset: paper` is the text of the paper; where that is silent (guidance scale, prompts, noise,
    group norm) it stays with the released guidance scale and otherwise with the plain choice.
    `preset: repo` is the released code (YBYBZhang/ControlVideo at 4eac95f): group norm pooled over
    frames, the same noise for every frame, residuals added in place, prompt decoration.
    Both leave `smoother.on` to you, since its interpolator RIFE needs weights that are not shipped.
    """

    preset: Literal["paper", "repo"] = Field(
        default="paper", description="stands in for every option that is not given"
    )
    attention: Attention = Field(default=Attention(), description="frame attention of the UNet")
    controlnet_attention: Attention = Field(
        default=Attention(pattern="individual"), description="frame attention of the ControlNets"
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
        default="independent", description="noise added by ddpm, and by ddim when eta > 0; as noise"
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(default=50, description="steps")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="1 starts from noise; below, from the noised source (SDEdit)"
    )
    scheduler: SchedulerName = Field(
        default="ddim", description="steps: ddim; ddpm, ancestral; dpmpp, DPM-Solver++(2M)"
    )
    eta: Unit = Field(
        default=0.0, description="of ddim: 0 adds no noise, 1 as much as DDPM; 0 for the others"
    )
    guidance: Guidance = Field(default=Guidance(), description="classifier-free guidance")
    annotator_range: AnnotatorRange = Field(
        default="correct",
        description="repo_wrapped: annotators see pixels that wrapped at mid-grey",
    )
    smoother: Smoother = Field(default=Smoother(), description="interleaved-frame smoother")
    hierarchical: Hierarchical = Field(
        default=Hierarchical(), description="sampler for long videos"
    )

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"paper": _PAPER, "repo": merge(_PAPER, _REPO)}
    )

    @model_validator(mode="after")
    def _noise_is_the_schedulers(self) -> ControlVideoConfig:
        if self.eta and self.scheduler != "ddim":
            raise ValueError(f"eta is ddim's; {self.scheduler} takes none, so leave it at 0")
        return self

    @model_validator(mode="after")
    def _smoothed_steps_exist(self) -> ControlVideoConfig:
        if not self.smoother.on:
            return self
        taken = max(1, round(self.steps * self.strength))
        wanted = self.smoothed_steps
        if not (wanted and self.steps - taken <= wanted[0] and wanted[-1] < self.steps):
            counts = ", ".join(str(self.steps - index) for index in wanted) or "none"
            raise ValueError(
                f"smoother: steps with {counts} remaining are not among the {taken} of this run; "
                "lower smoother.at or smoother.count, or give smoother.remaining"
            )
        return self

    @property
    def smoothed_steps(self) -> tuple[int, ...]:
        """Loop indices, 0 .. steps - 1, that the smoother edits when it is on."""
        chosen = self.smoother
        return smoothed_steps(self.steps, chosen.at, chosen.count, chosen.remaining)

    def absent(self) -> Sequence[Problem]:
        """The interpolator's weights, where the smoother needs them."""
        return absent_weights(self.smoother.interpolator) if self.smoother.on else ()

    def frame_problems(self, frames: int) -> Sequence[Problem]:
        """Key frames that a pass over the clip, or over a part of it, does not have."""
        return pass_problems(
            frames, self.attention.pattern, self.controlnet_attention.pattern, self.hierarchical
        )
