"""`crossframe tuned`: a network that a run tuned, as a checkpoint."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from crossframe.cli import main
from methods import backbone_config
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
