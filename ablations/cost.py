"""What a piece of work costs: seconds, and the most memory that it held."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Seconds and bytes of a block; the bytes are None where the system cannot tell."""

    seconds: float = 0.0
    memory: int | None = None

    def record(self, frames: int) -> dict[str, Any]:
        """The entry of `result.json`: seconds, seconds_per_frame, peak_memory_bytes."""
        return {
            "seconds": self.seconds,
            "seconds_per_frame": self.seconds / frames,
            "peak_memory_bytes": self.memory,
        }


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure a block: `with measured() as cost: ...`; the cost is known after it.

    Memory is that of torch's allocator on the GPU where this process uses one. Otherwise it is the
    peak of the process's resident memory during the block, networks included, where the system can
    tell (Linux).
    """
    cost, cuda = Cost(), torch.cuda.is_initialized()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    resettable = not cuda and _reset_peak()
    began = time.perf_counter()
    yield cost
    if cuda:
        torch.cuda.synchronize()
    cost.seconds = time.perf_counter() - began
    if cuda:
        cost.memory = torch.cuda.max_memory_allocated()
    elif resettable:
        cost.memory = _peak()


def _reset_peak() -> bool:
    """Start the kernel's record of peak resident memory afresh; see proc(5), clear_refs."""
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int | None:
    lines = STATUS.read_text().splitlines()
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None
