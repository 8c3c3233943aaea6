"""Options of the interleaved-frame smoother and of the sampler for long videos. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from crossframe.errors import UserError
from methods.axes import Unit
from methods.controlvideo.layout import SMALLEST_WINDOW, Boundary, Parity
from methods.interpolators import INTERPOLATORS, interpolator_weights
from methods.options import Options


def _interpolator(name: str) -> str:
    try:
        INTERPOLATORS.entry(name)
    except UserError as error:
        problem = error.problems[0]
        raise ValueError(f"{problem.what}; allowed: {problem.allowed}. {problem.fix}") from error
    return name


class Smoother(Options):
    """Interleaved-frame smoother (paper section 3.3): at a few steps every other frame is replaced.

    The predicted clean latents are decoded, every other frame becomes the middle of its neighbours,
    all frames are encoded again, and the step goes on with the noise predicted before.
    """

    on: bool = Field(default=False, description="whether steps are smoothed")
    interpolator: Annotated[str, AfterValidator(_interpolator)] = Field(
        default="rife", description="middle of two frames: linear, dis (optical flow), rife"
    )
    at: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.4,
        description="share of `steps` that remains, it included, at the first smoothed step",
    )
    count: Annotated[int, Field(ge=1)] = Field(default=2, description="smoothed steps in a row")
    remaining: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None,
        description="replaces `at` and `count`: smoothed steps by how many remain, e.g. [20, 19]",
    )
    parity: Parity = Field(
        default="repo",
        description="frames replaced first: repo, odd ones at an even loop index; paper, even ones "
        "at an even number of remaining steps",
    )
    boundary: Boundary = Field(
        default="pull",
        description="end frames whose turn it is: pull, half-way to their neighbour; keep",
    )
    encode: Literal["sample", "mode"] = Field(
        default="sample", description="of the autoencoder's posterior, on the way back"
    )
    blend: Unit = Field(
        default=1.0, description="weight of the smoothed clean latents against the predicted ones"
    )
    step: Literal["follow", "ddim"] = Field(
        default="follow",
        description="of smoothed steps: follow, as `scheduler` and `eta` say; ddim, without noise "
        "by DDIM, whatever these say",
    )
    weights: str = Field(
        default="",
        pattern=r"^([0-9a-f]{64})?$",
        description="sha256 of the interpolator's weights; filled in from the file that is found",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_weights(cls, given: Any) -> Any:
        """Weights shape the frames, so they are part of the options once the smoother is on."""
        if not isinstance(given, Mapping) or not given.get("on") or given.get("weights"):
            return given
        name = given.get("interpolator", cls.model_fields["interpolator"].default)
        known = isinstance(name, str) and name in INTERPOLATORS
        return {**given, "weights": interpolator_weights(name)} if known else given


class Hierarchical(Options):
    """Hierarchical sampler for long videos (paper section 3.4): key frames, then clips."""

    on: bool = Field(default=False, description="whether the video is sampled clip by clip")
    window: Annotated[int, Field(ge=SMALLEST_WINDOW)] | Literal["sqrt"] = Field(
        default="sqrt",
        description="frames from one key to the next, both included; sqrt of the frame count",
    )
    inter_keys: Parity = Field(
        default="paper",
        description="keys and values in a clip: paper, both key frames; repo, the left key and the "
        "last frame between",
    )
    reuse_keys: bool = Field(
        default=False,
        description="clips read the key frames' keys and values of the pass over all key frames, "
        "instead of running the key frames again",
    )
