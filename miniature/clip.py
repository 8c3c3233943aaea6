"""The CLIP of the miniature world: transformers' CLIPModel on 64-pixel pictures, one token a word.

Its text states condition the denoiser, its joint space serves the metrics.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from miniature.data import later_pictures, pictures
from miniature.fit import Fit, Recipe, device, phase_folder
from miniature.shapes import PATTERNS, SHAPES
from miniature.world import COLOURS

RECIPES = tuple(
    Recipe(steps=steps, batch=128, rate=1.5e-3, decay=0.05, average=0.995, seed=seed)
    for seed, steps in enumerate((800, 800, 400, 300, 500, 300))
)
"""One after the other."""
FROZEN = range(1, 4)
"""In these the text side rests."""
LOOKED_AT = 4
"""From here on pictures are told apart by what captions leave open, too."""
SPELT = 5
"""From here on text states tell the words apart: contrast alone leaves shapes all but equal."""
APPEARANCE_WEIGHT, TEMPERATURE = 0.3, 0.1
IMAGE_SIZE = 64
TOKENS = 16
WIDTH = 96
MEAN, STD = 0.5, 0.25
SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<start>",
    "eos_token": "<end>",
    "unk_token": "<unknown>",
}
WORDS = ("a", "an", "and", "on", "background", *COLOURS, *SHAPES, *PATTERNS)
NOISE = 0.04
"""Pictures are seen with a little noise, so that no judgement hangs on single pixels."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word between ``<start>`` and ``<end>``; any other word is ``<unknown>``."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL.values(), *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(word, vocabulary[word]) for word in ("<start>", "<end>")]
    tokenizer.post_processor = TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=TOKENS, **SPECIAL)


def build() -> CLIPModel:
    """A CLIPModel of about a million parameters."""
    torch.manual_seed(RECIPES[0].seed)
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "projection_dim": 64,
    }
    text = {
        **shared,
        "num_hidden_layers": 3,
        "vocab_size": len(SPECIAL) + len(WORDS),
        "max_position_embeddings": TOKENS,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {**shared, "num_hidden_layers": 4, "image_size": IMAGE_SIZE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def preprocessor() -> dict[str, object]:
    """``preprocessor_config.json``: bicubic resize of the shorter side to 64, crop, normalise."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": IMAGE_SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "do_convert_rgb": True,
    }


def tokens(captions: list[str]) -> dict[str, Tensor]:
    """Token ids and mask of captions, (n, 16)."""
    batch = build_tokenizer()(
        captions,
        padding="max_length",
        max_length=TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def losses(
    net: CLIPModel, first: int, count: int, appearance: bool = False, words: bool = False
) -> dict[str, Tensor]:
    """Symmetric contrastive loss of pictures ``first`` .. ``first + count`` and their captions.

    Pictures that share a caption share their positives. appearance: with a second frame of every
    scene, which has to be found again among the second frames of the others, as in SLIP (Mu et al.
    2022, arXiv 2112.12750): so that pictures with one caption and other hues lie apart. words:
    with a loss of the text alone, as in DeCLIP (Li et al. 2022, arXiv 2110.05208).
    """
    images, scenes = pictures(first, count, IMAGE_SIZE)
    if appearance:
        images = torch.cat([images, later_pictures(first, count, IMAGE_SIZE)])
    captions = [scene.caption for scene in scenes]
    pixels = (images + NOISE * torch.randn_like(images) - MEAN) / STD
    batch = {name: value.to(device()) for name, value in tokens(captions).items()}
    output = net(pixel_values=pixels.to(device()), **batch)
    logits = output.logits_per_image
    same = torch.tensor([[a == b for b in captions] for a in captions], device=logits.device)
    same = same.repeat(len(images) // count, 1).float()
    parts = {
        "image": F.cross_entropy(logits, same / same.sum(1, keepdim=True)) / 2,
        "text": F.cross_entropy(logits.T, (same / same.sum(0)).T) / 2,
    }
    if appearance:
        parts["appearance"] = APPEARANCE_WEIGHT * _same_scene(*output.image_embeds.chunk(2))
    if words:
        states = output.text_model_output.last_hidden_state
        known = net.text_model.embeddings.token_embedding.weight
        parts["words"] = _own_word(states, known, **batch)
    return parts


def _own_word(states: Tensor, known: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Cross entropy of finding each token of (n, 16, 96) states among the (v, 96) known ones."""
    real = attention_mask.bool()
    logits = F.normalize(states[real], dim=-1) @ F.normalize(known, dim=-1).T / TEMPERATURE
    return F.cross_entropy(logits, input_ids[real])


def _same_scene(one: Tensor, other: Tensor) -> Tensor:
    """Symmetric cross entropy of finding each row of (n, d) embeddings in the other's n rows."""
    logits = F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T / TEMPERATURE
    truth = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def train() -> CLIPModel:
    """Train or resume all recipes; returns the averaged network.

    The denoiser is built on the text states, so it has to be trained after the last.
    """
    net = build().to(device())
    past = 0
    for phase, recipe in enumerate(RECIPES):
        net.text_model.requires_grad_(phase not in FROZEN)
        run = Fit(net, recipe, phase_folder("clip", phase, RECIPES))

        def batch(
            step: int, past: int = past, count: int = recipe.batch, phase: int = phase
        ) -> dict[str, Tensor]:
            late, last = phase >= LOOKED_AT, phase >= SPELT
            return losses(net, past + step * count, count, appearance=late, words=last)

        run.run(batch)
        run.use_average()
        past += recipe.steps * recipe.batch
    return net
