"""`crossframe tuned`: a network that a run tuned, as a checkpoint."""

import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ablations.leases import acquire, holder
from ablations.stages import InWork
from ablations.store import Store
from crossframe.cli import main
from methods import backbone_config
from methods.tuneavideo import sampler
from methods.tuneavideo.checkpoints import read_tuned, shapes_of
from tests.tiny_backbone import tiny_unet, write_miniature

SPEC = """
name: t
method: tuneavideo
sentinels: [source]
base: {steps: 2, tuning: {learning_rate: 0.01}}
grid: {tuning.steps: [1, 2]}
clips: ["world:heldout/0"]
clip: {frames: 2, size: 16}
metrics: [psnr]
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Function (*words) -> the outcome of `crossframe tuned` on a spec with tiny networks."""
    write_miniature(tmp_path / "weights")
    monkeypatch.setattr(backbone_config, "miniature_weights", lambda: tmp_path / "weights")
    (tmp_path / "s.yaml").write_text(SPEC)
    start = ["tuned", str(tmp_path / "s.yaml"), str(tmp_path / "t.pth")]
    out = ["--out", str(tmp_path / "run")]
    return lambda *words: CliRunner().invoke(main, [*start, *words, *out], catch_exceptions=False)


def test_the_network_of_a_cell_is_written_and_its_tuning_kept(call, tmp_path: Path) -> None:
    done = call("--clip", "world:heldout/0", "--row", "2")
    assert done.exit_code == 0, done.output
    assert f"2 on world:heldout/0: {tmp_path / 't.pth'}" in done.output
    image = tiny_unet().state_dict()
    found = read_tuned(tmp_path / "t.pth", shapes_of(image))
    assert any(not found[name].equal(tensor) for name, tensor in image.items() if name in found)
    assert len(list((tmp_path / "run/stages/tuning").glob("??/*.safetensors"))) == 1


def test_options_that_a_checkpoint_does_not_carry_are_told(call) -> None:
    told = "own code does not sample with attention.pattern: full, group_norm: per_frame"
    words = ("--clip", "world:heldout/0", "--row", "1")
    assert told in call(*words, "--set", "base.attention.pattern=full").output
    released = ("--set", "base.group_norm=pooled")
    assert "own code" not in call(*words, *released).output


def test_another_runner_at_the_tuning_is_waited_for_and_named(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar counts the tuning alone, and ends full also when another has done it."""
    claims = Store(tmp_path / "run").claim_folder
    lease = acquire(claims, "tuning-x")
    assert lease is not None
    really, calls = sampler.tuned_network, []

    def at_first_busy(*given: Any) -> Any:
        """Raise what the shared stage does while another is at it."""
        calls.append(lease.held())
        if lease.held():
            raise InWork("tuning", "tuning-x", holder(claims, "tuning-x"))
        return really(*given)

    counts: list[float] = []
    monkeypatch.setattr(sampler, "tuned_network", at_first_busy)
    monkeypatch.setattr("crossframe.verbs.tuned.sleep", lambda seconds: lease.release())
    monkeypatch.setattr(click, "progressbar", lambda **given: Bar(counts))
    first, again = (call("--clip", "world:heldout/0", "--row", "2") for _ in range(2))
    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    assert calls == [True, False, False]
    assert counts == [50, 50, 0, 100]
    assert f"waits: process {os.getpid()} on " in first.output
    assert "waits" not in again.output


class Bar:
    """Stands in for click's bar and writes down by how much it is moved on."""

    pos = 0.0

    def __init__(self, moves: list[float]) -> None:
        self.moves = moves

    def update(self, count: float) -> None:
        self.moves.append(count)
        self.pos += count

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is drawn."""


def test_what_is_not_in_the_spec_is_told_all_at_once(call) -> None:
    done = call("--clip", "world:heldout/1", "--seed", "1")
    assert done.exit_code == 2
    assert "3 problems" in done.output
    assert "--row: 2 rows tune (allowed: 1, 2)" in done.output
    assert "--clip: no clip is called 'world:heldout/1'" in done.output
    assert "--seed: there is no seed 1 (allowed: 0 to 0)" in done.output
    assert (
        "'source' is no row that tunes"
        in call("--clip", "world:heldout/0", "--row", "source").output
    )
