"""The weights of annotators in keys: only where an annotator draws the maps."""

import pytest
import torch

from crossframe.keys import file_sha256
from methods.annotator_files import ANNOTATORS, VARIABLE, annotator_identity
from methods.condition_kinds import CONDITIONS


@pytest.fixture
def weights(tmp_path, monkeypatch):
    for annotator in ANNOTATORS.values():
        for file in annotator.files:
            torch.save({"weight": torch.zeros(1)}, tmp_path / file)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def test_controls_without_an_annotator_add_nothing(weights):
    for control in ("canny", "canny[50,150]", "edges"):
        assert annotator_identity(control) is None
    assert annotator_identity("depth", exact=("depth", "masks")) is None
    assert annotator_identity("pose", files=("pose",)) is None
    assert annotator_identity("depth[depth_zoe]", files=("depth",)) is None


def test_the_weights_of_the_one_that_is_asked_count(weights):
    found = annotator_identity("pose[openpose_hand]")
    files = ANNOTATORS["openpose_hand"].files
    assert found == {file: file_sha256(weights / file) for file in files}
    assert annotator_identity("depth", files=("pose",)) == annotator_identity("depth")
    # An option asks the annotator even where the exact map is known.
    assert annotator_identity("depth[depth_zoe]", exact=("depth",)).keys() == {"ZoeD_M12_N.pt"}
    torch.save({"weight": torch.ones(1)}, weights / files[1])
    again = annotator_identity("pose[openpose_hand]")
    assert [file for file in files if again[file] != found[file]] == [files[1]]


def test_every_option_of_an_annotated_kind_has_weights(weights):
    entries = CONDITIONS.entries.items()
    asked = {
        name: annotator_identity(f"{kind}[{name}]")
        for kind, entry in entries
        if "annotators" in entry.target
        for name in entry.extra["options"]
    }
    assert set(asked) == set(ANNOTATORS)
    assert all(sha for found in asked.values() for sha in found.values())


def test_weights_that_are_not_here_count_as_none(weights):
    for name in ANNOTATORS["lineart_realistic"].files:
        (weights / name).unlink()
    assert set(annotator_identity("lineart").values()) == {None}
