"""Options of Stable Video Diffusion and its presets. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from methods.options import MethodConfig, Options
from methods.svd.options import (
    Blend,
    Decoding,
    FrameAttention,
    FrameRamp,
    LongVideo,
    Reuse,
)

AboveZero = Annotated[float, Field(gt=0)]
NotBelowZero = Annotated[float, Field(ge=0)]
DISTILLED = 40
"""Noise levels that AnimateLCM-SVD was distilled on."""


class Guidance(Options):
    """Classifier-free guidance towards the image, stronger or weaker by frame."""

    ramp: FrameRamp = Field(
        default=FrameRamp(), description="scale of each frame; 1 is no guidance"
    )


class Schedule(Options):
    """Noise levels of a run and how it goes from one to the next."""

    sigmas: Literal["karras", "exponential", "ays", "distilled"] | tuple[NotBelowZero, ...] = Field(
        default="karras",
        description="karras: as released; ays: Align Your Steps' ten for SVD (arXiv 2404.14507), "
        "log-linear between them for other `steps`; distilled: every (40 // steps)-th of 40 Karras "
        "levels, from the first, as the scheduler published with AnimateLCM-SVD (arXiv 2402.00769) "
        "takes them; or a falling list, whose 0 at the end may be left out",
    )
    sigma_max: AboveZero | None = Field(
        default=None,
        description="first noise level; null = the checkpoint's, 700. Lower raises motion, and "
        "costs quality where it is too low (arXiv 2406.15735)",
    )
    sigma_min: AboveZero | None = Field(
        default=None, description="last noise level above 0; null = the checkpoint's, 0.002"
    )
    sampler: Literal["euler", "consistency"] = Field(
        default="euler",
        description="consistency: predicted clean latents, noised anew to the next level, for "
        "distilled checkpoints of a few steps (arXiv 2303.01469, algorithm 1); those of "
        "AnimateLCM-SVD go with `sigmas: distilled`",
    )

    @model_validator(mode="after")
    def _falling(self) -> Schedule:
        if self.sigmas in ("karras", "exponential", "distilled"):
            least, most = self.sigma_min, self.sigma_max
            if least is not None and most is not None and least >= most:
                raise ValueError("sigma_min is below sigma_max")
            return self
        if self.sigma_max is not None or self.sigma_min is not None:
            raise ValueError("sigma_max and sigma_min are for sigmas that are spaced between them")
        if not isinstance(self.sigmas, str):
            _check_falling(self.sigmas)
        return self


class NoiseAug(Options):
    """Noise on the image that the autoencoder encodes, in pixels, as in training."""

    strength: NotBelowZero = Field(
        default=0.02, description="standard deviation, for pixels in [-1, 1]"
    )
    told: NotBelowZero | None = Field(
        default=None,
        description="strength that the network is told; null = the true one. Trained on e^N(-3, "
        "0.5), half of it between 0.036 and 0.070",
    )


class ImageCondition(Options):
    """The two ways on which the image reaches the network; what is left out is zero, as in the
    unconditional half of guidance."""

    clip: bool = Field(default=True, description="its CLIP embedding, through cross-attention")
    latents: Literal["all", "first", "none"] = Field(
        default="all", description="frames beside whose latents stand those of the image"
    )
    scaled: bool = Field(
        default=False,
        description="the image's latents times the autoencoder's scale, as the video's are; "
        "released networks were trained without",
    )


_COMMON: Mapping[str, Any] = {
    "steps": 25,
    "schedule": {"sigmas": "karras", "sampler": "euler"},
    "guidance": {"ramp": {"min": 1.0, "max": 2.5, "shape": "linear"}},
    "fps": 7,
    "motion_bucket": 127,
    "noise_aug": {"strength": 0.02},
    "image": {"scaled": False},
    "decode": {"chunk": 14},
}


class SvdConfig(MethodConfig):
    """Stable Video Diffusion: a video that begins with the first frame of the clip.

    Presets `paper` and `paper_xt` are the settings of the released scripts
    (Stability-AI/generative-models, scripts/sampling) for the models of 14 and of 25 frames, 1.1
    included; `repo` are the defaults of diffusers for all of them. Frames and checkpoint belong to
    the clip and the backbone: clip.frames 14 or 25, 1024 x 576 pixels as trained.

    Prompts are not read: only the image speaks.
    """

    preset: Literal["paper", "paper_xt", "repo"] = Field(
        default="paper", description="stands in for every option that is not given"
    )
    frames: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="frames that are made, the first of which are kept, as many as the clip has; "
        "null = no more than those",
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(default=25, description="noise levels")
    schedule: Schedule = Field(default=Schedule(), description="noise levels and sampler")
    guidance: Guidance = Field(default=Guidance(), description="classifier-free guidance")
    fps: Annotated[float, Field(ge=1)] = Field(
        default=7.0, description="frames per second; the network is told one less, as in training"
    )
    motion_bucket: NotBelowZero = Field(
        default=127.0, description="how much motion the network is told; trained on 0..255"
    )
    noise_aug: NoiseAug = Field(default=NoiseAug(), description="noise on the image")
    image: ImageCondition = Field(default=ImageCondition(), description="what the image conditions")
    alpha: Blend = Field(default=Blend(), description="weight of the temporal layers")
    attention: FrameAttention = Field(
        default=FrameAttention(), description="which frames attend to which"
    )
    decode: Decoding = Field(default=Decoding(), description="chunks of the temporal decoder")
    long: LongVideo = Field(default=LongVideo(), description="windows over more frames")
    cache: Reuse = Field(default=Reuse(), description="results kept over steps")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": _COMMON,
            "paper_xt": {
                **_COMMON,
                "steps": 30,
                "guidance": {"ramp": {"min": 1.5, "max": 3.0, "shape": "linear"}},
            },
            "repo": {
                **_COMMON,
                "guidance": {"ramp": {"min": 1.0, "max": 3.0, "shape": "linear"}},
                "decode": {"chunk": None},
            },
        }
    )

    @model_validator(mode="after")
    def _as_many_steps(self) -> SvdConfig:
        own = self.schedule.sigmas
        if not isinstance(own, str) and (given := sum(sigma > 0 for sigma in own)) != self.steps:
            raise ValueError(
                f"schedule.sigmas are {given} levels above 0, and steps is {self.steps}"
            )
        if own == "distilled" and self.steps > DISTILLED:
            raise ValueError(f"schedule.sigmas: distilled has {DISTILLED} steps at most")
        return self

    @model_validator(mode="after")
    def _decoder_has_blenders(self) -> SvdConfig:
        if self.decode.framewise and "vae" in self.alpha.networks and not self.alpha.is_stock:
            raise ValueError(
                "decode.framewise leaves the decoder's temporal layers out, so alpha cannot weigh "
                "them: take vae out of alpha.networks"
            )
        return self


def _check_falling(sigmas: tuple[float, ...]) -> None:
    """Raise ValueError unless levels fall, above 0 but for the last."""
    falls = all(before > after for before, after in pairwise(sigmas))
    if not falls or not sigmas or sigmas[0] <= 0:
        raise ValueError("sigmas fall from a level above 0; only the last may be 0")
