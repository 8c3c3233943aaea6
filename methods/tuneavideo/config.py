"""Options of Tune-A-Video and its presets: the paper's text, the released code. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from methods.axes import Attention, GroupNormMode, Guidance, NoiseText, PatternText, Unit
from methods.inversion_config import Inversion
from methods.options import MethodConfig, Options


class SparseCausalAttention(Attention):
    """Frame attention of the UNet; to the first and the previous frame unless said otherwise."""

    pattern: PatternText = Field(
        default="first+previous",
        description="frames whose tokens are keys and values (methods/patterns.py)",
    )


class Temporal(Options):
    """The added attention over time, last in every transformer block."""

    alpha: Unit = Field(default=1.0, description="its weight in the residual stream; 0 = left out")
    init: Literal["identity", "released"] = Field(
        default="identity",
        description="before tuning: identity changes nothing; released keeps the random bias of "
        "its output, as the released code does",
    )


class Tuning(Options):
    """One-shot tuning of the network on the source clip and its caption."""

    steps: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=500, description="optimiser steps; 0 = no tuning"
    )
    train: Literal["all", "mid_up", "attention", "temporal", "lora"] = Field(
        default="all",
        description="all: queries of self- and cross-attention, and the temporal attention; "
        "mid_up: the same without the down blocks; attention: the queries; temporal: the temporal "
        "attention; lora: low-rank adapters on the matrices of all",
    )
    lora_rank: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16, description="rank of the adapters of train: lora"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        default=3e-5, description="of AdamW, constant"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=1e-2, description="of AdamW")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        default=1.0, description="bound of the gradient's norm; null = none"
    )
    noise: NoiseText = Field(
        default="independent",
        description="noise of the frames: shared, independent, or mixed:x with the fraction x "
        "shared; the timestep is always one for the whole clip",
    )
    repeat: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="noise and timesteps begin again after so many steps; the TGVE-2023 baseline "
        "reseeds at each validation, every 100 steps",
    )
    latents: Literal["mode", "sample"] = Field(
        default="mode",
        description="clip to tune on and to invert: mode of the autoencoder's posterior, or drawn "
        "from it anew at every step, the last draw being inverted",
    )
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32",
        description="arithmetic of the network while it is tuned (autocast); the tuned weights are "
        "float32 meanwhile",
    )

    def decisive(self) -> dict[str, Any]:
        """Return, as plain data, the options on which what is tuned depends.

        Without steps, nothing but `latents` matters, which says what is inverted.
        """
        if not self.steps:
            return self.model_dump(include={"steps", "latents"})
        return self.model_dump(exclude=set() if self.train == "lora" else {"lora_rank"})


class TuneAVideoConfig(MethodConfig):
    """Tune-A-Video.

    `preset: paper`, the defaults, is the text of the paper; where that is silent (start of the
    temporal attention, group norm, which draw of the autoencoder) it takes the plain choice.
    `preset: repo` is the released code (showlab/Tune-A-Video at 7d4a89a) with its effective
    training set: group norm pooled over frames, a temporal attention that does not start as the
    identity, latents drawn anew at each step, half precision, inversion that reads any output as
    noise. Samples as its training script's validation does; its README samples with PNDM.
    """

    preset: Literal["paper", "repo"] = Field(
        default="paper", description="stands in for every option that is not given"
    )
    attention: SparseCausalAttention = Field(
        default=SparseCausalAttention(), description="frame attention of the UNet"
    )
    group_norm: GroupNormMode = Field(
        default="per_frame", description="pooled takes the statistics over all frames"
    )
    temporal: Temporal = Field(default=Temporal(), description="attention over time")
    tuning: Tuning = Field(default=Tuning(), description="one-shot tuning on the source clip")
    start: Literal["inversion", "noise"] = Field(
        default="inversion", description="what sampling starts from: the inverted source, or noise"
    )
    inversion: Inversion = Field(default=Inversion(), description="of the tuned network")
    noise: NoiseText = Field(
        default="independent",
        description="for start: noise: shared, independent, or mixed:x with the fraction x shared",
    )
    sampler: Literal["ddim", "pndm"] = Field(
        default="ddim",
        description="ddim, as the released validation, or pndm, as the released README: the "
        "default scheduler of Stable Diffusion 1.x, with one network call more",
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(default=50, description="sampling steps")
    guidance: Guidance = Field(
        default=Guidance(scale=12.5), description="classifier-free guidance while sampling"
    )
    negative_prompt: str = Field(default="", description="prompt of the unconditional half")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": {},
            "repo": {
                "group_norm": "pooled",
                "temporal": {"init": "released"},
                "tuning": {"train": "mid_up", "latents": "sample", "precision": "float16"},
                "inversion": {"read_as_epsilon": True},
            },
        }
    )

    def tuned_by(self) -> dict[str, Any]:
        """Return, as plain data, the options on which the network that samples depends."""
        return {
            "attention": self.attention.model_dump(),
            "group_norm": self.group_norm,
            "temporal": self.temporal.model_dump(),
            "tuning": self.tuning.decisive(),
        }

    def not_in_a_checkpoint(self) -> dict[str, Any]:
        """Return the options, by dotted name, that the network of the authors' code has otherwise.

        Only tensors go into a checkpoint, so that their code samples otherwise.
        """
        released = TuneAVideoConfig(preset="repo")
        theirs = released.attention.model_dump()
        ours = {n: v for n, v in self.attention.model_dump().items() if v != theirs[n]}
        found = {f"attention.{name}": value for name, value in ours.items()}
        same = self.group_norm == released.group_norm
        return found if same else {**found, "group_norm": self.group_norm}

    def shared_work(self, seed: int) -> Mapping[str, Any]:
        """Return what decides the tuning of the network and the inversion by it."""
        tuned = [seed, self.tuned_by()]
        inverted = [tuned, self.inversion, self.steps]
        tuning = {"tuning": tuned} if self.tuning.steps else {}
        return tuning | ({"inversion": inverted} if self.start == "inversion" else {})

    @model_validator(mode="after")
    def _something_to_train(self) -> TuneAVideoConfig:
        if self.temporal.alpha == 0 and self.tuning.train == "temporal" and self.tuning.steps:
            raise ValueError("tuning.train: temporal has nothing to train with temporal.alpha: 0")
        return self
