"""What a run folder holds that nobody needs: found with its size, then removed. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ablations.health import planned
from ablations.leases import acquire, claimed, holder
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


def find(store: Store, *, orphans: bool = False, stages: bool = False) -> Iterator[Leftover]:
    """Yield what may go: of killed processes always; cells in no plan, and what cells share.

    Nothing that a living runner is at is among it. Raises UserError when `orphans` are asked for
    and plan.json cannot be read: then every cell would look like one.
    """
    for path in leftovers(store.root):
        yield _plain(path, "half-written by a killed process")
    yield from _dead_claims(store.claim_folder)
    if orphans:
        yield from _orphans(store)
    if stages:
        folders = (store.stage_folder / stage for stage in STAGES)
        yield from (_plain(path, "shared stage") for path in folders if path.is_dir())
        if store.scratch_folder.is_dir():
            yield _plain(store.scratch_folder, "unfinished work of methods")
    else:
        damaged = StageCache(store.stage_folder).damaged()
        yield from (_plain(path, "damaged, moved aside") for path in damaged)


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
