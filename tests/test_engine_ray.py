"""The Ray engine on a real local cluster: equal numbers, lost workers, too little room, GPUs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="no Ray here: pip install 'crossframe[ray]'")

import ray
from fake_parts import fake_parts
from lab import Lab, engine, spec_text

from ablations import cell as cell_module
from ablations.engines import ray as module
from ablations.engines.base import Ended, Order, Started, Told
from ablations.engines.ray import Seat, Slot, require_room
from crossframe.errors import UserError

TEXT = spec_text(sentinels=[])


@pytest.fixture
def lab(tmp_path, monkeypatch):
    # Ray's workers import the fake parts from here.
    here = os.path.dirname(__file__)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(here), here]))
    return Lab(tmp_path, TEXT)


def test_a_killed_worker_takes_only_its_cell(lab):
    handler = signal.getsignal(signal.SIGTERM)
    outcome = lab.run("grid.death=[none, sigkill]", "clips=[world:tiny/0]", engine=engine("ray"))
    assert (outcome.done, len(outcome.failed), outcome.exit_code) == (4, 4, 1)
    for cell, reason in outcome.failed:
        assert "worker is gone" in reason
        assert lab.store.failure(cell.key)["status"] in ("failed", "oom")
        assert lab.store.holder(cell.key) is None
    inline = Lab(lab.path.parent / "inline", TEXT)
    inline.run("grid.death=[none]", "clips=[world:tiny/0]")
    assert lab.metrics() == inline.metrics()
    failed, starts = {cell.key for cell, _ in outcome.failed}, lab.starts()
    assert {starts[key] for key in failed} == {1}
    assert max(starts.values()) <= 2, "what was being finished beside it is begun again"

    assert signal.getsignal(signal.SIGTERM) is handler, "Ray's own handler is gone"


OWNER = """
import ray, sys
cpus, gpus = map(int, sys.argv[1:])
ray.init(num_cpus=cpus, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
for line in sys.stdin:
    print(ray.get(ray.remote(num_cpus=cpus)(lambda: 6 * 7).remote(), timeout=60), flush=True)
"""


@contextmanager
def cluster(cpus, gpus=0):
    """A cluster of another process: its address, and a way to ask it whether it lives.

    gpus: Ray believes in those that are named, whether there are any or not.
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(cpus), str(gpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask():
        owner.stdin.write("?\n")
        owner.stdin.flush()
        return owner.stdout.readline().strip()

    yield owner.stdout.readline().strip(), ask
    owner.stdin.close()
    owner.wait(60)


def test_a_living_cluster_is_joined_and_left_as_it_was(lab):
    with cluster(2) as (address, ask):
        run = lab.start("--engine", "ray", "--address", address, "--jobs", "2", "--threads", "1")
        told, errors = run.communicate(timeout=240)
        assert run.returncode == 0, told + errors
        assert ask() == "42", "it computes, on all its CPUs: no actor of ours is left"
    inline = Lab(lab.path.parent / "inline", TEXT)
    inline.run()
    assert lab.metrics() == inline.metrics()
    rows = {(record["row"], record["seed_index"]) for record in lab.results()}
    assert rows == {(row, seed) for row in ("individual", "full") for seed in (0, 1)}


def order_of(lab, parts=fake_parts):
    """What a worker of a lab has to know."""
    checked = lab.plan().checked
    root = lab.store.root.resolve()
    return Order(checked.spec, checked.backbone, root, parts, 1, time.time())


def test_workers_see_a_gpu_each_and_those_without_room_get_no_cell(lab, monkeypatch):
    """Three workers on a cluster of two GPUs: it ends, on two, and says why not on three."""
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with cluster(3, gpus=2) as (address, _):
        chosen = engine("ray", jobs=3, address=address)
        try:
            chosen.start(order_of(lab))
            calls = [seat.call for seat in chosen.seats]
            placed, _ = ray.wait(calls, num_returns=2, timeout=120)
            assert sorted(where.rpartition(", ")[2] for where in ray.get(placed)) == [
                "GPU 0",
                "GPU 1",
            ]
            events = list(chosen.run(lab.plan().with_state("run")))
        finally:
            chosen.stop()
    assert [event.status for event in events if isinstance(event, Ended)] == ["done"] * 8
    (told,) = (event.text for event in events if isinstance(event, Told))
    assert told.startswith("Ray has placed ")
    assert told.endswith(" of 3 workers; the others wait for 1 CPU and 1 GPU each")


@dataclass(eq=False)
class Call:
    """What an actor was asked."""

    ready: bool
    answer: Any


class Played:
    """An actor without Ray, which ends each cell with the next call, as one that encodes does."""

    def __init__(self, placed):
        self.open = []
        calls = {"where": lambda: "here", "begin": self._begin, "join": self._ended}
        for name, call in calls.items():
            answer = partial(self._answer, placed, call)
            setattr(self, name, SimpleNamespace(remote=answer))

    def _answer(self, placed, call, *arguments):
        return Call(placed, call(*arguments) if placed else None)

    def _begin(self, cell):
        ended, self.open = self._ended(), [cell]
        return ended

    def _ended(self):
        over, self.open = self.open, []
        return [Ended(cell.key, "done") for cell in over]


def test_cells_go_to_placed_actors_only(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(ray, "wait", lambda calls, timeout: ([c for c in calls if c.ready], []))
    monkeypatch.setattr(ray, "get", lambda call: call.answer)
    chosen, actors = engine("ray", jobs=3), [Played(placed) for placed in (True, False, True)]
    chosen.needs = {"CPU": 2, "GPU": 0}
    chosen.seats = [Seat(actor, actor.where.remote(), 0.0) for actor in actors]
    cells = [SimpleNamespace(key=str(number)) for number in range(5)]
    events = list(chosen.run(cells))
    ended = [event.key for event in events if isinstance(event, Ended)]
    assert sorted(ended) == [cell.key for cell in cells]
    assert {event.where for event in events if isinstance(event, Started)} == {"here"}
    told = [event.text for event in events if isinstance(event, Told)]
    assert told == ["Ray has placed 2 of 3 workers; the others wait for 2 CPUs each"]


def test_what_no_node_could_hold_is_told():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 8.0}},
    ]
    require_room(nodes, {"CPU": 2, "GPU": 1})
    require_room(nodes, {"CPU": 8, "GPU": 0})
    with pytest.raises(UserError, match="no node of the cluster has 4 CPUs and 1 GPU"):
        require_room(nodes, {"CPU": 4, "GPU": 1})


