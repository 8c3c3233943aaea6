"""Why a cell has no result, as it is written down. Torch-free."""

from __future__ import annotations

import signal
import time

from ablations.plan import Cell
from ablations.store import SCHEMA, Store


def record_failure(cell: Cell, store: Store, status: str, reason: str, log: str = "") -> None:
    """Record how an attempt at a cell ended: `skipped failed oom diverged interrupted`."""
    record = {
        "schema": SCHEMA,
        **cell.summary(),
        "metric_keys": dict(cell.metric_keys),
        "status": status,
        "reason": reason,
        "at": time.time(),
    }
    store.write_failure(cell.key, record, log)
    store.journal("cell-failed", key=cell.key, status=status, reason=reason)


def explain_exit(code: int | None) -> tuple[str, str]:
    """Status and reason for a worker process that ended by itself with this exit code.

    Linux ends processes with SIGKILL when memory runs out; nobody else does without being asked.
    """
    if code == -signal.SIGKILL:
        return "oom", "its process was killed (SIGKILL), most often because memory ran out"
    if code is not None and code < 0:
        return "failed", f"its process was ended by {signal.Signals(-code).name}"
    return "failed", f"its process ended with exit code {code}"
