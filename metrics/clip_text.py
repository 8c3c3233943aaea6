"""Text alignment: cosines between the embeddings of the frames and of the prompt.

Shapes: f frames, d embedding size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of
from metrics.errors import MetricUnavailable
from metrics.shared import image_features, require_encoder

NAME = "clip_text/cosine"


def text_cosines(features: Tensor, text: Tensor) -> Tensor:
    """(f, d) image embeddings, (d,) text embedding, of any length -> (f,) cosines."""
    return F.cosine_similarity(features, text[None], dim=-1)


def cosine(inputs: MetricInputs) -> MetricValue:
    """`clip_text/cosine`: one value per frame. Raises MetricUnavailable without a prompt."""
    encoder = require_encoder(NAME, inputs)
    if not inputs.prompt.strip():
        raise MetricUnavailable(NAME, "the clip has no prompt", "give one under prompts:")
    text = inputs.memo.get("text_features", lambda: encoder.encode_text([inputs.prompt])[0])
    return mean_of(text_cosines(image_features(NAME, inputs), text), encoder=encoder.name)


class TextSimilarity(ClipMean):
    """`clip_text/cosine` over many clips."""

    higher_is_better = True

    def update(self, features: Tensor, text: Tensor) -> None:
        """Add a clip by its (f, d) image embeddings and the (d,) embedding of its prompt."""
        self.add(text_cosines(features, text))
