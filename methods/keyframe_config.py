"""Options of methods that draw key frames and fill in the frames between them. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from methods.options import Options


class KeyFrames(Options):
    """Which frames are drawn; those between are made from their neighbours."""

    min: Annotated[int, Field(ge=1)] = Field(
        default=1, description="fewest frames from one key frame to the next (the last gap apart)"
    )
    max: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="key frames are added, most changed first, until no gap is longer; "
        "equal to min: every min-th frame, so that 1 and 1 draw all frames",
    )
    change: Literal["blurred", "plain"] = Field(
        default="blurred",
        description="distance of two frames: blurred, the mean squared difference at short side "
        "512 under a Gaussian of 9 x 9 pixels, as released; plain, the L2 distance, as the paper "
        "writes",
    )
    last: bool = Field(
        default=True,
        description="the last frame is a key frame; the released FRESCO leaves it out where min "
        "and max are equal",
    )

    @model_validator(mode="after")
    def _ordered(self) -> KeyFrames:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class Between(Options):
    """How the frames between two key frames are made."""

    by: Literal["flow", "ebsynth"] = Field(
        default="flow",
        description="key frames are carried by optical flow, or by the EbSynth program",
    )
    colours: Literal["linear", "histogram"] = Field(
        default="histogram",
        description="linear mix, or one whose mean and contrast in Lab are those of the key frames",
    )
    poisson: bool = Field(
        default=True, description="seams between the two key frames are smoothed by their gradients"
    )
    ebsynth: str = Field(default="", description="path of the EbSynth program, for by: ebsynth")

    @model_validator(mode="after")
    def _program_given(self) -> Between:
        if self.by == "ebsynth" and not self.ebsynth:
            raise ValueError("by: ebsynth needs the path of the program in `ebsynth`")
        return self
