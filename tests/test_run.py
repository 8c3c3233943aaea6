"""Runs from end to end over fake parts: caching, failure, interruption, re-scoring."""

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from lab import Lab

from ablations.listing import show_seconds
from crossframe.registry import Registry
from crossframe.video import read_frames


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def count(methods, calls):
    """A registry whose samplers note when they are called."""

    class Counting(Registry):
        def load(self, name):
            sampler = Registry.load(self, name)

            def counted(*arguments):
                calls.append(name)
                return sampler(*arguments)

            return counted

    return Counting(methods.kind, methods.entries, methods.group)


def test_a_run_fills_the_store(lab):
    outcome = lab.run()
    assert (outcome.done, outcome.failed, outcome.exit_code) == (10, [], 0)
    root = lab.store.root
    spec = json.loads((root / "spec.json").read_text())
    assert [row["label"] for row in spec["rows"]] == ["source", "individual", "full"]
    assert len(json.loads((root / "plan.json").read_text())) == 10
    clip = lab.store.clip_folder("world:tiny/0")
    assert json.loads((clip / "clip.json").read_text())["exact_flow"] is False
    assert read_frames(clip / "frames").shape == (2, 8, 8, 3)
    for record in lab.results():
        folder = lab.store.cell_folder(record["key"])
        assert (folder / "video.mp4").exists()
        assert record["status"] == "done"
        assert record["cost"]["seconds"] >= 0
        assert set(record["metrics"]) == {"psnr/mean_error"}


def test_scores_are_of_the_stored_frames(lab):
    lab.run()
    for record in lab.results():
        frames = read_frames(lab.store.cell_folder(record["key"]) / "frames").astype(float)
        source = read_frames(lab.store.clip_folder(record["clip"]) / "frames").astype(float)
        error = np.abs(frames - source).mean() / 255
        assert record["metrics"]["psnr/mean_error"]["value"] == pytest.approx(error, abs=1e-6)
        assert (error == 0) == (record["row"] == "source")


def test_a_second_run_does_nothing(lab):
    lab.run()
    before = {path: path.stat().st_mtime_ns for path in lab.store.root.glob("cells/*/*")}
    outcome = lab.run()
    assert (outcome.done, outcome.cached) == (0, 10)
    assert before == {path: path.stat().st_mtime_ns for path in lab.store.root.glob("cells/*/*")}


def test_a_new_metric_scores_stored_frames_and_samples_nothing(lab):
    lab.run()
    old = {record["key"]: record for record in lab.results()}
    calls = []
    lab.parts = replace(lab.parts, methods=count(lab.parts.methods, calls))
    outcome = lab.run("metrics=[psnr/mean_error, brightness]")
    assert (outcome.done, calls) == (10, [])
    for record in lab.results():
        earlier = old[record["key"]]
        assert record["metrics"]["psnr/mean_error"] == earlier["metrics"]["psnr/mean_error"]
        assert record["cost"]["seconds"] == earlier["cost"]["seconds"]
        assert "brightness" in record["metrics"]


def test_an_override_runs_only_what_is_new(lab):
    lab.run()
    outcome = lab.run("grid.attention.pattern=[individual, full, first]")
    assert (outcome.cached, outcome.done) == (10, 4)


def test_labels_follow_the_grid(lab):
    lab.run()
    outcome = lab.run("grid.steps=[2, 3]")
    assert (outcome.cached, outcome.done) == (10, 8)
    labels = {record["row"] for record in lab.results()}
    assert "pattern=full, steps=2" in labels
    assert "full" not in labels


def test_a_failing_cell_does_not_stop_the_others(lab):
    outcome = lab.run("grid={fail: [true, false]}")
    assert (outcome.done, len(outcome.failed), outcome.exit_code) == (6, 4, 1)
    failures = [json.loads(p.read_text()) for p in lab.store.root.glob("cells/*/failed.json")]
    assert len(failures) == 4
    assert {f["reason"] for f in failures} == {"RuntimeError: the fake was told to fail"}
    assert {f["status"] for f in failures} == {"failed"}
    assert "Traceback" in (lab.store.root / failures[0]["log"]).read_text()
    assert lab.plan("grid={fail: [true, false]}").counts()["failed"] == 4


