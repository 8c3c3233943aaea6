"""What a run folder holds that nobody needs: found with its size, then removed. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ablations.health import planned
from ablations.leases import Owner, acquire, claimed, holder
from ablations.stage_versions import STAGES
from ablations.stages import StageCache
from ablations.store import Store
from crossframe.errors import Problem, UserError
from crossframe.files import leftovers, remove, size_of


@dataclass(frozen=True)
class Leftover:
    """A path that may go, with its bytes; `discard` removes it and tells whether it could."""

    path: Path
    what: str
    size: int
    discard: Callable[[], bool]


def at_work(store: Store) -> list[Owner]:
    """Return the living runners that hold a claim; they may be using what cells share."""
    owners = filter(None, claimed(store.claim_folder).values())
    return sorted({str(owner): owner for owner in owners}.values(), key=str)


def find(store: Store, *, orphans: bool = False, stages: bool = False) -> Iterator[Leftover]:
    """Yield what may go: of killed processes always; cells in no plan, and what cells share.

    Nothing that a living runner is at is among it: what cells share only while nobody is at work.
    Raises UserError when `orphans` are asked for and plan.json cannot be read: then every cell
    would look like one.
    """
    for path in leftovers(store.root):
        yield _plain(path, "half-written by a killed process")
    yield from _dead_claims(store.claim_folder)
    if orphans:
        yield from _orphans(store)
    if stages and not at_work(store):
        yield from _shared(store)
    else:
        damaged = StageCache(store.stage_folder).damaged()
        yield from (_plain(path, "damaged, moved aside") for path in damaged)


def _shared(store: Store) -> Iterator[Leftover]:
    """What cells share and what methods have not finished; left alone if a runner comes by then."""
    named = [(store.stage_folder / stage, "shared stage") for stage in STAGES]
    named.append((store.scratch_folder, "unfinished work of methods"))
    for path, what in named:
        if path.is_dir():
            discard = partial(_removed_while_idle, store, path)
            yield Leftover(path, what, size_of(path), discard)


def _removed_while_idle(store: Store, path: Path) -> bool:
    return not at_work(store) and _removed(path)


def _plain(path: Path, what: str) -> Leftover:
    return Leftover(path, what, size_of(path), partial(_removed, path))


def _removed(path: Path) -> bool:
    remove(path)
    return not path.exists()


def _dead_claims(folder: Path) -> Iterator[Leftover]:
    for name, owner in claimed(folder).items():
        if owner is None:
            size = sum(map(size_of, folder.glob(f"{name}.*")))
            what = "claim of a dead process"
            yield Leftover(folder / name, what, size, partial(_given_back, folder, name))


def _given_back(folder: Path, name: str) -> bool:
    """Take a dead claim over and release it, as a runner would."""
    lease = acquire(folder, name)
    if lease is not None:
        lease.release()
    return lease is not None


def _orphans(store: Store) -> Iterator[Leftover]:
    known = planned(store)
    if known is None:
        what = "cannot be read, so no cell can be told to be in no plan"
        raise UserError(Problem(str(store.root / "plan.json"), what, fix="Run the spec again"))
    for path in store.cells():
        if path.name not in known and holder(store.claim_folder, path.name) is None:
            discard = partial(_removed_under_claim, store.claim_folder, path)
            yield Leftover(path, "cell in no plan", size_of(path), discard)


def _removed_under_claim(claims: Path, path: Path) -> bool:
    lease = acquire(claims, path.name)
    if lease is None:
        return False
    with lease:
        return _removed(path)
