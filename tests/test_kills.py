"""SIGKILL at every kind of point and at random moments: the final table is the same, to the byte.

`make soak` does 200 random kills (`CROSSFRAME_KILLS`), some of them several times per run.
"""

import os
import random

import pytest
from killing import Undisturbed, points, run, run_for, survives

KILLS = int(os.environ.get("CROSSFRAME_KILLS", "20"))
PER_CALL = 6


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


def test_kills_at_points_of_every_call(undisturbed, tmp_path):
    chosen = points(undisturbed.counts, PER_CALL)
    assert len(chosen) >= 30
    assert {point.call for point in chosen} >= {"replace", "link", "fsync", "unlink", "write"}
    codes = [
        survives(tmp_path / "lab", undisturbed, lambda folder, p=point: run(folder, p))
        for point in chosen
    ]
    # Video is encoded beside other work, so the last call or two of a kind come and go.
    assert codes.count(-9) >= 30


def test_kills_at_random_moments(undisturbed, tmp_path):
    draw = random.Random(0)
    codes = []
    while codes.count(-9) < KILLS:
        assert len(codes) < 3 * KILLS, "most kills came after the end of the run"
        seconds = draw.uniform(0, undisturbed.seconds)
        codes.append(
            survives(tmp_path / "lab", undisturbed, lambda folder, s=seconds: run_for(folder, s))
        )


def test_a_run_that_is_killed_again_and_again_ends(undisturbed, tmp_path):
    draw = random.Random(1)

    def kill_often(folder):
        codes = [run_for(folder, draw.uniform(0.3, 0.9) * undisturbed.seconds) for _ in range(4)]
        return codes[0]

    assert survives(tmp_path / "lab", undisturbed, kill_often) == -9
