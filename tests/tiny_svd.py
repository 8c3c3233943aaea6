"""Stable Video Diffusion's networks at the size of diffusers' own tests, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.models.resnet import AlphaBlender
from torch import Tensor, nn


def tiny_unet(seed: int = 0) -> UNetSpatioTemporalConditionModel:
    """1.8 M parameters, two levels, 24 attentions, 18 blenders with different logits."""
    torch.manual_seed(seed)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=2,
        sample_size=32,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    return _with_logits(unet).eval()


def tiny_vae(seed: int = 0) -> AutoencoderKLTemporalDecoder:
    """0.7 M parameters, two levels, 5 blenders with different logits; latents of half the size."""
    torch.manual_seed(seed)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        latent_channels=4,
    )
    return _with_logits(vae).eval()


def _with_logits(net: Any) -> Any:
    for place, blender in enumerate(blenders(net).values()):
        blender.mix_factor.data.fill_((-1) ** place * (0.2 + 0.1 * place))
    return net


def blenders(net: nn.Module) -> dict[str, Any]:
    """All `AlphaBlender`s by name."""
    return {name: m for name, m in net.named_modules() if isinstance(m, AlphaBlender)}


def unet_inputs(frames: int, rows: int = 1, size: int = 8, seed: int = 1) -> dict[str, Tensor]:
    """Arguments of a call with `rows` guidance rows of `frames` frames."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "sample": torch.randn(rows, frames, 8, size, size, generator=generator),
        "timestep": torch.tensor(0.7),
        "encoder_hidden_states": torch.randn(rows, 1, 32, generator=generator),
        "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]]).expand(rows, -1),
    }


@torch.no_grad()
def run(unet: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The output of a call, (rows, frames, 4, h, w)."""
    out: Tensor = unet(**inputs).sample
    return out


def latents(frames: int, size: int = 8, seed: int = 2) -> Tensor:
    """Scaled latents of one video, (frames, 4, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, 4, size, size, generator=generator) * 0.18215
