"""What stands below a table: what the means are, what is missing, and when to doubt a lead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from metrics.stillness import MOTION, STILLNESS_WINS
from reports.load import Run
from reports.numbers import Value, show_bounds, show_number

STILL_MARK = "†"
INTERVAL_NOTE = (
    "Means over clips [95 % interval]: seeds are averaged within each clip, then clips are "
    "resampled (10,000 bootstrap samples, widened for small n; Student's t below 8 clips). "
    "Bold: best; underlined: second."
)
MINIATURE_NOTE = (
    "Made with the miniature networks: they test orderings and mechanisms, never absolute paper "
    "values."
)


def sizes(run: Run) -> str:
    """`8 clips, 1 prompt per clip, 3 seeds each`: what the means stand on."""
    cells = [cell for cell in run.cells if cell.row not in _sentinel_labels(run)] or run.cells
    prompts = {(cell.clip, cell.prompt) for cell in cells}
    most = max(Counter(clip for clip, _ in prompts).values(), default=0)
    seeds = len({cell.seed_index for cell in cells})
    return ", ".join(
        [
            _counted(len({cell.clip for cell in cells}), "clip"),
            f"{_counted(most, 'prompt')} per clip",
            f"{_counted(seeds, 'seed')} each",
        ]
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _sentinel_labels(run: Run) -> set[str]:
    return {row.label for row in run.rows if row.sentinel}


def run_notes(run: Run) -> Iterable[str]:
    """Yield what the means stand on, what is missing by row, and why values are unavailable."""
    yield f"{sizes(run)}. {INTERVAL_NOTE}"
    if run.is_miniature:
        yield MINIATURE_NOTE
    yield from _incomplete(run)
    for name, reasons in run.unavailable.items():
        for reason, count in reasons.items():
            rows = run.rows_without(name, reason)
            every = len(rows) == len(run.rows)
            where = "" if every else " (" + ", ".join(f"{r} {n}" for r, n in rows.items()) + ")"
            yield f"{name} is unavailable for {count} cells{where}: {' '.join(reason.split())}"


def _incomplete(run: Run) -> Iterable[str]:
    """What is not there, in all and by row: `full: 3 of 24 cells (2 oom, 1 skipped)`."""
    states = [cell.state for cell in run.cells]
    if states.count("done") == len(states):
        return
    words = {"failed": "failed", "missing": "have not run"}
    rest = [f"{states.count(s)} {words[s]}" for s in words if s in states]
    done = f"{states.count('done')} of {len(states)} cells are done"
    yield f"Incomplete: {done}, {', '.join(rest)}. A row that lacks a clip is not ranked."
    lacking = []
    for row in run.rows:
        cells = run.cells_of(row.label)
        kinds = Counter(cell.status for cell in cells if cell.state != "done")
        if kinds:
            shown = ", ".join(f"{count} {_STATUS.get(kind, kind)}" for kind, count in kinds.items())
            lacking.append(f"{row.label}: {kinds.total()} of {len(cells)} ({shown})")
    yield f"Cells without a result, by row: {'; '.join(lacking)}."


_STATUS = {"missing": "not run", "oom": "out of memory"}


def motion_notes(columns: Mapping[str, Mapping[str, Value]]) -> Iterable[str]:
    """A plain warning per row that is best in consistency and moves less than its source."""
    leading = [name for name in columns if name.startswith(STILLNESS_WINS)]
    if leading and MOTION not in columns:
        yield (
            f"Motion was not measured. A frozen video is best in {', '.join(leading)} or gains "
            f"there: add {MOTION} to the metrics."
        )
    for label, motion in columns.get(MOTION, {}).items():
        led = [name for name in leading if columns[name][label].still]
        if led:
            found = motion.interval
            size = f"{show_number(found.mean, 2)} {show_bounds(found, 2)}".strip()
            yield (
                f"{STILL_MARK} Warning: {label} is best in {', '.join(led)}, but it moves less "
                f"than the source ({MOTION} {size}, where 1 is as much). Standing still raises "
                "consistency, so part of this lead may be missing motion."
            )
