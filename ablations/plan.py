"""Cells with keys and states: what is done, what is to do, what cannot be done. Torch-free."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.cards import ClipCard, clip_request, read_cards
from ablations.cellkeys import Keys, needs_backbone
from ablations.check import CheckedSpec
from ablations.estimate import Shared, bytes_of, seconds_of, shared_work
from ablations.parts import Parts
from ablations.planned import Cell
from ablations.spec import Spec
from ablations.store import KEY_DIGITS, Store
from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.keys import derive_seed

__all__ = [
    "RETRYABLE",
    "STATES",
    "TO_RUN",
    "Cell",
    "ClipCard",
    "Plan",
    "clip_request",
    "default_out",
    "make_plan",
    "needs_backbone",
    "prompts_of",
    "state_of",
]

STATES = ("cached", "score", "run", "retry", "failed", "skipped")
"""cached: done. score: sampled, metrics missing. run: nothing is known of it yet.
retry: failed earlier, and asked for again. failed: failed earlier, and left alone.
skipped: cannot be run here, for the reason given.
"""

TO_RUN = ("score", "run", "retry")
"""The states of cells that a run works on."""

FRESH = ("run", "")
"""State and reason of a cell of which nothing is stored."""

RETRYABLE = ("failed", "oom", "diverged")
"""Recorded ends of a cell that are not tried again unasked; any other record is judged anew."""


SPOILT = "its result.json is damaged"
"""Reason of a cell that is made again for this alone."""


@dataclass(frozen=True)
class Plan:
    """All cells in the order in which they run, each with its state.

    seconds, bytes: estimates for what is to be sampled and scored, None when unknown.
    obstacle: why the backbone cannot be had here; the cells that need it are skipped then.
    reasons: cell by cell, why it is skipped, how it failed earlier, `SPOILT`, or "".
    shared: work that the cells to run have in common, by stage.
    """

    checked: CheckedSpec
    cells: tuple[Cell, ...]
    states: tuple[str, ...]
    seconds: float | None
    obstacle: UserError | None = None
    reasons: tuple[str, ...] = ()
    bytes: int | None = None
    shared: Mapping[str, Shared] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Number of cells in each state, in the order of `STATES`."""
        found = Counter(self.states)
        return {state: found[state] for state in STATES}

    def with_state(self, *states: str) -> list[Cell]:
        """The cells in any of these states."""
        return [
            cell for cell, state in zip(self.cells, self.states, strict=True) if state in states
        ]


def make_plan(
    checked: CheckedSpec, store: Store, parts: Parts, retry: Collection[str] = ()
) -> Plan:
    """Load the clips, key every cell and compare with the store.

    retry: the failures to try again: `oom`, `diverged`, or `failed` for every kind.
    Raises `UserError` for another word in `retry`.
    """
    _require_failures(retry)
    keys = Keys(checked, parts)
    cards = read_cards(checked.clips, checked.spec, parts)
    cells = tuple(_cells(checked, cards, keys))
    begun = _begun(store)
    judged = [
        state_of(cell, store, retry) if cell.problem or cell.key[:KEY_DIGITS] in begun else FRESH
        for cell in cells
    ]
    states, reasons = zip(*judged, strict=True)
    paired = list(zip(cells, states, strict=True))
    sampled = [cell for cell, state in paired if state in ("run", "retry")]
    return Plan(
        checked,
        cells,
        states,
        seconds_of(sampled, [cell for cell, state in paired if state == "score"], store),
        keys.obstacle,
        reasons,
        bytes_of(len(sampled), store),
        shared_work([cell for cell, state in paired if state in TO_RUN], checked, store, parts),
    )


def _begun(store: Store) -> set[str]:
    """Names of the cell folders: most plans are of new cells, which are told by this alone.

    Raises OSError for a run folder that cannot be one, as `a file/run`.
    """
    try:
        return set(os.listdir(store.root / "cells"))
    except FileNotFoundError:
        return set()


def _require_failures(words: Collection[str]) -> None:
    unknown = [word for word in words if word not in RETRYABLE]
    if unknown:
        raise UserError(
            Problem(
                f"--retry {word}",
                "no such kind of failure",
                ", ".join(RETRYABLE),
                did_you_mean(word, RETRYABLE),
            )
            for word in unknown
        )


def _cells(checked: CheckedSpec, cards: Iterable[ClipCard], keys: Keys) -> Iterable[Cell]:
    """Yield cells in the order in which they run: by clip, row, prompt and seed.

    A spec has one backbone, so its weights are loaded once in any order; what a runner would do
    twice is the work on a clip (decoding, flow, control maps), so a clip is finished before the
    next begins. Sentinels come first: they need no networks, and a broken clip shows at once.
    """
    spec = checked.spec
    for clip in cards:
        prompts, problems = prompts_of(clip, spec)
        seeds = [derive_seed(spec.seeds.base, clip.sha256, i) for i in range(spec.seeds.count)]
        for row in checked.rows:
            found = (*problems, *keys.problems(row, clip))
            for prompt in prompts[:1] if row.sentinel else prompts:
                for index, seed in enumerate(seeds[:1] if row.sentinel else seeds):
                    key = keys.cell(row, clip, prompt, seed)
                    scores = keys.scores(key, clip)
                    yield Cell(key, row, clip, prompt, index, seed, scores, found)


def prompts_of(clip: ClipCard, spec: Spec) -> tuple[list[str], tuple[str, ...]]:
    """Return a clip's prompts and, when it has none, [""] with the reasons."""
    given = spec.prompts.get(clip.id) if isinstance(spec.prompts, dict) else spec.prompts
    if given:
        return [given] if isinstance(given, str) else list(given), clip.problems
    if clip.problems:
        return [""], clip.problems
    known = {"caption": clip.caption, **(clip.edits or {})}
    kinds = [spec.prompt] if isinstance(spec.prompt, str) else spec.prompt
    names = [name for name, text in known.items() if text]
    absent = [kind for kind in kinds if kind not in names]
    if not absent:
        return list(dict.fromkeys(known[kind] for kind in kinds)), ()
    allowed = f" (allowed: {', '.join(names)})" if names else ""
    hints = [
        did_you_mean(kind, names) or f"give one under prompts: {{{clip.id}: ...}}"
        for kind in absent
    ]
    return [""], tuple(
        f"{clip.id}: has no prompt of kind {kind!r}{allowed}. {hint}"
        for kind, hint in zip(absent, hints, strict=True)
    )


def state_of(cell: Cell, store: Store, retry: Collection[str] = ()) -> tuple[str, str]:
    """Compare one cell with the store: its state and the reason, as in `Plan`.

    A failure belongs to the key and the metrics that were asked for then, so another setting and
    another metric are tried. A record that an interruption or an obstacle left does not count.
    """
    if cell.problem:
        return "skipped", cell.problem
    result = store.result(cell.key)
    if result is not None:
        return ("cached" if result.get("metric_keys") == dict(cell.metric_keys) else "score"), ""
    failure = store.failure(cell.key)
    if failure is not None and _sticks(failure, cell):
        again = "failed" in retry or failure["status"] in retry
        return ("retry" if again else "failed"), str(failure.get("reason", ""))
    reason = SPOILT if store.spoilt(cell.key) else ""
    return ("score" if store.sample(cell.key) is not None else "run"), reason


def _sticks(failure: Mapping[str, Any], cell: Cell) -> bool:
    asked = failure.get("metric_keys")
    return failure.get("status") in RETRYABLE and asked in (None, dict(cell.metric_keys))


def default_out(spec: Spec) -> Path:
    """Run folder of a spec when none is given."""
    return Path("runs") / spec.name
