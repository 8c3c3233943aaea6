"""How benchmarks measure time and memory, and print what they found."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


def print_table(title: str, lines: Sequence[str]) -> None:
    """Print lines below a title, which also tells the number of threads and the precision."""
    threads = f"{torch.get_num_threads()} thread(s), fp32"
    print("\n\n" + "\n".join([f"{title}, {threads}", *lines]))


@contextmanager
def silent_stderr() -> Iterator[None]:
    """The profiler announces itself on file descriptor 2, past any Python stream."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def peak_bytes(call: Callable[[], Any], trace: Path) -> int:
    """Most memory held at once during `call`, beyond what was held before."""
    cpu = [ProfilerActivity.CPU]
    with silent_stderr(), profile(activities=cpu, profile_memory=True) as profiler:
        result = call()
    del result
    profiler.export_chrome_trace(str(trace))
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def seconds(
    calls: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Best time of each call; they take turns in rotating order, so that noise meets all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        for name in order:
            start = clock()
            calls[name]()
            taken[name].append(clock() - start)
        order.append(order.pop(0))
    return {name: min(times) for name, times in taken.items()}
