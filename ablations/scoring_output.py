"""Scores of existing videos as table, CSV, Markdown and JSON. Torch-free."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.choice import Choice
from crossframe.files import write_json, write_text
from crossframe.provenance import provenance
from crossframe.registry import Registry
from metrics.frechet import frechet_distance
from metrics.stillness import MOTION, STILL_BELOW, STILLNESS_WINS

if TYPE_CHECKING:
    from rich.table import Table

ARROWS: Mapping[str, str] = {"higher": "↑", "lower": "↓"}
SCHEMA = 1
Record = Mapping[str, Any]


def scores_record(
    records: Sequence[Record],
    choice: Choice,
    encoder: str,
    registry: Registry,
    sentinels: Sequence[Record] = (),
) -> dict[str, Any]:
    """Return everything as JSON data: settings, definitions, every video with series, means.

    sentinels: records of the sources and of their frozen first frames, for scale.
    """
    names = ("direction", "target", "unit", "range", "definition", "version", "least_clips")
    definitions = {
        name: {key: extra[key] for key in names if key in extra}
        for name in choice.metrics
        for extra in [registry.entry(name).extra]
    }
    return {
        "schema": SCHEMA,
        "settings": {"encoder": encoder, "geometry": choice.geometry, "flow": choice.flow},
        "provenance": provenance(),
        "metrics": definitions,
        "videos": [_without_features(record) for record in records],
        "means": dict(_means(records, definitions)),
        "sentinels": dict(_sentinel_means(sentinels, definitions)),
    }


def write_scores(folder: Path, scores: Mapping[str, Any]) -> list[Path]:
    """Write scores.json, scores.csv, per_frame.csv and scores.md; return their paths."""
    texts = {
        "scores.csv": _csv(_score_lines(scores)),
        "per_frame.csv": _csv(_series_lines(scores)),
        "scores.md": markdown(scores),
    }
    write_json(folder / "scores.json", scores)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in ("scores.json", *texts)]


def rich_table(scores: Mapping[str, Any]) -> Table:
    """Return the table for a terminal: one line per video, then the means.

    It is turned, one line per metric, where there are fewer videos than metrics.
    """
    from rich.table import Table

    lines = [_headings(scores), *_lines(scores)]
    if len(scores["videos"]) < len(scores["metrics"]):
        lines = [list(column) for column in zip(*lines, strict=True)]
    table = Table(title="scores")
    for index, heading in enumerate(lines[0]):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    return table


def markdown(scores: Mapping[str, Any]) -> str:
    """Return table, notes, settings and definitions as Markdown."""
    headings = _headings(scores)
    rows = [headings, [":--", *["--:"] * (len(headings) - 1)], *_lines(scores)]
    table = "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in rows)
    settings = ", ".join(f"{name} {value}" for name, value in scores["settings"].items())
    definitions = [f"- `{n}`: {facts['definition']}" for n, facts in scores["metrics"].items()]
    told = [f"- {line}" for line in remarks(scores)]
    blocks = ["# Scores", table, "\n".join(told), f"Settings: {settings}.", "\n".join(definitions)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def remarks(scores: Mapping[str, Any]) -> list[str]:
    """Return notes on videos, and each reason for which values are unavailable, once."""
    videos = scores["videos"]
    notes = [f"{v['video']}: {note}" for v in videos for note in v["notes"]]
    unread = [f"{v['video']}: not scored: {v['problem']}" for v in videos if v.get("problem")]
    reasons: dict[tuple[str, str], int] = {}
    for video in videos:
        for name, entry in video["metrics"].items():
            if "unavailable" in entry:
                mark = name, entry["unavailable"]
                reasons[mark] = reasons.get(mark, 0) + 1
    absent = [
        f"{name}: unavailable ({count} of {len(videos)} videos): {reason}"
        for (name, reason), count in reasons.items()
    ]
    return [*notes, *unread, *absent, *_refused(scores), *_stillness(scores)]


def _stillness(scores: Mapping[str, Any]) -> Iterator[str]:
    """Warn where consistency may come from standing still, or where nobody can tell."""
    gained = [name for name in scores["metrics"] if name.startswith(STILLNESS_WINS)]
    if gained and MOTION not in scores["metrics"]:
        names = ", ".join(gained)
        yield f"motion was not measured; a frozen video gains in {names}: add {MOTION} and --source"
    ratio = scores["means"]["mean"].get(MOTION, {}).get("mean")
    if gained and ratio is not None and ratio < STILL_BELOW:
        yield (
            f"warning: the videos move less than their sources ({MOTION} {ratio:.2f} on average, "
            f"where 1 is as much); standing still alone raises {', '.join(gained)}"
        )


def _refused(scores: Mapping[str, Any]) -> Iterator[str]:
    """Say why a distance between sets is not there, for all videos and for kinds alike once."""
    for name in scores["metrics"]:
        reasons = (means[name].get("refused", "") for means in scores["means"].values())
        if reason := next(filter(None, reasons), ""):
            yield f"{name}: refused: {reason}"


def _headings(scores: Mapping[str, Any]) -> list[str]:
    return [
        "video",
        "frames",
        *(_heading(name, facts) for name, facts in scores["metrics"].items()),
    ]


def _heading(name: str, facts: Mapping[str, Any]) -> str:
    arrow = ARROWS.get(facts["direction"]) or f"→ {facts.get('target', 1):g}"
    return f"{name} {arrow}"


def _lines(scores: Mapping[str, Any]) -> Iterator[list[str]]:
    names = list(scores["metrics"])
    for video in scores["videos"]:
        values = [_shown(video["metrics"].get(name, {}).get("value")) for name in names]
        yield [video["video"], str(video["frames"]), *values]
    for label, means in {**scores["means"], **scores["sentinels"]}.items():
        yield [label, "", *(_mean_shown(means[name]) for name in names)]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _mean_shown(mean: Mapping[str, Any]) -> str:
    return f"{_shown(mean['mean'])} (n={mean['n']})" if mean["n"] else "–"


def _sentinel_means(
    sentinels: Sequence[Record], definitions: Definitions
) -> Iterator[tuple[str, Any]]:
    """Yield the means of the sources and of the frozen frames; sets are not compared here."""
    for kind in dict.fromkeys(record["sentinel"] for record in sentinels):
        some = [record for record in sentinels if record["sentinel"] == kind]
        yield f"({kind})", {name: _mean(some, name) for name in definitions}


def _without_features(record: Record) -> dict[str, Any]:
    """A record in which a metric over sets only says that it was measured: features are long."""
    metrics = {
        name: {"detail": entry["detail"]} if "features" in entry else entry
        for name, entry in record["metrics"].items()
    }
    return {**record, "metrics": metrics}


Definitions = Mapping[str, Mapping[str, Any]]


def _means(records: Sequence[Record], definitions: Definitions) -> Iterator[tuple[str, Any]]:
    """Yield the mean over all videos, then over those of each kind of edit."""
    yield "mean", _mean_of_each(records, definitions)
    kinds = dict.fromkeys(record["kind"] for record in records)
    for kind in filter(None, kinds):
        some = [record for record in records if record["kind"] == kind]
        yield f"mean of {kind}", _mean_of_each(some, definitions)


def _mean_of_each(records: Sequence[Record], definitions: Definitions) -> dict[str, Any]:
    return {
        name: _distance(records, name, facts["least_clips"])
        if "least_clips" in facts
        else _mean(records, name)
        for name, facts in definitions.items()
    }


def _distance(records: Sequence[Record], name: str, least: int) -> dict[str, Any]:
    """The distance between the edited videos and their sources; refused for small sets."""
    found = [record["metrics"].get(name, {}) for record in records]
    made = [entry["features"] for entry in found if "features" in entry]
    real = {
        record["source"]: entry["source"]["features"]
        for record, entry in zip(records, found, strict=True)
        if "features" in entry.get("source", {})
    }
    if min(len(made), len(real)) < least:
        reason = f"it needs {least:,} videos in each set, not {len(made):,} and {len(real):,}"
        return {"mean": None, "n": 0, "refused": reason}
    sets = (np.asarray(part, np.float64) for part in (made, list(real.values())))
    return {"mean": frechet_distance(*sets), "n": len(made)}


def _mean(records: Sequence[Record], name: str) -> dict[str, Any]:
    entries = (record["metrics"].get(name, {}) for record in records)
    values = [entry["value"] for entry in entries if "value" in entry]
    return {"mean": fmean(values) if values else None, "n": len(values)}


def _score_lines(scores: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    yield "video", "clip", "kind", "prompt", "metric", "value", "unavailable"
    for video in scores["videos"]:
        for name, entry in video["metrics"].items():
            value, reason = entry.get("value"), entry.get("unavailable", "")
            head = (video["video"], video["clip"], video["kind"], video["prompt"])
            yield *head, name, value, reason


def _series_lines(scores: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    yield "video", "metric", "index", "value"
    for video in scores["videos"]:
        for name, entry in video["metrics"].items():
            for index, value in enumerate(entry.get("series", ())):
                yield video["video"], name, index, value


def _csv(lines: Iterator[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()
