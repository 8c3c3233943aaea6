"""Cells with their keys and states: what is done, what is to do, what cannot be done. Torch-free.

The key of a cell identifies its *frames*: method and version, resolved options, weights, clip,
prompt and seed. Metrics have keys of their own, so that a new metric scores stored frames and
samples nothing again.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.check import CheckedSpec
from ablations.grid import Row
from ablations.parts import Parts
from ablations.spec import Spec
from ablations.store import SCHEMA, Store
from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.keys import array_sha256, derive_seed, identity

STATES = ("cached", "score", "run", "retry", "failed", "skipped")
"""cached: done. score: sampled, metrics missing. run: nothing is known of it yet.
retry: failed earlier, and asked for again. failed: failed earlier, and left alone.
skipped: cannot be run here, for the reason given.
"""

TO_RUN = ("score", "run", "retry")
"""The states of cells that a run works on."""

FAILURES = ("failed", "oom", "diverged")
"""Recorded ends of a cell that are not tried again unasked; any other record is judged anew."""


@dataclass(frozen=True)
class ClipCard:
    """What a plan needs to know of a clip; `problem` says why it cannot be used."""

    ref: str
    id: str
    sha256: str = ""
    truth_sha256: str | None = None
    caption: str = ""
    edits: Mapping[str, str] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Cell:
    """One sample to make: a row on a clip with a prompt and a seed."""

    key: str
    row: Row
    clip: ClipCard
    prompt: str
    seed_index: int
    seed: int
    metric_keys: Mapping[str, str]
    problem: str = ""

    def summary(self) -> dict[str, Any]:
        """The cell as listed in plan.json."""
        return {
            "key": self.key,
            "row": self.row.label,
            "axes": dict(self.row.axes),
            "method": self.row.method,
            "sentinel": self.row.sentinel,
            "clip": self.clip.id,
            "prompt": self.prompt,
            "seed_index": self.seed_index,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Plan:
    """All cells in the order in which they run, each with its state.

    seconds: estimate for what is to run, None when unknown.
    obstacle: why the backbone cannot be had here; the cells that need it are skipped then.
    reasons: cell by cell, why it is skipped or how it failed earlier, or "".
    """

    checked: CheckedSpec
    cells: tuple[Cell, ...]
    states: tuple[str, ...]
    seconds: float | None
    obstacle: UserError | None = None
    reasons: tuple[str, ...] = ()

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
    cards = [card(ref, checked.spec, parts) for ref in checked.clips]
    keys = _Keys(checked, parts)
    cells = list(_cells(checked, cards, keys))
    judged = [state_of(cell, store, retry) for cell in cells]
    waiting = [
        cell for cell, (state, _) in zip(cells, judged, strict=True) if state in ("run", "retry")
    ]
    return Plan(
        checked,
        tuple(cells),
        tuple(state for state, _ in judged),
        estimate(waiting, store),
        keys.obstacle,
        tuple(reason for _, reason in judged),
    )


def _require_failures(words: Collection[str]) -> None:
    unknown = [word for word in words if word not in FAILURES]
    if unknown:
        raise UserError(
            Problem(
                f"--retry {word}",
                "no such kind of failure",
                ", ".join(FAILURES),
                did_you_mean(word, FAILURES),
            )
            for word in unknown
        )


def clip_request(ref: str, spec: Spec) -> Any:
    """The request that reads a clip as the spec wants it."""
    from data_manifests.clips import ClipRequest

    return ClipRequest(ref, **spec.clip.model_dump())


def card(ref: str, spec: Spec, parts: Parts) -> ClipCard:
    """Read a clip and keep what a plan needs; a clip that cannot be read becomes a reason."""
    name = parts.clip_id(ref)
    try:
        clip = parts.load_clip(clip_request(ref, spec))
    except UserError as error:
        return ClipCard(ref, name, problem=str(error))
    return ClipCard(
        ref, clip.id, clip.sha256, _truth_sha256(clip.truth), clip.caption, dict(clip.edits)
    )


def _truth_sha256(truth: Any) -> str | None:
    if truth is None:
        return None
    return identity({name: array_sha256(array) for name, array in sorted(vars(truth).items())})


class _Keys:
    """Keys of cells and scores; weights are hashed once, and only when a row needs them."""

    def __init__(self, checked: CheckedSpec, parts: Parts) -> None:
        self.checked = checked
        self.parts = parts
        self.obstacle: UserError | None = None
        self.backbone: dict[str, Any] = {}
        if any(needs_backbone(row.method, parts) for row in checked.rows):
            self._hash_backbone()
        self.encoder = parts.encoder_identity(
            parts.encoder_folder(checked.spec.encoder, checked.backbone)
        )

    def _hash_backbone(self) -> None:
        try:
            self.backbone = dict(self.parts.backbone_identity(self.checked.backbone))
        except UserError as error:
            self.obstacle = error

    def problem(self, row: Row) -> str:
        """Why no cell of a row can be run, or ""."""
        needed = needs_backbone(row.method, self.parts)
        return str(self.obstacle) if needed and self.obstacle else ""

    def cell(self, row: Row, clip: ClipCard, prompt: str, seed: int) -> str:
        extra = self.parts.methods.entry(row.method).extra
        return identity(
            {
                "schema": SCHEMA,
                "method": row.method,
                "version": extra.get("version", 1),
                "config": row.config,
                "backbone": self.backbone if extra.get("needs_backbone", True) else None,
                "clip": [clip.sha256, clip.truth_sha256] if not clip.problem else clip.ref,
                "prompt": prompt,
                "seed": seed,
            }
        )

    def metrics(self, key: str) -> dict[str, str]:
        return {name: self._metric(name, key) for name in self.checked.spec.metrics}

    def _metric(self, name: str, key: str) -> str:
        extra = self.parts.metrics.entry(name).extra
        encoder = self.encoder if "clip" in extra.get("needs", ()) else None
        return identity([key, name, extra.get("version", 1), encoder])


def needs_backbone(method: str, parts: Parts) -> bool:
    """Tell whether a method runs networks."""
    return bool(parts.methods.entry(method).extra.get("needs_backbone", True))


def _cells(checked: CheckedSpec, cards: Iterable[ClipCard], keys: _Keys) -> Iterable[Cell]:
    """Yield cells in the order in which they run: by clip, row, prompt and seed.

    A spec has one backbone, so its weights are loaded once in any order; what a runner would do
    twice is the work on a clip (decoding, flow, control maps), so a clip is finished before the
    next begins. Sentinels come first: they need no networks, and a broken clip shows at once.
    """
    spec = checked.spec
    for clip in cards:
        prompts, problem = prompts_of(clip, spec)
        for row in checked.rows:
            for prompt in prompts[:1] if row.sentinel else prompts:
                for index in range(1 if row.sentinel else spec.seeds.count):
                    seed = derive_seed(spec.seeds.base, clip.sha256, index)
                    key = keys.cell(row, clip, prompt, seed)
                    yield Cell(
                        key,
                        row,
                        clip,
                        prompt,
                        index,
                        seed,
                        keys.metrics(key),
                        problem or keys.problem(row),
                    )


def prompts_of(clip: ClipCard, spec: Spec) -> tuple[list[str], str]:
    """Return a clip's prompts and, when it has none, [""] with the reason."""
    if clip.problem:
        return [""], clip.problem
    given = spec.prompts.get(clip.id) if isinstance(spec.prompts, dict) else spec.prompts
    if given:
        return [given] if isinstance(given, str) else list(given), ""
    known = {"caption": clip.caption, **(clip.edits or {})}
    found = known.get(spec.prompt, "")
    if found:
        return [found], ""
    names = [name for name, text in known.items() if text]
    allowed = f" (allowed: {', '.join(names)})" if names else ""
    hint = did_you_mean(spec.prompt, names) or f"give one under prompts: {{{clip.id}: ...}}"
    return [""], f"{clip.id}: has no prompt of kind {spec.prompt!r}{allowed}. {hint}"


def state_of(cell: Cell, store: Store, retry: Collection[str] = ()) -> tuple[str, str]:
    """Compare one cell with the store: its state, and the reason when it is skipped or failed.

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
    return ("score" if store.sample(cell.key) is not None else "run"), ""


def _sticks(failure: Mapping[str, Any], cell: Cell) -> bool:
    asked = failure.get("metric_keys")
    return failure.get("status") in FAILURES and asked in (None, dict(cell.metric_keys))


def estimate(cells: Iterable[Cell], store: Store) -> float | None:
    """Seconds for `cells` by the medians of earlier ones, or None when a row has no precedent."""
    by_row: dict[tuple[str, str], list[float]] = {}
    by_method: dict[str, list[float]] = {}
    for method, label, seconds in store.seconds():
        by_row.setdefault((method, label), []).append(seconds)
        by_method.setdefault(method, []).append(seconds)
    total = 0.0
    for cell in cells:
        method = cell.row.method
        known = by_row.get((method, cell.row.label)) or by_method.get(method)
        if known is None:
            return None
        total += statistics.median(known)
    return total


def default_out(spec: Spec) -> Path:
    """Run folder of a spec when none is given."""
    return Path("runs") / spec.name
