"""Several metrics on one clip, sharing the encoder pass and the flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from metrics import METRICS
from metrics.base import Memo, MetricInputs, MetricValue, Unavailable
from metrics.encoders import ImageTextEncoder
from metrics.errors import MetricUnavailable
from metrics.flow import FlowFields


@torch.no_grad()
def score(
    frames: Tensor,
    source: Tensor,
    metrics: Sequence[str],
    *,
    prompt: str = "",
    flow: FlowFields | None = None,
    encoder: Callable[[], ImageTextEncoder] | None = None,
) -> dict[str, MetricValue | Unavailable]:
    """Compute metrics by id; the frames are encoded at most once.

    frames, source: (f, 3, h, w) in [0, 1], the output and the clip it was made from. flow: of the
    source; None estimates it where it is needed. encoder: gives the encoder, called only when a
    metric needs one. A metric that cannot be computed is `Unavailable`; bad frames, an unknown
    id or a value that is not finite raise UserError.
    """
    inputs = MetricInputs(frames, source, prompt, flow, memo=Memo())
    return {name: _measure(name, inputs, encoder) for name in metrics}


def _measure(
    name: str, inputs: MetricInputs, encoder: Callable[[], ImageTextEncoder] | None
) -> MetricValue | Unavailable:
    compute: Callable[[MetricInputs], MetricValue] = METRICS.load(name)
    try:
        if encoder is not None and "clip" in METRICS.entry(name).extra.get("needs", ()):
            inputs = replace(inputs, encoder=encoder())
        return compute(inputs)
    except MetricUnavailable as error:
        return Unavailable(str(error))
