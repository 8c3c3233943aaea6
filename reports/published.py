"""A published table beside ours: the paper's numbers, our means with intervals, the verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reports import sheets
from reports.claims import Judgement, judge_claims
from reports.load import Run
from reports.sheets import Entry, Sheet
from reports.statistics import Interval, bootstrap_interval, clip_means
from reports.tables import ABSENT, MINIATURE_NOTE, csv_text, show_bounds, show_number, sizes

OURS_DECIMALS = 2


def paper_of(run: Run) -> Mapping[str, Any] | None:
    """Return the published table that the spec of a run names, or None."""
    return run.spec.get("paper")


def intervals(run: Run) -> dict[tuple[str, str], Interval]:
    """Return our intervals, in our units, by row label and metric id."""
    found = {}
    for metric in run.metrics:
        means = clip_means(run.scores, metric.id)
        for row in run.rows:
            found[row.label, metric.id] = bootstrap_interval(means.get(row.label, ()))
    return found


def paper_sheet(run: Run, paper: Mapping[str, Any]) -> Sheet:
    """Return the published table with ours beside it, in the units of the publication."""
    ours, columns = intervals(run), paper["columns"]
    heads = ["row"]
    for column in columns:
        heads += [f"{column['name']}, paper"] + [f"{column['name']}, here"] * bool(column["metric"])
    lines = []
    for row, numbers in paper["rows"].items():
        line = [Entry(row)]
        for column, number in zip(columns, numbers, strict=True):
            line.append(Entry(ABSENT if number is None else str(number)))
            if column["metric"]:
                line.append(_our_entry(ours.get((row, column["metric"])), column["factor"]))
        lines.append(tuple(line))
    return Sheet(tuple(heads), (tuple(lines),), tuple(_notes(run, paper)))


def _our_entry(found: Interval | None, factor: float) -> Entry:
    if found is None or not found.n:
        return Entry(ABSENT)
    low, high = sorted((found.low / factor, found.high / factor))
    scaled = Interval(found.mean / factor, low, high, found.n)
    return Entry(show_number(scaled.mean, OURS_DECIMALS), show_bounds(scaled, OURS_DECIMALS))


def _notes(run: Run, paper: Mapping[str, Any]) -> Iterable[str]:
    setting = f" ({paper['setting']})" if paper.get("setting") else ""
    yield f"Paper: {paper['work']}, {paper['place']}{setting}."
    yield f"Here: {sizes(run)}; means over clips [95 % interval], in the paper's units."
    if run.is_miniature:
        yield MINIATURE_NOTE
    states = [cell.state for cell in run.cells]
    if states.count("done") < len(states):
        yield f"Incomplete: {states.count('done')} of {len(states)} cells are done."
    for column in paper["columns"]:
        if column["metric"]:
            yield f"{column['name']} is {column['metric']} here."
    for row, why in paper.get("absent", {}).items():
        yield f"{row}: {why}."
    yield from paper.get("notes", ())


def paper_markdown(run: Run, paper: Mapping[str, Any]) -> str:
    """Return the comparison with the verdicts on the paper's claims."""
    heading = f"# {paper['work']}: {paper['place']}\n\n"
    verdicts = "\n".join(_verdict_line(judgement) for judgement in judge_claims(run))
    tail = f"\nClaims:\n\n{verdicts}\n" if verdicts else ""
    return heading + sheets.to_markdown(paper_sheet(run, paper)) + tail


def _verdict_line(judgement: Judgement) -> str:
    source = f" ({judgement.source})" if judgement.source else ""
    reason = f": {' '.join(judgement.reason.split())}" if judgement.reason else ""
    return f"- **{judgement.verdict}** `{judgement.text}`{source}{reason}"


def paper_csv(run: Run, paper: Mapping[str, Any]) -> str:
    """Return one line per published number, with ours in our unit and in the paper's."""
    ours = intervals(run)
    heads = ["row", "column", "paper", "metric", "factor", "mean", "low", "high", "n"]
    lines: list[Sequence[Any]] = []
    for row, numbers in paper["rows"].items():
        for column, number in zip(paper["columns"], numbers, strict=True):
            none = Interval(math.nan, math.nan, math.nan, 0)
            found = ours.get((row, column["metric"]), none)
            raw = ["" if math.isnan(x) else repr(x) for x in (found.mean, found.low, found.high)]
            shown = "" if number is None else number
            lines.append(
                [row, column["name"], shown, column["metric"], column["factor"], *raw, found.n]
            )
    return csv_text(heads, lines)
