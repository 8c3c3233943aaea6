"""Work that cells share and one runner makes: the others do other cells first, then go on."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from lab import Lab

from ablations.leases import acquire
from ablations.stage_versions import stage_key
from crossframe.registry import Registry

PARTS = ["a clip", "settings"]
CLAIM = f"tuning-{stage_key('tuning', PARTS)[:16]}"


@pytest.fixture
def made():
    return []


@pytest.fixture
def lab(tmp_path, made):
    """A lab in which the four cells with `full` attention share one tuning."""

    class Tuning(Registry):
        def load(self, name):
            sampler = Registry.load(self, name)

            def tuned(backbone, request, config, progress):
                if name == "noisy" and config.attention.pattern == "full":
                    request.shared("tuning", PARTS, tune)
                return sampler(backbone, request, config, progress)

            return tuned

    def tune():
        made.append(1)
        return {"weight": torch.zeros(3)}

    lab = Lab(tmp_path)
    methods = lab.parts.methods
    tuning = Tuning(methods.kind, methods.entries, methods.group)
    lab.parts = replace(lab.parts, methods=tuning)
    return lab


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_made_once(lab, made):
    assert lab.run().done == 10
    assert len(made) == 1
    assert "cell-waits" not in lab.events()


def test_while_another_is_at_it_other_cells_are_done(lab, made):
    outcomes = []
    other = acquire(lab.store.claim_folder, CLAIM)
    run = threading.Thread(target=lambda: outcomes.append(lab.run()), daemon=True)
    run.start()
    wait_until(lambda: lab.events().count("cell-waits") == 4 and len(lab.results()) == 6)
    time.sleep(0.5)
    assert (run.is_alive(), made) == (True, [])
    assert lab.events().count("cell-waits") == 4, "nothing is tried before its time"
    assert {record["row"] for record in lab.results()} == {"source", "individual"}
    other.release()
    run.join(60)
    assert (outcomes[0].done, outcomes[0].failed, len(made)) == (10, [], 1)


def test_what_the_other_made_is_used(lab, made):
    from ablations.stages import StageCache

    other = acquire(lab.store.claim_folder, CLAIM)
    outcomes = []
    run = threading.Thread(target=lambda: outcomes.append(lab.run()), daemon=True)
    run.start()
    wait_until(lambda: "cell-waits" in lab.events())
    StageCache(lab.store.stage_folder).get("tuning", PARTS, lambda: {"weight": np.ones(3)})
    other.release()
    run.join(60)
    assert (outcomes[0].done, made) == (10, [])
