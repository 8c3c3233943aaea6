"""What a Hallo run is given: five networks, an image autoencoder, a sound front end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from methods.backbone_config import BackboneConfig, locate_all, weights_identity
from methods.hallo.checkpoints import load_net
from methods.hallo.locator import FaceLocator
from methods.hallo.networks import DenoisingNet, HalloNets
from methods.hallo.projections import AudioProjection, ImageProjection
from methods.hallo.reference import ReferenceNet
from methods.hallo.schedule import SAMPLING, scheduler_config
from methods.hallo.sound import SoundEncoder, SpectralFeatures, load_wav2vec
from methods.loading import from_diffusers, load_network, pick_device
from methods.weight_files import Part

# An image (3, h, w) in [0, 1] -> what its largest face is known by, (e,), not normalised.
FaceEncoder = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HalloBackbone:
    """The networks of a run, in evaluation mode and without gradients.

    nets: the five of `net.pth`. vae: AutoencoderKL. audio_encoder: its features have the shape that
    `nets` were made for. face_encoder: None where identities are known otherwise.
    scheduler_config: of sampling as released. chunk: images that pass through the autoencoder at
    once. identity: sha256 by `role/file`; empty for one made by hand.
    """

    nets: HalloNets
    vae: Any
    audio_encoder: SoundEncoder
    face_encoder: FaceEncoder | None = None
    scheduler_config: Mapping[str, Any] = field(default_factory=lambda: scheduler_config(SAMPLING))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    chunk: int = 8
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference_unet(self) -> ReferenceNet:
        """The network that writes the bank."""
        return self.nets.reference_unet

    @property
    def denoising_unet(self) -> DenoisingNet:
        """The network that predicts."""
        return self.nets.denoising_unet

    @property
    def face_locator(self) -> FaceLocator:
        """From the box of the face to features."""
        return self.nets.face_locator

    @property
    def image_proj(self) -> ImageProjection:
        """From a face embedding to identity tokens."""
        return self.nets.image_proj

    @property
    def audio_proj(self) -> AudioProjection:
        """From windows of sound to audio tokens."""
        return self.nets.audio_proj

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


def load_hallo(config: BackboneConfig) -> HalloBackbone:
    """Load Hallo's networks, the autoencoder and the sound front end onto their device.

    The miniature hears by fixed spectral features; published weights by wav2vec 2.0.

    Raises UserError for missing, unreadable or incomplete parts (all that are missing at once), for
    parts that do not fit each other, and for a device that this machine lacks.
    """
    device, dtype = pick_device(config.device), getattr(torch, config.dtype)
    found = {part.role: (part, path) for part, path in locate_all(config, "hallo").items()}
    nets = load_net(found["net"][1])
    vae, _ = load_network(*found["vae"], dtype, {"vae": _load_vae})
    heard = found.get("audio_encoder")
    audio = load_wav2vec(heard[1], str(device)) if heard else SpectralFeatures()
    _require_fitting(nets, vae, audio)
    for net in (nets, vae):
        net.to(device, dtype).eval().requires_grad_(False)
    return HalloBackbone(
        nets=nets,
        vae=vae,
        audio_encoder=audio,
        device=device,
        dtype=dtype,
        chunk=config.chunk,
        identity=weights_identity(config, "hallo"),
    )


def _load_vae(folder: Path, part: Part, dtype: torch.dtype) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return from_diffusers(AutoencoderKL, folder, part, dtype)


def _require_fitting(nets: HalloNets, vae: Any, audio: SoundEncoder) -> None:
    """Raise UserError unless latents and sound features have the shapes that `nets` take."""
    sizes = nets.sizes
    checks = [
        ("vae", "latent channels", vae.config.latent_channels, sizes.latent_channels),
        ("audio_encoder", "hidden states", audio.blocks, sizes.audio_blocks),
        ("audio_encoder", "channels", audio.channels, sizes.audio_channels),
    ]
    problems = [
        Problem(f"backbone.{role}", f"it has {has} {what}, the networks take {takes}")
        for role, what, has, takes in checks
        if has != takes
    ]
    if problems:
        raise UserError(problems)
