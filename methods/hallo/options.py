"""Groups of Hallo's options. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from crossframe.errors import UserError
from methods import axes
from methods.axes import Unit
from methods.options import Options
from methods.patterns import parse_pattern

Level = Annotated[int, Field(ge=0, le=3)]
Weight = Annotated[float, Field(ge=0)]
Ratio = Annotated[float, Field(gt=0)]
Box = tuple[Unit, Unit, Unit, Unit]
LargeBoxes = Literal["parity", "fixed"]
"""What becomes of boxes as large as the picture or larger; see `Quirks`."""
READ = "individual+reference"


def _pattern_text(value: Any) -> str:
    """Canonical text of a pattern in any of its spellings."""
    try:
        return str(parse_pattern(value))
    except UserError as error:
        problem = error.problems[0]
        raise ValueError(f"{problem.what}; allowed: {problem.allowed}") from error


class Schedule(Options):
    """Noise levels of the sampling run."""

    betas: Literal["linear", "scaled_linear"] = Field(
        default="linear",
        description="linear: as released, though training has scaled_linear: at the same timestep "
        "pictures are noisier than the network expects",
    )
    zero_snr: bool = Field(
        default=True,
        description="sampling begins without any signal, as in training (arXiv 2305.08891)",
    )


class Guidance(axes.Guidance):
    """Classifier-free guidance, and what its unconditional half goes without.

    Released training drops the reference in 5 % and the sound in 5 % of its steps, each by itself;
    identity and face region never in stage 2. The released null half, without all four, is hardly
    ever trained.
    """

    scale: Weight = Field(
        default=3.5, description="v = uncond + scale (cond - uncond); 1 skips the null half"
    )
    identity: Literal["projected", "zeros", "kept"] = Field(
        default="projected",
        description="identity tokens of the null half: of a zero embedding (released), 0, or kept",
    )
    audio: Literal["zeros", "projected", "kept"] = Field(
        default="zeros",
        description="sound tokens of the null half: 0 (released), of features that are 0, or kept",
    )
    reference: Literal["dropped", "kept"] = Field(
        default="dropped", description="reference attention of the null half"
    )
    locator: Literal["dropped", "kept"] = Field(
        default="dropped", description="face region of the null half"
    )
    motion: Literal["dropped", "kept"] = Field(
        default="kept",
        description="motion frames of the null half; dropped, their features are 0. Training drops "
        "them together with the reference, released inference keeps them",
    )

    @model_validator(mode="after")
    def _halves_differ(self) -> Guidance:
        kept = {self.identity, self.audio, self.reference, self.locator, self.motion} == {"kept"}
        if kept and (self.scale != 1 or self.ramp is not None):
            raise ValueError("the null half keeps everything: drop something, or set scale to 1")
        return self


class Scales(Options):
    """Weights of the three branches of audio attention.

    The paper calls them head pose, expression and lips; each acts through its region's mask, in the
    order of `calls.REGIONS`.
    """

    pose: Weight = Field(default=1.0, description="branch of the region around the face")
    face: Weight = Field(default=1.0, description="branch of the face without lips")
    lip: Weight = Field(default=1.0, description="branch of the lips")


class Regions(Options):
    """Where the branches of audio attention act, and where the face locator is told the face is."""

    attention: Literal["three", "everywhere", "full", "single"] = Field(
        default="three",
        description="three: a branch per region, each under its mask (released); everywhere: the "
        "three without masks; full: the branch `pose` alone, without mask; single: networks that "
        "have one attention, which are trained so and hold other weights",
    )
    soft: bool = Field(default=True, description="blurred masks, as released; false: hard boxes")
    levels_8bit: bool = Field(
        default=True, description="masks in steps of 1/255, truncated, as released; false: float"
    )
    face_ratio: Ratio = Field(
        default=1.2, description="the face's box is made so many times as large"
    )
    lip_ratio: Ratio = Field(
        default=2.0, description="the same, lips. Training has 1 for both, and the whole clip's"
    )
    face: Box | None = Field(
        default=None,
        description="[x0, x1, y0, y1] of the face in the reference, as parts of its sides, before "
        "the ratio; null: as the clip knows it, else from landmarks",
    )
    lip: Box | None = Field(default=None, description="the same of the lips")

    @model_validator(mode="after")
    def _both_boxes(self) -> Regions:
        if (self.face is None) != (self.lip is None):
            raise ValueError("give both boxes, face and lip, or neither")
        for name, box in (("face", self.face), ("lip", self.lip)):
            if box is not None and not (box[0] < box[1] and box[2] < box[3]):
                raise ValueError(f"{name} is [x0, x1, y0, y1] with x0 < x1 and y0 < y1")
        return self


class Reference(Options):
    """The portrait, and how the denoising network sees it."""

    frame: Annotated[int, Field(ge=0)] = Field(
        default=0, description="frame of the clip that is the portrait"
    )
    on: bool = Field(
        default=True, description="false: no attention to it; motion frames are seen all the same"
    )
    levels: tuple[Level, ...] | None = Field(
        default=None, description="levels that attend to it, 0 = full resolution; null: all"
    )
    pattern: Annotated[str, BeforeValidator(_pattern_text)] = Field(
        default=READ,
        description="what spatial attention sees (methods/patterns.py), `reference` the portrait; "
        "another than the released one needs quirks.reference_rows: fixed",
    )
    identity: bool = Field(
        default=True, description="false: the identity tokens are those of a zero embedding"
    )
    locator: bool = Field(default=True, description="whether the network is told the face's box")


class Motion(Options):
    """Frames before a segment, which its temporal attention sees."""

    frames: Annotated[int, Field(ge=0)] = Field(
        default=2, description="how many; 0: every segment begins anew. Trained with 2"
    )
    source: Literal["previous", "reference", "grey"] = Field(
        default="previous",
        description="previous: the last frames drawn, before the first segment copies of the "
        "portrait; reference: always copies; grey: what training puts there when it drops them",
    )


class Segment(Options):
    """The parts in which a clip is drawn, one after the other."""

    length: Annotated[int, Field(ge=1)] = Field(
        default=16, description="frames. Released: 16, trained with 14"
    )
    padding: Literal["silence", "shorter"] = Field(
        default="silence",
        description="last segment: whole, with silence after the clip, and cut (released); or as "
        "long as the clip",
    )


class Quirks(Options):
    """What the released code does and hardly means; each a switch."""

    reference_rows: Literal["parity", "fixed"] = Field(
        default="parity",
        description="row r of (batch frames) reads the reference of clip r mod batch, as released: "
        "under guidance every other frame reads the null half's; fixed: each its own",
    )
    token_rows: Literal["parity", "fixed"] = Field(
        default="parity",
        description="the same error in the reference network: image r has the identity tokens of "
        "clip r mod batch",
    )
    half_bank: bool = Field(
        default=True, description="features of the reference network are rounded to float16"
    )
    evaluation: bool = Field(
        default=False,
        description="what `.eval()` makes of the released code, which runs without it: motion "
        "frames and scales act in the middle block only, and the dead modules run",
    )
    dead_modules: bool = Field(
        default=False,
        description="run the five motion modules that have weights and are never reached",
    )
    motion_norm: Literal["per_frame", "pooled"] = Field(
        default="per_frame",
        description="group norm of the motion modules; pooled over frames, as in diffusers",
    )
    large_boxes: LargeBoxes = Field(
        default="parity",
        description="a face's box that would be larger than the picture becomes a strip at its far "
        "border, and one that fills it has an empty soft mask, as released; fixed: the whole of it",
    )
    bright_twice: bool = Field(
        default=True,
        description="portrait and motion frames that are nowhere darker than mid-grey are "
        "normalised twice on their way to the autoencoder, as released",
    )