def test_bad_clips_fail_alone(lab):
    outcome = lab.run("clips=[world:tiny/9, world:tiny/0, no.mp4]")
    assert (outcome.done, len(outcome.failed), outcome.exit_code) == (5, 10, 1)
    reasons = {reason for _, reason in outcome.failed}
    assert len(reasons) == 2
    assert all("no such file" in reason for reason in reasons)
    assert all("Traceback" not in reason for reason in reasons)


def test_a_metric_without_weights_says_so(lab):
    outcome = lab.run("metrics=[psnr/mean_error, clip/aligned]")
    assert outcome.exit_code == 0
    for record in lab.results():
        assert "no CLIP weights" in record["metrics"]["clip/aligned"]["unavailable"]
        assert "value" in record["metrics"]["psnr/mean_error"]


def test_limit_leaves_the_rest_for_the_next_run(lab):
    first = lab.run(limit=3)
    assert (first.done, first.left) == (3, 7)
    assert lab.run().done == 7


def test_a_cell_does_not_depend_on_its_neighbours(lab, tmp_path):
    lab.run()
    alone = Lab(tmp_path / "alone")
    alone.run("grid.attention.pattern=[full]", "clips=[world:tiny/1]", "sentinels=[]")
    by_key = {record["key"]: record for record in lab.results()}
    assert len(alone.results()) == 2
    for record in alone.results():
        assert record["metrics"] == by_key[record["key"]]["metrics"]


def test_a_broken_result_is_made_again(lab):
    lab.run()
    path = next(lab.store.root.glob("cells/*/result.json"))
    whole = json.loads(path.read_text())
    path.write_text(path.read_text()[:40])
    assert lab.run().done == 1
    assert json.loads(path.read_text())["metrics"] == whole["metrics"]


def test_frames_that_are_not_finite_fail_the_cell(lab):
    class Diverging(Registry):
        def load(self, name):
            return lambda backbone, request, config, progress: request.frames * float("nan")

    methods = lab.parts.methods
    diverging = Diverging(methods.kind, methods.entries, methods.group)
    lab.parts = replace(lab.parts, methods=diverging)
    outcome = lab.run("sentinels=[]")
    assert outcome.done == 0
    cell, reason = outcome.failed[0]
    assert "diverged" in reason
    assert lab.store.failure(cell.key)["status"] == "diverged"


def start(lab):
    return lab.start("--set", "base.sleep=0.2")


def wait_for_cells(lab, process, number):
    deadline = time.monotonic() + 240
    while len(list(lab.store.root.glob("cells/*/result.json"))) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no cells appear"
        time.sleep(0.01)


def test_kill_9_in_the_middle_and_resume(lab):
    process = start(lab)
    wait_for_cells(lab, process, 3)
    process.kill()
    process.communicate()
    kept = {record["key"]: record["provenance"] for record in lab.results()}
    assert 3 <= len(kept) < 10
    outcome = lab.run("base.sleep=0.2")
    assert (outcome.cached, outcome.done) == (len(kept), 10 - len(kept))
    after = {record["key"]: record["provenance"] for record in lab.results()}
    assert {key: after[key] for key in kept} == kept
    assert not list(lab.store.root.glob("**/.*.tmp*"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interruption_prints_the_command_that_resumes(lab, sent):
    process = start(lab)
    wait_for_cells(lab, process, 1)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "crossframe run" in errors
    assert "--set base.sleep=0.2" in errors
    assert "Traceback" not in errors
    assert "interrupted" in lab.events()
    assert lab.run("base.sleep=0.2").exit_code == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (190, "3 min 10 s"), (7500, "2 h 5 min")]
)
def test_seconds_read_well(seconds, text):
    assert show_seconds(seconds) == text


def test_it_says_for_whom_it_waits(lab):
    """A cell that another living process holds, and for as long as it likes."""
    held = lab.plan().cells[0].key
    with lab.store.claim(held):
        run = lab.start()
        line = next(line for line in run.stdout if line.startswith("waits"))
        assert line.startswith(f"waits for process {os.getpid()} on ")
        assert line.endswith(" to end 1 cell\n")
    rest, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert not any(line.startswith("waits") for line in rest.splitlines()), rest
    assert len(lab.results()) == 10
