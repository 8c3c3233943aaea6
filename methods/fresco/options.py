"""Options of FRESCO's correspondence, smoothing and feature optimisation. Torch-free.

Defaults are those of the released code (williamyang1991/FRESCO at 736a714); `PAPER` holds what the
text of the paper says instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from crossframe.errors import NotAvailable, Problem
from crossframe.flow.table import FLOWS, flow_networks
from crossframe.weights import locate
from methods.axes import Unit
from methods.options import Options

EXACT = "exact"
Timestep = Annotated[int, Field(ge=0)]


def _flow_source(name: str) -> str:
    if name != EXACT and name not in FLOWS:
        raise ValueError(f"{name!r} is not one of {', '.join((EXACT, *FLOWS.names()))}")
    return name


def _saliency_source(text: str) -> str:
    """Canonical text of a saliency source; a file's carries the hash of its content."""
    if text in ("none", EXACT):
        return text
    kind, _, rest = text.partition(":")
    path, _, given = rest.partition("#")
    if kind != "file" or not path.endswith(".npy"):
        raise ValueError(f"{text!r} is not one of none, {EXACT}, file:PATH.npy")
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    if given and given != found:
        raise ValueError(f"{path} has the hash {found}, not {given}: it has been changed")
    return f"file:{path}#{found}"


class Correspondence(Options):
    """Which pixel of a frame is which pixel of the next: flow, and where it cannot be trusted."""

    flow: Annotated[str, AfterValidator(_flow_source)] = Field(
        default="gmflow",
        description="flow between frames: exact (a clip whose truth is known), dis, raft, gmflow",
    )
    occlusion: Literal["linear", "squared", "exact"] = Field(
        default="linear",
        description="linear: |F+B| > 0.01 (|F|+|B|) + 0.5 as in GMFlow's code; squared: the same "
        "with squared lengths (Sundaram et al. 2010); exact: the truth of the clip",
    )
    photometric: Unit | None = Field(
        default=0.25,
        description="a pixel is occluded too when its colour differs by more than this from the "
        "warped neighbour's (mean of RGB in [0, 1]); null = no such check",
    )

    @property
    def networks(self) -> tuple[str, ...]:
        """Names in `crossframe.weights.NETWORKS` of what estimates the flow."""
        return () if self.flow == EXACT else flow_networks(self.flow)

    def absent(self) -> tuple[Problem, ...]:
        """Return which weights of the estimator this machine lacks, with how to get them."""
        problems: list[Problem] = []
        for name in self.networks:
            try:
                locate(name)
            except NotAvailable as error:
                problems += error.problems
        return tuple(problems)

    @model_validator(mode="after")
    def _truth_needs_exact_flow(self) -> Correspondence:
        if self.occlusion == EXACT and self.flow != EXACT:
            raise ValueError("occlusion: exact needs flow: exact")
        return self


class Losses(Options):
    """Feature optimisation: losses on what enters the up blocks, and how they are minimised.

    `spatial` and `temporal` are the weights of the two terms; 0 leaves a term out.
    """

    spatial: Annotated[float, Field(ge=0)] = Field(
        default=100.0, description="weight of the spatial term: similarities of tokens in a frame"
    )
    temporal: Annotated[float, Field(ge=0)] = Field(
        default=2.0, description="weight of the temporal term: features along the flow"
    )
    spatial_norm: Literal["l1", "l2"] = Field(
        default="l1", description="l1: |difference|; l2: squared difference"
    )
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="both terms, over all of their elements, masked ones included"
    )
    direction: Literal["both", "backward"] = Field(
        default="both",
        description="both: each pair on the grid of either frame; backward: of the later one only",
    )
    cyclic: bool = Field(default=True, description="the last frame and the first are a pair too")
    iterations: Annotated[int, Field(ge=0)] = Field(
        default=20, description="Adam steps, fresh for each block and timestep"
    )
    lr: Annotated[float, Field(gt=0)] = Field(default=0.2, description="Adam's learning rate")
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0, 1, 2, 3), description="up blocks whose input is optimised, 0 = deepest"
    )
    timesteps: tuple[Timestep, Timestep] | None = Field(
        default=(250, 1000),
        description="[lowest, highest] diffusion timestep with optimisation; null = always. The "
        "released default, the first 15 of 20 steps, is [250, 1000]",
    )
    adain: Literal["repo", "fixed", "none"] = Field(
        default="repo",
        description="afterwards, per channel: fixed restores mean and standard deviation; repo "
        "restores sqrt(variance + 1) instead, by a slip of the released code",
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32",
        description="products of the spatial term; tf32 exists on GPUs only, elsewhere float32",
    )

    @property
    def active(self) -> bool:
        """Whether anything is optimised at all."""
        return bool(self.layers) and self.iterations > 0 and (self.spatial > 0 or self.temporal > 0)

    @model_validator(mode="after")
    def _ordered(self) -> Losses:
        if self.timesteps and self.timesteps[0] > self.timesteps[1]:
            raise ValueError("timesteps are [lowest, highest]")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError("layers lists one up block twice")
        return self


class Smoothing(Options):
    """Background smoothing: the background of a frame is drawn towards the frame before."""

    saliency: Annotated[str, AfterValidator(_saliency_source)] = Field(
        default="none",
        description="where the foreground is: none (no smoothing), exact (masks of a clip whose "
        "truth is known), file:PATH.npy (foreground (f, h, w) in [0, 1])",
    )
    features: bool = Field(
        default=True, description="smooth the input of each optimised up block, after optimisation"
    )
    pixels: tuple[Unit, Unit] | None = Field(
        default=(0.8, 0.9),
        description="smooth the decoded clean frames while the fraction of steps done is in "
        "[from, to); of 20 steps 0.8 and 0.9 are steps 16 and 17; null = never",
    )


PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "loss": {
            "spatial": 50.0,
            "temporal": 1.0,
            "spatial_norm": "l2",
            "reduction": "sum",
            "direction": "backward",
            "cyclic": False,
            "lr": 0.4,
            "adain": "none",
            "timesteps": None,
        },
        "smoothing": {"features": False},
        "keyframes": {"change": "plain", "last": True},
    }
)
"""The paper's text (eqs. 4-6, section 4), where it differs; for the preset `paper` of a method."""
