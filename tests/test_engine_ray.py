"""The Ray engine on a real local cluster: equal numbers, and a worker that is killed."""

import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="no Ray here: pip install 'crossframe[ray]'")

from lab import Lab, engine, spec_text

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
    assert set(lab.starts().values()) == {1}

    assert signal.getsignal(signal.SIGTERM) is handler, "Ray's own handler is gone"


OWNER = """
import ray, sys
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
for line in sys.stdin:
    print(ray.get(ray.remote(num_cpus=2)(lambda: 6 * 7).remote(), timeout=60), flush=True)
"""


@pytest.fixture
def cluster(lab):
    """A cluster of another process: its address, and a way to ask it whether it lives."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask():
        owner.stdin.write("?\n")
        owner.stdin.flush()
        return owner.stdout.readline().strip()

    yield owner.stdout.readline().strip(), ask
    owner.stdin.close()
    owner.wait(60)


def test_a_living_cluster_is_joined_and_left_as_it_was(lab, cluster):
    address, ask = cluster
    run = lab.start("--engine", "ray", "--address", address, "--jobs", "2", "--threads", "1")
    told, errors = run.communicate(timeout=240)
    assert run.returncode == 0, told + errors
    inline = Lab(lab.path.parent / "inline", TEXT)
    inline.run()
    assert lab.metrics() == inline.metrics()
    rows = {(record["row"], record["seed_index"]) for record in lab.results()}
    assert rows == {(row, seed) for row in ("individual", "full") for seed in (0, 1)}
    assert ask() == "42", "it computes, on all its CPUs: no actor of ours is left"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "host:port"])
def test_a_cluster_that_is_not_there_is_told(lab, address):
    with pytest.raises(UserError, match="no Ray cluster"):
        lab.run(engine=engine("ray", address=address))
