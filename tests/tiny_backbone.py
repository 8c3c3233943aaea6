"""Random networks of the real classes, a few thousand parameters each, to test without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from methods.backbones import Backbone

SIZE, TOKENS, WIDTH = 16, 6, 8
WORDS = ["[pad]", "[unk]", "a", "red", "blue", "star", "on", "stripes"]
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
_SHAPE: dict[str, Any] = {
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
}


def randomize(net: nn.Module, seed: int) -> nn.Module:
    """Give every parameter a random value, zero-initialised layers included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            scale = 0.2 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(noise * scale + is_gain)
    return net.eval().requires_grad_(False)


def tiny_unet(seed: int = 0) -> Any:
    net = UNet2DConditionModel(
        sample_size=SIZE // 2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **_SHAPE,
    )
    return randomize(net, seed)


def tiny_controlnet(seed: int = 1, order: str = "rgb") -> Any:
    net = ControlNetModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        conditioning_embedding_out_channels=(4, 4),
        controlnet_conditioning_channel_order=order,
        **_SHAPE,
    )
    return randomize(net, seed)


def tiny_vae(seed: int = 2) -> Any:
    net = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=SIZE,
        scaling_factor=0.3,
    )
    return randomize(net, seed)


def old_attention_name(name: str) -> str:
    """Return a VAE tensor's name as it was before diffusers 0.18."""
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in renamed.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


def tiny_clip(seed: int = 3) -> Any:
    side = {"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1}
    text = {**side, "num_attention_heads": 2, "vocab_size": len(WORDS)}
    text |= {"max_position_embeddings": TOKENS, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**side, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=4)
    return randomize(CLIPModel(config), seed)


def tiny_tokenizer() -> Any:
    table = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[unk]"))
    table.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=table, pad_token="[pad]", unk_token="[unk]", model_max_length=TOKENS
    )


def tiny_backbone() -> Backbone:
    """A backbone for 16x16 images with 8x8 latents and ControlNets for edges and depth."""
    return Backbone(
        unet=tiny_unet(),
        vae=tiny_vae(),
        text_encoder=tiny_clip().text_model,
        tokenizer=tiny_tokenizer(),
        controlnets={"edges": tiny_controlnet(1), "depth": tiny_controlnet(4)},
        scheduler_config=SCHEDULER,
        size=SIZE,
        text_mask=True,
        chunk=2,
    )


def write_miniature(root: Path, *, safe: bool = True) -> None:
    """Write the tiny networks in the folder layout of miniature/weights."""
    nets = {
        "unet": tiny_unet(),
        "vae": tiny_vae(),
        "controlnet-edges": tiny_controlnet(1),
        "clip": tiny_clip(),
    }
    for name, net in nets.items():
        is_clip = name == "clip"
        net.save_pretrained(root / name, **({} if is_clip else {"safe_serialization": safe}))
    tiny_tokenizer().save_pretrained(root / "clip")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