def test_a_video_is_encoded_beside_the_next_cell(lab, monkeypatch):
    """The actor answers while it encodes, and tells the end of that cell with the next one's."""
    first, second, *_ = lab.plan().with_state("run")
    encode, asked = cell_module.write_mp4, threading.Event()

    def encode_late(path, *rest):
        if path.parent.name == first.key[:16]:
            assert asked.wait(60), "the next cell is not asked for while this one is encoded"
        encode(path, *rest)

    monkeypatch.setattr(cell_module, "write_mp4", encode_late)
    slot = Slot(order_of(lab))
    assert slot.begin(first) == []
    asked.set()
    ends = [*slot.begin(second), *slot.join()]
    assert [(end.key, end.status) for end in ends] == [(c.key, "done") for c in (first, second)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ray.exceptions.NodeDiedError("the node is gone"), "failed"),
        (ray.exceptions.ActorUnschedulableError("no such place"), "failed"),
        (ray.exceptions.OutOfDiskError(), "failed"),
        (ray.exceptions.OutOfMemoryError("too much"), "oom"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_ray_loses_costs_one_cell(lab, monkeypatch, error, status):
    """Of two cells begun, the one before is tried again; an idle actor costs the next cell."""

    def lost(call):
        raise error

    one, two, three, *_ = lab.plan().with_state("run")
    chosen, replaced = engine("ray"), []
    monkeypatch.setattr(ray, "get", lost)
    monkeypatch.setattr(chosen, "_replace", replaced.append)
    seat = Seat(None, "a call", 0.0, "here", {one.key: one, two.key: two})
    ends = list(chosen._hear(seat, deque([three])))
    assert [(end.key, end.status, end.lost) for end in ends] == [
        (one.key, "busy", True),
        (two.key, status, True),
    ]
    assert type(error).__name__ in ends[1].reason
    unplaced, waiting = Seat(None, "a call", 0.0), deque([three])
    (blamed,) = chosen._hear(unplaced, waiting)
    assert (blamed.key, blamed.status, waiting) == (three.key, status, deque())
    assert list(chosen._hear(Seat(None, "a call", 0.0), waiting)) == []
    assert len(replaced) == 3


def test_threads_are_of_this_machine_only_where_ray_is_started_here(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    free = {"jobs": 2, "threads": None}
    assert engine("ray", **free).threads == 4
    assert engine("ray", **free, address="host:1").threads == 1
    assert engine("ray", jobs=2, threads=3, address="host:1").threads == 3


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "host:port"])
def test_a_cluster_that_is_not_there_is_told(lab, address):
    with pytest.raises(UserError, match="no Ray cluster"):
        lab.run(engine=engine("ray", address=address))
