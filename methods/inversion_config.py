"""Options of DDIM inversion, shared by the methods that start from it. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from methods.options import Options


class Inversion(Options):
    """How the source becomes the noise that sampling starts from."""

    prompt: Literal["empty", "source"] = Field(
        default="empty", description="text during inversion: none, or what the clip shows"
    )
    steps: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="steps of the inversion; null = as many as sampling has"
    )
    iterations: Annotated[int, Field(ge=0, le=100)] = Field(
        default=0,
        description="fixed-point iterations on each step (arXiv 2309.04907, 2312.12540); 0 is DDIM "
        "inversion, with more sampling without guidance leads back to the source",
    )
    read_as_epsilon: bool = Field(
        default=False,
        description="read the network's output as noise even if it predicts v, as Tune-A-Video's "
        "released inversion does",
    )
