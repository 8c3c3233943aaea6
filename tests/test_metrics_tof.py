import cv2
import numpy as np
import pytest
import torch
from test_flow import rolling
from test_metrics_warp import inputs, to_tensor

from crossframe.errors import NotAvailable
from metrics.tof import TemporalFlowDifference, farneback, flow_difference, tof


def test_identical_videos_do_not_differ():
    assert tof(inputs(to_tensor(rolling(3, 2, 1)))).value == 0


def test_the_difference_of_two_translations():
    value = tof(inputs(to_tensor(rolling(3, 2, 0)), to_tensor(rolling(3, 0, 1))))
    assert value.value == pytest.approx(5**0.5, rel=0.3)
    assert len(value.series) == 2


def test_the_flow_is_that_of_the_published_settings():
    frames = rolling(2, 2, 0)
    one, two = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    expected = cv2.calcOpticalFlowFarneback(one, two, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    assert np.array_equal(farneback(frames)[0].permute(1, 2, 0).numpy(), expected)


def test_lengths_of_differences_are_averaged():
    output, source = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    output[0, :, 0, 0] = torch.tensor([3.0, 4.0])
    assert flow_difference(output, source).tolist() == [2.5]
    metric = TemporalFlowDifference()
    metric.update(output, source)
    assert metric.compute() == 2.5


def test_one_frame_does_not_move():
    with pytest.raises(NotAvailable, match="has 1"):
        tof(inputs(torch.rand(1, 3, 16, 16)))
