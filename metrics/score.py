"""One metric on one output: the function that the runner and `crossframe score` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from crossframe.errors import Diverged, UserError
from crossframe.flow.fields import FlowFields
from crossframe.registry import Registry
from metrics import METRICS
from metrics.base import ClipFeatures, MetricInputs, MetricValue, Unavailable
from metrics.encoders import ImageTextEncoder


def measure(
    name: str,
    inputs: MetricInputs,
    *,
    flow: Callable[[], FlowFields] | None = None,
    encoder: Callable[[], ImageTextEncoder] | None = None,
    registry: Registry = METRICS,
) -> MetricValue | ClipFeatures | Unavailable:
    """Compute one metric by id; metrics of the same `inputs` share encoder passes and flows.

    flow, encoder: give the source's flow and the encoder, and are called only when the metric needs
    them and `inputs` lacks them. What the metric cannot do without makes it `Unavailable`. Raises
    UserError for an unknown id, Diverged for a value that is not finite.
    """
    needs = registry.entry(name).extra.get("needs", ())
    given: dict[str, Any] = {}
    try:
        if "flow" in needs and flow is not None and inputs.flow is None:
            given["flow"] = flow()
        if "clip" in needs and encoder is not None and inputs.encoder is None:
            given["encoder"] = encoder()
        compute: Callable[[MetricInputs], MetricValue | ClipFeatures] = registry.load(name)
        with torch.inference_mode():
            return compute(replace(inputs, **given))
    except Diverged:
        raise
    except UserError as error:
        return Unavailable(str(error))


def measure_all(
    names: Sequence[str],
    inputs: MetricInputs,
    *,
    flow: Callable[[], FlowFields] | None = None,
    encoder: Callable[[], ImageTextEncoder] | None = None,
) -> dict[str, MetricValue | ClipFeatures | Unavailable]:
    """Compute several metrics of one output, by id; see `measure`."""
    return {name: measure(name, inputs, flow=flow, encoder=encoder) for name in names}
