"""Work that several metrics of one output share: done once, kept in the memo of its inputs."""

from __future__ import annotations

from torch import Tensor

from metrics.base import MetricInputs
from metrics.encoders import HOW_TO_GET_CLIP, ImageTextEncoder
from metrics.errors import MetricUnavailable
from metrics.flow import FlowFields, dis_flow, to_levels


def image_features(metric: str, inputs: MetricInputs) -> Tensor:
    """Return the (f, d) unit embeddings of the output, computed once per output."""
    encoder = require_encoder(metric, inputs)
    return inputs.memo.get("image_features", lambda: encoder.encode_images(inputs.frames))


def require_encoder(metric: str, inputs: MetricInputs) -> ImageTextEncoder:
    """Return the encoder. Raises MetricUnavailable when there is none."""
    if inputs.encoder is None:
        raise MetricUnavailable(metric, "needs a CLIP model, and none is given", HOW_TO_GET_CLIP)
    return inputs.encoder


def source_flow(inputs: MetricInputs) -> FlowFields:
    """Return the flow of the source: the given one, or DIS, estimated once per `inputs.memo`."""
    if inputs.flow is not None:
        return inputs.flow
    return inputs.memo.get("source_flow", lambda: dis_flow(to_levels(inputs.source)))
