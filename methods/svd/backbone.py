"""The networks of Stable Video Diffusion (arXiv 2311.15127) in one object, and how they load.

Plain diffusers and transformers models in evaluation mode without gradients, from the published
layout `unet/ vae/ image_encoder/ feature_extractor/ scheduler/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from crossframe.errors import Problem, UserError
from crossframe.files import read_json
from methods.backbone_config import BackboneConfig, locate_all, weights_identity
from methods.loading import Loaded, Loader, from_diffusers, load_network, pick_device
from methods.norm_groups import groups_of
from methods.svd.options import Memory
from methods.weight_files import Part

TIME_IDS = 3
"""Numbers that the UNet is told besides the noise level: fps, motion bucket, noise on the image."""


@dataclass(frozen=True)
class SvdBackbone:
    """The networks of a run.

    unet: UNetSpatioTemporalConditionModel. vae: AutoencoderKLTemporalDecoder.
    image_encoder: CLIPVisionModelWithProjection.
    image_mean, image_std: of the encoder's input, by channel, of pictures in [0, 1].
    scheduler_config: contents of scheduler_config.json.
    device, dtype: where and in what arithmetic the networks run.
    chunk: images that pass through the autoencoder's encoder at once; how many frames are decoded
        at once changes the result, and is an option of the method.
    memory: what is spared, and changes no result.
    identity: sha256 by `role/file`, as `weights_identity` gives; empty for one made by hand.
    """

    unet: Any
    vae: Any
    image_encoder: Any
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    chunk: int = 8
    memory: Memory = field(default_factory=Memory)
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        """Channels of a latent; the UNet takes as many again, of the image."""
        return int(self.unet.config.in_channels) // 2

    @property
    def trained_frames(self) -> int:
        """Frames of the videos that the UNet was trained on."""
        return int(self.unet.config.num_frames)


def load_svd(config: BackboneConfig) -> SvdBackbone:
    """Load every network onto its device.

    Raises UserError for missing, unreadable or incomplete parts (all that are missing at once), for
    networks that do not belong together, and for a device that this machine lacks.
    """
    device, dtype = pick_device(config.device), getattr(torch, config.dtype)
    found = {part.role: (part, folder) for part, folder in locate_all(config, "svd").items()}
    nets = {role: load_network(*found[role], dtype, _LOADERS)[0] for role in _LOADERS}
    waiting = torch.device("cpu") if config.offload else device
    for net in nets.values():
        net.to(waiting).eval().requires_grad_(False)
    seen = read_json(found["feature_extractor"][1] / "preprocessor_config.json")
    backbone = SvdBackbone(
        **nets,
        image_mean=tuple(seen["image_mean"]),
        image_std=tuple(seen["image_std"]),
        scheduler_config=read_json(found["scheduler"][1] / "scheduler_config.json"),
        device=device,
        dtype=dtype,
        chunk=config.chunk,
        memory=Memory(forward_chunk=config.forward_chunk, offload=config.offload),
        identity=weights_identity(config, "svd"),
    )
    problems = fit_problems(backbone)
    if problems:
        raise UserError(problems)
    return backbone


def fit_problems(backbone: SvdBackbone) -> list[Problem]:
    """Return which networks do not belong together, by the widths of what they exchange."""
    unet, encoder = backbone.unet.config, backbone.image_encoder.config
    told = unet.projection_class_embeddings_input_dim // unet.addition_time_embed_dim
    pairs = [
        ("unet", "channels of latents and image", unet.in_channels, 2 * unet.out_channels),
        ("vae", "latent channels", backbone.vae.config.latent_channels, unet.out_channels),
        ("image_encoder", "numbers per image", encoder.projection_dim, unet.cross_attention_dim),
        ("unet", "numbers told besides the noise level", told, TIME_IDS),
    ]
    return [
        Problem(f"backbone.{role}", f"has {have} {what}", str(wanted))
        for role, what, have, wanted in pairs
        if have != wanted
    ]


@contextmanager
def upcast(backbone: SvdBackbone) -> Iterator[torch.dtype]:
    """Give the arithmetic in which the autoencoder encodes, and set it so for a `with` block.

    float32 in place of float16 where its configuration says that it overflows.
    """
    vae, dtype = backbone.vae, backbone.dtype
    if dtype != torch.float16 or not vae.config.force_upcast:
        yield dtype
        return
    vae.to(torch.float32)
    try:
        yield torch.float32
    finally:
        vae.to(dtype)


def _load_unet(folder: Path, part: Part, dtype: torch.dtype) -> Loaded:
    from diffusers import UNetSpatioTemporalConditionModel

    with groups_of(folder):
        return from_diffusers(UNetSpatioTemporalConditionModel, folder, part, dtype)


def _load_vae(folder: Path, part: Part, dtype: torch.dtype) -> Loaded:
    from diffusers import AutoencoderKLTemporalDecoder

    with groups_of(folder):
        return from_diffusers(AutoencoderKLTemporalDecoder, folder, part, dtype)


def _load_image_encoder(folder: Path, part: Part, dtype: torch.dtype) -> Loaded:
    """Load a CLIP's image half with its projection, from a folder of its own or of a whole CLIP."""
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    whole = read_json(folder / "config.json").get("model_type") == "clip"
    net, told = (CLIPModel if whole else CLIPVisionModelWithProjection).from_pretrained(
        folder,
        dtype=dtype,
        variant=part.variant or None,
        output_loading_info=True,
        local_files_only=True,
    )
    return (image_half(net) if whole else net), told


def image_half(clip: Any) -> Any:
    """Return the image encoder and projection of a CLIPModel, sharing its tensors."""
    from transformers import CLIPVisionModelWithProjection

    config = clip.config.vision_config
    config.projection_dim = clip.config.projection_dim
    with torch.device("meta"):
        half = CLIPVisionModelWithProjection(config)
    half.vision_model, half.visual_projection = clip.vision_model, clip.visual_projection
    return half


_LOADERS: Mapping[str, Loader] = {
    "unet": _load_unet,
    "vae": _load_vae,
    "image_encoder": _load_image_encoder,
}
