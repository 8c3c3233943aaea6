"""Options of Hallo and its presets: the paper's text, the released code, the code mended."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from methods.axes import NoiseText, Unit
from methods.hallo.options import (
    READ,
    Guidance,
    Motion,
    Quirks,
    Reference,
    Regions,
    Scales,
    Schedule,
    Segment,
)
from methods.options import MethodConfig, merge

_RELEASED: Mapping[str, Any] = {
    "steps": 40,
    "eta": 0.0,
    "noise": "independent",
    "schedule": {"betas": "linear", "zero_snr": True},
    "guidance": {
        "scale": 3.5,
        "identity": "projected",
        "audio": "zeros",
        "reference": "dropped",
        "locator": "dropped",
        "motion": "kept",
    },
    "scales": {"pose": 1.0, "face": 1.0, "lip": 1.0},
    "regions": {
        "attention": "three",
        "soft": True,
        "levels_8bit": True,
        "face_ratio": 1.2,
        "lip_ratio": 2.0,
    },
    "reference": {"on": True, "levels": None, "pattern": READ, "identity": True, "locator": True},
    "motion": {"frames": 2, "source": "previous"},
    "segment": {"length": 16, "padding": "silence"},
    "quirks": {
        "reference_rows": "parity",
        "token_rows": "parity",
        "half_bank": True,
        "evaluation": False,
        "dead_modules": False,
        "motion_norm": "per_frame",
        "large_boxes": "parity",
        "bright_twice": True,
    },
}
_PAPER = merge(
    _RELEASED,
    {
        "regions": {"levels_8bit": False},
        "quirks": {
            "reference_rows": "fixed",
            "token_rows": "fixed",
            "half_bank": False,
            "large_boxes": "fixed",
            "bright_twice": False,
        },
    },
)


class HalloConfig(MethodConfig):
    """Hallo: a portrait that speaks. The first frame of the clip and its voice are all that counts.

    `preset: repo` is the released code (fudan-generative-vision/hallo at 8fd7c57) with all it does.
    `preset: paper` is the text as far as released weights can follow it: every frame reads its own
    portrait, nothing is rounded; where the text is silent (noise schedule, null half, sizes of
    boxes) it stays with the released choice, and sound is attended to once per region, as in the
    code, where the text splits the result of one attention by masks.
    `preset: fixed` is the paper's with the noise schedule of training, which the code's own line
    for it would set if it stood before the scheduler is made.

    Clips have 25 frames per second and a voice. Prompts are not read.
    """

    preset: Literal["paper", "repo", "fixed"] = Field(
        default="paper", description="stands in for every option that is not given"
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=40, description="DDIM steps of a segment"
    )
    eta: Unit = Field(default=0.0, description="0 is DDIM, 1 adds as much noise as DDPM")
    noise: NoiseText = Field(
        default="independent",
        description="initial noise of a segment: shared, independent, or mixed:x with the fraction "
        "x shared; segments are independent",
    )
    schedule: Schedule = Field(default=Schedule(), description="noise levels")
    guidance: Guidance = Field(default=Guidance(), description="classifier-free guidance")
    scales: Scales = Field(default=Scales(), description="weights of the audio branches")
    regions: Regions = Field(default=Regions(), description="where the audio branches act")
    reference: Reference = Field(default=Reference(), description="the portrait")
    motion: Motion = Field(default=Motion(), description="frames before a segment")
    segment: Segment = Field(default=Segment(), description="parts in which the clip is drawn")
    quirks: Quirks = Field(default=Quirks(), description="what the released code hardly means")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": _PAPER,
            "repo": _RELEASED,
            "fixed": merge(_PAPER, {"schedule": {"betas": "scaled_linear"}}),
        }
    )

    @property
    def guided(self) -> bool:
        """Whether the null half is computed."""
        return self.guidance.ramp is not None or self.guidance.scale != 1

    def shared_work(self, seed: int) -> Mapping[str, Any]:
        """Return what decides the features of the sound: how far it is padded."""
        return {"sound": self.padded_to}

    @property
    def padded_to(self) -> int:
        """Frames of which the sound is made a multiple."""
        return self.segment.length if self.segment.padding == "silence" else 1

    @model_validator(mode="after")
    def _motion_fits(self) -> HalloConfig:
        if self.motion.frames > self.segment.length:
            what = f"motion.frames: {self.motion.frames} are more than a segment's"
            raise ValueError(f"{what} {self.segment.length}")
        return self

    @model_validator(mode="after")
    def _pattern_has_an_order(self) -> HalloConfig:
        parity = self.guided and self.quirks.reference_rows == "parity"
        if parity and self.reference.pattern != READ:
            what = "reference.pattern: the released order of rows is that of"
            raise ValueError(f"{what} {READ} alone; set quirks.reference_rows: fixed")
        return self
