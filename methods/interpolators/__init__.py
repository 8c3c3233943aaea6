"""Interpolators of frames, by name; importing this package imports no torch.

Each entry of `INTERPOLATORS` leads to a factory `(device) -> Interpolator`. Its `extra` holds
`weights`: `module:function` that returns the sha256 of the weights, or "" while they are absent;
`locate`: one that returns their file, or raises NotAvailable with how to get it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from crossframe.errors import NotAvailable, Problem
from crossframe.registry import Entry, Registry

if TYPE_CHECKING:
    from torch import Tensor


class Interpolator(Protocol):
    """Makes the picture half-way between two others."""

    def middle(self, one: Tensor, two: Tensor) -> Tensor:
        """(n, 3, h, w) float32 in [0, 1], twice -> the same shape, range and device."""


INTERPOLATORS = Registry(
    kind="interpolator",
    entries={
        "linear": Entry(
            "methods.interpolators.linear:Linear",
            "the mean of both pictures: no motion, no weights",
        ),
        "dis": Entry(
            "methods.interpolators.dis:Dis",
            "both pictures moved half-way along OpenCV's DIS flow; needs no weights",
        ),
        "rife": Entry(
            "methods.interpolators.rife:load_rife",
            "RIFE's IFNet (HDv3), as in the released ControlVideo; needs flownet.pkl",
            {
                "weights": "methods.interpolators.rife_weights:rife_sha256",
                "locate": "methods.interpolators.rife_weights:locate_rife",
            },
        ),
    },
    group="crossframe.interpolators",
)


def interpolator_weights(name: str) -> str:
    """Return the sha256 of the weights an interpolator would use, "" for none or absent ones.

    Raises UserError for an unknown name and for weights that are damaged.
    """
    sha256 = _named(name, "weights")
    return str(sha256()) if sha256 else ""


def absent_weights(name: str) -> tuple[Problem, ...]:
    """Return why the weights of an interpolator cannot be had here, () where they can."""
    locate = _named(name, "locate")
    try:
        if locate:
            locate()
    except NotAvailable as error:
        return error.problems
    return ()


def _named(name: str, fact: str) -> Callable[[], Any] | None:
    """The function that an interpolator's entry names for a fact, or None."""
    module, _, attribute = str(INTERPOLATORS.entry(name).extra.get(fact, "")).partition(":")
    return getattr(importlib.import_module(module), attribute) if module else None
