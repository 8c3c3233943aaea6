"""The catalogue of figures: kinds, which of them a run gets, and drawing one by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from crossframe.errors import Problem, UserError, did_you_mean
from reports import losses, multiples, plots, series, strips, talking
from reports.canvas import Ask, NotDrawn, ask_for
from reports.crosstab import axis_values, is_number
from reports.errormaps import error_maps
from reports.heatmap import heatmap
from reports.load import Run

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of figure. draw raises NotDrawn with the reason where a run cannot feed it."""

    draw: Callable[[Ask], Figure]
    caption: str


KINDS: Mapping[str, Kind] = {
    "bars": Kind(
        plots.bars, "Mean of every metric per row, with 95 % intervals and a dot per clip"
    ),
    "differences": Kind(
        plots.difference_plot,
        "Each row minus the baseline, paired by clip; an interval that leaves zero out is a "
        "difference that these clips resolve",
    ),
    "scatter": Kind(
        plots.scatter,
        "Consistency against motion: up is better, and only near the dotted line does the video "
        "move as its source does",
    ),
    "radar": Kind(
        plots.radar,
        "Rows over metrics, from the worst row (centre) to the best (rim) of each; distances on "
        "different spokes do not compare",
    ),
    "curves": Kind(series.curves, "Per-frame series, averaged over seeds and then clips"),
    "multiples": Kind(
        multiples.multiples,
        "Per-frame series, averaged over seeds and then clips: a panel for each metric and value "
        "of an axis; the panels of a metric share their scale",
    ),
    "axis": Kind(series.axis_curves, "Scores along an axis, with bands of 95 % over clips"),
    "tradeoff": Kind(
        series.tradeoff,
        "One metric against another along an axis, with 95 % intervals over clips; the numbers "
        "beside the points are values of the axis",
    ),
    "voice": Kind(
        talking.voice,
        "How open the mouth is in each frame (lines) and how loud the voice (area), each with mean "
        "0 and deviation 1",
    ),
    "borders": Kind(
        talking.borders,
        "Change from frame to frame around the borders of segments, over the change elsewhere: 1 "
        "is no jump",
    ),
    "losses": Kind(
        losses.losses,
        "Loss of tuning, averaged over clips; each point is the mean of the steps before it",
    ),
    "heatmap": Kind(heatmap, "Two axes against each other: means over clips, lighter is better"),
    "strips": Kind(strips.frame_strips, "Frames of one seed: methods downwards, time to the right"),
    "xt": Kind(strips.x_t_slices, "One image row over time: flicker breaks the lines into bands"),
    "errors": Kind(
        error_maps, "Where colours do not follow the motion of the source: warping error per pixel"
    ),
}

USUAL = ("bars", "differences", "scatter", "curves", "strips", "xt")
"""Kinds that every report tries, under their own names."""


def catalogue(run: Run) -> dict[str, Settings]:
    """Return the settings of all figures of a run by name; those of the spec come before others."""
    found = {name: {"name": name, "kind": name} for name in USUAL}
    found |= {settings["name"]: settings for settings in _from_axes(run)}
    if losses.has_losses(run):
        found["losses"] = {"name": "losses", "kind": "losses"}
    named = run.spec.get("report", {}).get("figures") or ()
    return {**found, "errors": {"name": "errors", "kind": "errors"}} | {
        settings["name"]: settings for settings in named
    }


def _from_axes(run: Run) -> Iterator[dict[str, Any]]:
    """A curve for each axis with three numbers or more, a heat map for the first two axes."""
    rows = [row for row in run.rows if not row.sentinel]
    axes = dict.fromkeys(axis for row in rows for axis in row.axes)
    several = [axis for axis in axes if len(axis_values(rows, axis)) > 1]
    for axis in several:
        numeric = all(is_number(row.axes[axis]) for row in rows if axis in row.axes)
        if numeric and len(axis_values(rows, axis)) > 2:
            slug = re.sub(r"[^a-z0-9._-]+", "-", axis.lower())
            yield {"name": f"axis-{slug}", "kind": "axis", "axes": (axis,)}
    if len(several) > 1:
        yield {"name": "heatmap", "kind": "heatmap", "axes": tuple(several[:2])}


def named_in_spec(run: Run) -> set[str]:
    """Names of the figures that the spec asks for: they are missed when they cannot be drawn."""
    return {settings["name"] for settings in run.spec.get("report", {}).get("figures") or ()}


def draw(run: Run, settings: Settings) -> tuple[Figure, str]:
    """Return a figure and its caption.

    Raises NotDrawn where the run cannot feed it, UserError where it names what is not there.
    """
    kind = KINDS[settings["kind"]]
    caption = str(settings.get("caption") or kind.caption).rstrip(".")
    return kind.draw(ask_for(run, settings)), caption


def draw_named(run: Run, name: str, width: str = "") -> tuple[Figure, str]:
    """Return the figure of that name; width: `column` or `page`, instead of what it says itself.

    Raises UserError when there is none, or when the run cannot feed it.
    """
    known = catalogue(run)
    if name not in known:
        what = f"no figure {name!r}"
        raise UserError(Problem("figure", what, ", ".join(known), did_you_mean(name, known)))
    settings = {**known[name], **({"width": width} if width else {})}
    try:
        return draw(run, settings)
    except NotDrawn as reason:
        raise UserError(Problem(f"figure {name}", f"cannot be drawn: {reason}")) from reason
