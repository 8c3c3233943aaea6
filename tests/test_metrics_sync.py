import numpy as np
import pytest
import torch

from crossframe.errors import NotAvailable
from metrics.base import Face, MetricInputs
from metrics.sync import MouthCorrelation, correlation_terms, mouth_corr, mouth_openness

ENVELOPE = torch.tensor([0.0, 0.5, 1.0, 0.4, 0.1, 0.8, 0.3, 0.9])


def talking(envelope, side=24):
    """A light face whose dark mouth opens with the envelope, and its region."""
    frames = torch.full((len(envelope), 3, side, side), 0.8)
    for frame, open_ in zip(frames, envelope, strict=True):
        frame[:, 12 : 12 + round(8 * open_.item()), 8:16] = 0.1
    mouth = torch.zeros(len(envelope), side, side, dtype=torch.bool)
    mouth[:, 11:21, 7:17] = True
    return frames, mouth


def test_a_mouth_that_follows_the_voice_correlates():
    frames, mouth = talking(ENVELOPE)
    value = mouth_corr(MetricInputs(frames, face=Face(mouth, ENVELOPE)))
    rows = np.round(8 * ENVELOPE.numpy())
    assert value.value == pytest.approx(np.corrcoef(rows, ENVELOPE.numpy())[0, 1], rel=1e-6)
    assert value.value > 0.98
    assert len(value.series) == len(ENVELOPE)


def test_a_mouth_that_does_the_opposite_is_negative():
    frames, mouth = talking(1 - ENVELOPE)
    assert mouth_corr(MetricInputs(frames, face=Face(mouth, ENVELOPE))).value < -0.95


def test_a_still_mouth_follows_nothing():
    frames, mouth = talking(torch.full((8,), 0.5))
    assert mouth_corr(MetricInputs(frames, face=Face(mouth, ENVELOPE))).value == 0


def test_what_happens_elsewhere_does_not_count():
    frames, mouth = talking(ENVELOPE)
    other = frames.clone()
    other[:, :, :8] = torch.rand(8, 3, 8, 24)
    assert torch.equal(mouth_openness(frames, mouth), mouth_openness(other, mouth))


def test_the_terms_average_to_the_correlation_whatever_scale_and_offset():
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 12, generator=generator)
    expected = np.corrcoef(one.numpy(), two.numpy())[0, 1]
    for changed in (one, 3 * one + 2):
        assert correlation_terms(changed, two).mean().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("face", "message"),
    [
        (None, "the clip has none"),
        (Face(torch.zeros(8, 24, 24, dtype=torch.bool), ENVELOPE), "is empty"),
        (Face(torch.ones(8, 24, 24, dtype=torch.bool), torch.ones(8)), "as loud"),
    ],
)
def test_clips_without_a_face_or_a_voice_have_no_value(face, message):
    with pytest.raises(NotAvailable, match=message):
        mouth_corr(MetricInputs(talking(ENVELOPE)[0], face=face))


def test_few_frames_have_no_correlation():
    with pytest.raises(NotAvailable, match="needs 5 frames"):
        correlation_terms(torch.rand(4), torch.rand(4))


def test_accumulator_averages_clips():
    metric = MouthCorrelation()
    metric.update(*talking(ENVELOPE), ENVELOPE)
    metric.update(*talking(torch.full((8,), 0.5)), ENVELOPE)
    assert 0.49 < metric.compute() <= 0.5
