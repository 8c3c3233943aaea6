"""What was recorded of making a clip, as metrics, so that tables show it beside the scores."""

from __future__ import annotations

import torch
from torch import Tensor

from crossframe.errors import NotAvailable
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue

SECONDS, MEMORY = "cost/seconds_per_frame", "cost/peak_memory"
ATTENDED = "cost/attended_tokens"
INVERSION = "inversion/relative"
GIBIBYTE = 2**30


def seconds_per_frame(inputs: MetricInputs) -> MetricValue:
    """`cost/seconds_per_frame`. NotAvailable when it was not recorded."""
    return _recorded(SECONDS, inputs, "seconds_per_frame", 1)


def peak_memory(inputs: MetricInputs) -> MetricValue:
    """`cost/peak_memory`, GiB. NotAvailable when it was not recorded."""
    return _recorded(MEMORY, inputs, "peak_memory_bytes", GIBIBYTE)


def attended_tokens(inputs: MetricInputs) -> MetricValue:
    """`cost/attended_tokens`, in [0, 1]. NotAvailable where the method does not tell it."""
    return _recorded(ATTENDED, inputs, "attended_tokens", 1)


def inversion_error(inputs: MetricInputs) -> MetricValue:
    """`inversion/relative`. NotAvailable for frames that do not start from an inversion."""
    return _recorded(INVERSION, inputs, "inversion_error", 1)


def _recorded(metric: str, inputs: MetricInputs, field: str, unit: int) -> MetricValue:
    if field not in inputs.recorded:
        raise NotAvailable(metric, "was not recorded when the frames were made")
    return MetricValue(inputs.recorded[field] / unit, ())


def _single(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


class MeanCost(ClipMean):
    """`cost/...` and `inversion/relative` over clips, as numbers."""

    higher_is_better = False
    series = staticmethod(_single)
