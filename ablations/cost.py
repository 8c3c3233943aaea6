"""What a piece of work costs: seconds, and the most memory that it held."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Cost:
    """Measure a block: `with Cost() as cost: ...`.

    Memory is that of torch's allocator on the GPU where this process uses one. Otherwise it is the
    peak of the process's resident memory during the block, networks included, where the system can
    tell (Linux); None elsewhere.
    """

    seconds = 0.0
    memory: int | None = None

    def __enter__(self) -> Cost:
        self.cuda = torch.cuda.is_initialized()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            self.resettable = _reset_peak()
        self.began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            self.memory = torch.cuda.max_memory_allocated()
        elif self.resettable:
            self.memory = _peak()
        self.seconds = time.perf_counter() - self.began

    def record(self, frames: int) -> dict[str, Any]:
        """The entry of `result.json`: seconds, seconds_per_frame, peak_memory_bytes."""
        return {
            "seconds": self.seconds,
            "seconds_per_frame": self.seconds / frames,
            "peak_memory_bytes": self.memory,
        }


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
