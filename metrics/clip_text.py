"""Text alignment: cosines between the embeddings of the frames and of a text.

Shapes: f frames, d embedding size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from crossframe.errors import NotAvailable
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of
from metrics.encoders import ImageTextEncoder
from metrics.shared import image_features, require_encoder, require_prompt, text_features

COSINE, X100, TGVE = "clip_text/cosine", "clip_text/x100", "clip_text/tgve"
CLIPSCORE, ACCURACY = "clip_text/clipscore_2.5", "clip_frame_acc/fatezero"
PREFIX = "A photo depicts "
"""What CLIPScore puts before the text (Hessel et al. 2021, section 3)."""


def text_cosines(features: Tensor, text: Tensor) -> Tensor:
    """(f, d) image embeddings, (d,) text embedding, of any length -> (f,) cosines."""
    return F.cosine_similarity(features, text[None], dim=-1)


def percent_cosines(features: Tensor, text: Tensor) -> Tensor:
    """(f,) cosines times 100. Arguments as of `text_cosines`."""
    return 100 * text_cosines(features, text)


def scaled_cosines(features: Tensor, text: Tensor, temperature: float | Tensor) -> Tensor:
    """(f,) cosines times exp(logit_scale): the logits of CLIP (TGVE 2023, PickScore)."""
    return temperature * text_cosines(features, text)


def clipscores(features: Tensor, text: Tensor) -> Tensor:
    """(f,) values 2.5 max(cos, 0) (Hessel et al. 2021). `text` embeds the prefixed prompt."""
    return 2.5 * text_cosines(features, text).clamp(min=0)


def frame_hits(features: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """(f,) ones where a frame is at least as near to the target text as to the source text.

    features: (f, d). target, source: (d,). FateZero's code; ties count as hits.
    """
    return (text_cosines(features, target) >= text_cosines(features, source)).double()


def cosine(inputs: MetricInputs) -> MetricValue:
    """`clip_text/cosine`: one value per frame. Raises NotAvailable without a prompt."""
    encoder, features, text = _embedded(COSINE, inputs)
    return mean_of(text_cosines(features, text), encoder=encoder.name)


def x100(inputs: MetricInputs) -> MetricValue:
    """`clip_text/x100`: one value per frame. Raises NotAvailable without a prompt."""
    encoder, features, text = _embedded(X100, inputs)
    return mean_of(percent_cosines(features, text), encoder=encoder.name)


def tgve(inputs: MetricInputs) -> MetricValue:
    """`clip_text/tgve`: one value per frame. Raises NotAvailable without a prompt."""
    encoder, features, text = _embedded(TGVE, inputs)
    series = scaled_cosines(features, text, encoder.temperature)
    return mean_of(series, encoder=encoder.name, temperature=encoder.temperature)


def clipscore(inputs: MetricInputs) -> MetricValue:
    """`clip_text/clipscore_2.5`: one value per frame. NotAvailable without a prompt."""
    encoder, features, text = _embedded(CLIPSCORE, inputs, PREFIX)
    return mean_of(clipscores(features, text), encoder=encoder.name)


def accuracy(inputs: MetricInputs) -> MetricValue:
    """`clip_frame_acc/fatezero`: 0 or 1 per frame.

    Raises NotAvailable without a prompt or without the prompt of the source.
    """
    encoder, features, target = _embedded(ACCURACY, inputs)
    if not inputs.source_prompt.strip():
        fix = "give the clip a caption"
        raise NotAvailable(ACCURACY, "nothing says what the source shows", fix)
    source = text_features(ACCURACY, inputs, inputs.source_prompt)
    return mean_of(frame_hits(features, target, source), encoder=encoder.name)


def _embedded(
    metric: str, inputs: MetricInputs, prefix: str = ""
) -> tuple[ImageTextEncoder, Tensor, Tensor]:
    """The encoder, the (f, d) embeddings of the frames and the (d,) embedding of the prompt."""
    encoder, prompt = require_encoder(metric, inputs), require_prompt(metric, inputs)
    text = text_features(metric, inputs, prefix + prompt)
    return encoder, image_features(metric, inputs), text


class TextSimilarity(ClipMean):
    """`clip_text/cosine` over clips: (f, d) image embeddings, (d,) embedding of the prompt."""

    higher_is_better = True
    series = staticmethod(text_cosines)


class PercentTextSimilarity(ClipMean):
    """`clip_text/x100` over clips: (f, d) image embeddings, (d,) embedding of the prompt."""

    higher_is_better = True
    series = staticmethod(percent_cosines)


class ScaledTextSimilarity(ClipMean):
    """`clip_text/tgve`, `pickscore` over clips: (f, d), (d,) embeddings and exp(logit_scale)."""

    higher_is_better = True
    series = staticmethod(scaled_cosines)


class ClipScore25(ClipMean):
    """`clip_text/clipscore_2.5` over clips: (f, d), (d,) embeddings, the text with its prefix."""

    higher_is_better = True
    series = staticmethod(clipscores)


class FrameAccuracy(ClipMean):
    """`clip_frame_acc/fatezero` over clips: (f, d) embeddings, (d,) of target and source text."""

    higher_is_better = True
    series = staticmethod(frame_hits)
