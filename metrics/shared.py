"""Work that several metrics of one output share: done once, kept in the memo of its inputs."""

from __future__ import annotations

from torch import Tensor

from crossframe.errors import NotAvailable
from crossframe.flow.estimators import DisFlow, FlowEstimator, both_ways
from crossframe.flow.fields import FlowFields, to_levels
from metrics.base import MetricInputs
from metrics.encoders import HOW_TO_GET_CLIP, ImageTextEncoder


def require_source(metric: str, inputs: MetricInputs) -> Tensor:
    """Return the source frames. Raises NotAvailable when there are none."""
    if inputs.source is None:
        raise NotAvailable(metric, "compares with the source clip, and none is given")
    return inputs.source


def require_prompt(metric: str, inputs: MetricInputs) -> str:
    """Return the prompt. Raises NotAvailable when there is none."""
    if not inputs.prompt.strip():
        raise NotAvailable(metric, "the clip has no prompt", "give one under prompts:")
    return inputs.prompt


def require_encoder(metric: str, inputs: MetricInputs) -> ImageTextEncoder:
    """Return the encoder. Raises NotAvailable when there is none."""
    if inputs.encoder is None:
        raise NotAvailable(metric, "needs a CLIP model, and none is given", HOW_TO_GET_CLIP)
    return inputs.encoder


def image_features(metric: str, inputs: MetricInputs) -> Tensor:
    """Return the (f, d) unit embeddings of the output, computed once per output and encoder."""
    encoder = require_encoder(metric, inputs)
    return inputs.memo.get(
        f"image_features {encoder.name}", lambda: encoder.encode_images(inputs.frames)
    )


def text_features(metric: str, inputs: MetricInputs, text: str) -> Tensor:
    """Return the (d,) unit embedding of a text, computed once per output, encoder and text."""
    encoder = require_encoder(metric, inputs)
    return inputs.memo.get(
        f"text_features {encoder.name} {text}", lambda: encoder.encode_text([text])[0]
    )


def source_flow(metric: str, inputs: MetricInputs) -> FlowFields:
    """Return the flow of the source: the given one, or an estimate, made once per output."""
    if inputs.flow is not None:
        return inputs.flow
    source, used = require_source(metric, inputs), estimator(inputs)
    return inputs.memo.get(f"source_flow {used.name}", lambda: both_ways(used, to_levels(source)))


def source_estimate(metric: str, inputs: MetricInputs) -> Tensor:
    """Return the estimated forward flow (p, 2, h, w) of the source, even where truth is known."""
    source, used = require_source(metric, inputs), estimator(inputs)
    if inputs.flow is not None and inputs.flow.source == used.name:
        return inputs.flow.forward
    if inputs.flow is None:
        return source_flow(metric, inputs).forward
    return inputs.memo.get(f"source_estimate {used.name}", lambda: used.forward(to_levels(source)))


def output_estimate(inputs: MetricInputs) -> Tensor:
    """Return the estimated forward flow (p, 2, h, w) of the output."""
    used = estimator(inputs)
    return inputs.memo.get(
        f"output_estimate {used.name}", lambda: used.forward(to_levels(inputs.frames))
    )


def estimator(inputs: MetricInputs) -> FlowEstimator:
    """Return the estimator of flow: the given one, or DIS."""
    return DisFlow() if inputs.estimator is None else inputs.estimator
