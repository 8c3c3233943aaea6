"""SIGKILL at every kind of point and at random moments: the final table is the same, to the byte.

`make soak` does 200 random kills (`CROSSFRAME_KILLS`), some of them several times per run.
"""

import os
import random

import pytest
from killing import Undisturbed, points, run, run_for, slot_points, survives

KILLS = int(os.environ.get("CROSSFRAME_KILLS", "20"))
PER_CALL = 5
LOCAL = 6
"""Every so many kills at a random moment one is of a run with slots, which takes longer."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def slots(tmp_path_factory, undisturbed):
    """The same in two slots."""
    found = Undisturbed(tmp_path_factory.mktemp("slots"), "local")
    assert (found.table, found.cells) == (undisturbed.table, undisturbed.cells)
    return found


def test_kills_at_points_of_every_call(undisturbed, tmp_path):
    chosen = points(undisturbed.counts, PER_CALL)
    assert len(chosen) >= 28
    assert {point.call for point in chosen} >= {"replace", "link", "fsync", "unlink", "write"}
    codes = [
        survives(tmp_path / "lab", undisturbed, lambda folder, p=point: run(folder, p))
        for point in chosen
    ]
    # Video is encoded beside other work, so the last call of a kind may not come again.
    kinds = len({point.call for point in chosen})
    assert codes.count(-9) >= len(chosen) - kinds


def test_kills_at_points_of_slots(slots, tmp_path):
    """The run and one of its two slots die at what that slot writes; the other slot notices."""
    chosen = slot_points(slots.counts)
    assert {point.call for point in chosen} >= {"replace", "link", "fsync", "unlink", "write"}
    codes = [
        survives(tmp_path / "lab", slots, lambda folder, p=point: run(folder, p, "local"))
        for point in chosen
    ]
    assert codes == [-9] * len(chosen)


def test_kills_at_random_moments(undisturbed, slots, tmp_path):
    """Of a run with slots, in the later half, for it takes a while to start them."""
    draw = random.Random(0)
    codes = []
    while codes.count(-9) < KILLS:
        assert len(codes) < 3 * KILLS, "most kills came after the end of the run"
        name = "inline" if len(codes) % LOCAL else "local"
        seconds = {"inline": (0, undisturbed.seconds), "local": (slots.seconds / 2, slots.seconds)}
        moment = draw.uniform(*seconds[name])

        def kill(folder, moment=moment, name=name):
            return run_for(folder, moment, name)

        codes.append(survives(tmp_path / "lab", undisturbed, kill))


def test_a_run_that_is_killed_again_and_again_ends(undisturbed, tmp_path):
    draw = random.Random(1)

    def kill_often(folder):
        codes = [run_for(folder, draw.uniform(0.3, 0.9) * undisturbed.seconds) for _ in range(4)]
        return codes[0]

    assert survives(tmp_path / "lab", undisturbed, kill_often) == -9
