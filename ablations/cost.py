"""What a piece of work costs: seconds, and the most memory that it held."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Cost:
    """Measure a block: `with Cost(device) as cost: ...`.

    Memory is that of the GPU's allocator on CUDA devices. On the CPU it is the peak of the
    process's resident memory during the block, networks included, where the system can tell
    (Linux); None elsewhere.
    """

    def __init__(self, device: torch.device | None) -> None:
        self.cuda = device if device is not None and device.type == "cuda" else None
        self.seconds = 0.0
        self.memory: int | None = None

    def __enter__(self) -> Cost:
        if self.cuda is not None:
            torch.cuda.reset_peak_memory_stats(self.cuda)
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
        if self.cuda is not None:
            torch.cuda.synchronize(self.cuda)
            self.memory = torch.cuda.max_memory_allocated(self.cuda)
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
