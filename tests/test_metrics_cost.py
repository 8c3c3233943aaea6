import pytest
import torch

from crossframe.errors import NotAvailable
from metrics.base import MetricInputs
from metrics.cost import (
    MeanCost,
    attended_tokens,
    inversion_error,
    peak_memory,
    seconds_per_frame,
)


def test_costs_are_those_recorded():
    cost = {"seconds_per_frame": 1.5, "peak_memory_bytes": 3 * 2**29, "inversion_error": 0.25}
    inputs = MetricInputs(torch.rand(1, 3, 8, 8), recorded=cost)
    assert seconds_per_frame(inputs).value == 1.5
    assert peak_memory(inputs).value == 1.5
    assert inversion_error(inputs).value == 0.25
    told = MetricInputs(inputs.frames, recorded={"attended_tokens": 0.5})
    assert attended_tokens(told).value == 0.5


@pytest.mark.parametrize(
    "metric", [seconds_per_frame, peak_memory, inversion_error, attended_tokens]
)
def test_what_was_not_recorded_is_not_made_up(metric):
    with pytest.raises(NotAvailable, match="not recorded"):
        metric(MetricInputs(torch.rand(1, 3, 8, 8)))


def test_costs_are_averaged():
    metric = MeanCost()
    for value in (1.0, 3.0):
        metric.update(value)
    assert metric.compute() == 2
