"""What scoring keeps between cells and processes, and what it never mixes up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ablations.scoring import _memo, inputs_of
from ablations.scoring_flow import LateEstimator, estimated_flow
from ablations.stages import StageCache
from crossframe.errors import UserError
from crossframe.flow.fields import dis_flow


@pytest.fixture
def memo(tmp_path):
    """Function (sha256, encoder identity) -> the memo of a cell; all share one folder."""

    def made(sha256="frames", encoder="weights", estimate=None):
        bench = SimpleNamespace(stages=StageCache(tmp_path), encoder_identity=encoder)
        return _memo(bench, SimpleNamespace(estimate=estimate), sha256)

    return made


def test_embeddings_are_made_once_per_frames_and_encoder(memo):
    calls = []

    def encode():
        calls.append(1)
        return torch.arange(6.0).view(2, 3)

    first = memo().get("image_features clip", encode)
    again = memo().get("image_features clip", encode)
    assert torch.equal(first, again)
    assert len(calls) == 1
    memo(sha256="other frames").get("image_features clip", encode)
    memo(encoder="other weights").get("image_features clip", encode)
    assert len(calls) == 3


def test_what_is_cheap_is_kept_within_the_cell_only(memo):
    calls = []
    one = memo()
    for cell in (one, one, memo()):
        cell.get("text_features clip a cat", lambda: calls.append(1))
    assert len(calls) == 2


def test_the_sources_flow_is_that_of_the_clip(memo):
    assert memo(estimate="flow").get("source_flow dis", lambda: pytest.fail("made again")) == "flow"


def test_estimated_flow_is_that_of_the_estimator_and_is_kept(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    kept = {}

    def shared(stage, parts, make):
        return kept.setdefault((stage, str(parts)), make())

    found = estimated_flow(frames, "sha", LateEstimator("dis"), shared)
    expected = dis_flow(frames)
    assert torch.equal(found.forward, expected.forward)
    assert torch.equal(found.valid_backward, expected.valid_backward)
    assert found.source == "dis"
    assert [stage for stage, _ in kept] == ["flow"]


def test_an_estimator_without_weights_is_told_when_it_is_used_not_before(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    raft = LateEstimator("raft")
    assert (raft.name, raft.check) == ("raft", "sundaram")
    with pytest.raises(UserError, match="weights are not on this machine"):
        raft.forward(np.zeros((2, 24, 24, 3), np.uint8))
    with pytest.raises(UserError, match="did you mean 'raft'"):
        LateEstimator("rafft")


@pytest.mark.parametrize(
    ("sample", "borders", "recorded"),
    [
        ({"notes": {"decode_borders": [2]}, "cost": {"seconds_per_frame": None}}, (2,), {}),
        ({"notes": {"inversion": {"rmse": 0.3, "relative": 0.2}}}, None, {"inversion_error": 0.2}),
        ({"notes": {"attended_tokens": 0.5}}, None, {"attended_tokens": 0.5}),
        ({"notes": {}, "cost": {"seconds_per_frame": 3.0}}, None, {"seconds_per_frame": 3.0}),
        (None, None, {}),
    ],
)
def test_metrics_hear_what_a_method_notes(memo, sample, borders, recorded):
    """Where a video was decoded apart, how exactly it was inverted; nobody guesses the rest."""
    clip = SimpleNamespace(
        source=None, clip=SimpleNamespace(caption="", fps=8.0), masks=None, face=None
    )
    bench = SimpleNamespace(estimator=None, resident=memo, stages=None, encoder_identity=None)
    cell = SimpleNamespace(key="k", prompt="")
    store = SimpleNamespace(sample=lambda key: sample)
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    inputs = inputs_of(cell, bench, clip, store, frames)
    assert (inputs.borders, inputs.recorded) == (borders, recorded)
