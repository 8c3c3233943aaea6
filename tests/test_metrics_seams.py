import pytest
import torch

from crossframe.errors import NotAvailable
from metrics.base import MetricInputs
from metrics.seams import SeamRatio, ratio, seam_ratio


def brightening(*steps):
    """Grey frames whose brightness rises by the given steps."""
    levels = torch.tensor([0.1, *steps]).cumsum(0)
    return levels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def test_jumps_are_told_by_their_size():
    frames = brightening(0.02, 0.06, 0.02, 0.02, 0.04)
    assert seam_ratio(frames, [2, 5]).tolist() == pytest.approx([3, 2], rel=1e-4)
    value = ratio(MetricInputs(frames, borders=(2, 5)))
    assert value.value == pytest.approx(2.5, rel=1e-4)
    assert value.detail == {"borders": [2, 5]}


def test_without_a_seam_the_ratio_is_one():
    assert seam_ratio(brightening(0.02, 0.02, 0.02), [2]).tolist() == pytest.approx([1], rel=1e-4)


@pytest.mark.parametrize(
    ("borders", "message"),
    [((), "at once"), ((1, 2, 3), "by itself"), ((2,), "stands still"), (None, "nobody told")],
)
def test_what_cannot_be_told_is_said(borders, message):
    still = brightening(0.0, 0.1, 0.0)
    with pytest.raises(NotAvailable, match=message):
        ratio(MetricInputs(still, borders=borders))


def test_the_accumulator_averages_clips():
    accumulator = SeamRatio()
    accumulator.update(brightening(0.02, 0.06, 0.02), (2,))
    accumulator.update(brightening(0.02, 0.02, 0.02), (2,))
    assert accumulator.compute() == pytest.approx(2, rel=1e-4)
