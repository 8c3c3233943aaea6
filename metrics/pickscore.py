"""PickScore (Kirstain et al. 2023): CLIP logits of a model tuned on people's preferences."""

from __future__ import annotations

from transformers import AutoTokenizer, CLIPModel

from crossframe.weights import NETWORKS, label, locate
from metrics.base import MetricInputs, MetricValue, mean_of
from metrics.clip_text import scaled_cosines
from metrics.encoders import CLIPEncoder, load_network
from metrics.preprocessing import read_preprocessing
from metrics.shared import require_prompt

NAME = "pickscore"


def load_pickscore() -> CLIPEncoder:
    """The model with the processor that goes with it; NotAvailable when one is absent."""
    folder, processor = locate("pickscore"), locate("pickscore-processor")
    tokenizer = AutoTokenizer.from_pretrained(processor, local_files_only=True)
    preprocessing = read_preprocessing(processor)
    return CLIPEncoder(
        load_network(CLIPModel, folder, NETWORKS[NAME].command),
        tokenizer,
        preprocessing,
        label(folder),
    )


def pickscore(inputs: MetricInputs) -> MetricValue:
    """`pickscore`: one value per frame. NotAvailable without a prompt or the weights."""
    prompt = require_prompt(NAME, inputs)
    encoder = inputs.resident.get("pickscore", load_pickscore)
    text = encoder.encode_text([prompt])[0]
    images = inputs.memo.get("pickscore_features", lambda: encoder.encode_images(inputs.frames))
    series = scaled_cosines(images, text, encoder.temperature)
    return mean_of(series, encoder=encoder.name, temperature=encoder.temperature)
