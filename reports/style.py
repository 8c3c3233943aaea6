"""How a row looks everywhere: one colour and one marker per row, the same in figures and page."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from crossframe.files import write_bytes
from reports.load import Row

# Okabe & Ito's colours for all kinds of colour vision, without the yellow (too faint on white).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C3E", "#332288")
GREYS = ("#5A5A5A", "#9A9A9A", "#BDBDBD")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SENTINEL_MARKERS = ("h", "d", "p")

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.color": "#1A1A1A",
    "axes.labelcolor": "#1A1A1A",
    "figure.facecolor": "white",
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a dollar in a row label is a dollar
}

DPI = 220
COLUMN, PAGE = 3.25, 6.75
"""Widths in inches of one column and of both in a two-column paper; text is 7 points or more."""
FAINT, RULE = "#555555", "#BBBBBB"
SCALE = "cividis"
"""Colours of heat maps: even in lightness, and alike to all kinds of colour vision."""


@dataclass(frozen=True)
class Look:
    """Colour and marker of a row."""

    colour: str
    marker: str


def looks(rows: Sequence[Row]) -> dict[str, Look]:
    """Return the look of every row by label; colours repeat after eight, with another marker."""
    grid = [row.label for row in rows if not row.sentinel]
    beside = [row.label for row in rows if row.sentinel]
    made = {
        label: Look(PALETTE[i % len(PALETTE)], MARKERS[(i + i // len(PALETTE)) % len(MARKERS)])
        for i, label in enumerate(grid)
    }
    for i, label in enumerate(beside):
        made[label] = Look(GREYS[i % len(GREYS)], SENTINEL_MARKERS[i % len(SENTINEL_MARKERS)])
    return made


def looks_among(rows: Sequence[Row], shown: Sequence[Row]) -> dict[str, Look]:
    """Return the look of every row by label, for a figure that shows some of them.

    Where two that are shown would have one colour, those get looks as if there were no others.
    """
    everywhere = looks(rows)
    colours = {everywhere[row.label].colour for row in shown}
    return everywhere if len(colours) == len(shown) else {**everywhere, **looks(shown)}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of that size in inches, in the house style, without global state."""
    with mpl.rc_context(SETTINGS):
        yield Figure(figsize=(width, height), layout="constrained")


@contextmanager
def bare_figure(width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure on which everything is placed by hand, in the house style."""
    with mpl.rc_context(SETTINGS):
        yield Figure(figsize=(width, height))


STAMPS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}
"""What would make equal figures differ, by file type."""


def save(made: Figure, path: Path) -> None:
    """Write a figure as `path`.png and `path`.pdf; equal data give equal bytes."""
    for kind in ("png", "pdf"):
        save_as(made, path.with_name(f"{path.name}.{kind}"))
        made.set_layout_engine("none")  # the second takes the layout of the first


def save_as(made: Figure, path: Path) -> None:
    """Write a figure in the type that the path ends in: png, pdf or svg."""
    kind = path.suffix.removeprefix(".")
    buffer = io.BytesIO()
    with mpl.rc_context({**SETTINGS, "svg.hashsalt": "crossframe"}):
        made.savefig(buffer, format=kind, dpi=DPI, metadata=STAMPS[kind])
    write_bytes(path, buffer.getvalue())
