"""What a Hallo run is given: five networks, an image autoencoder, a sound front end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from crossframe.errors import Problem, UserError
from methods.backbone_config import BackboneConfig, locate_all, weights_identity
from methods.hallo.checkpoints import load_net
from methods.hallo.faces import FaceEncoder, load_face_encoder
from methods.hallo.landmarks import Landmarker, load_landmarker
from methods.hallo.networks import HalloNets
from methods.hallo.schedule import SAMPLING, scheduler_config
from methods.hallo.sound import SoundEncoder, SpectralFeatures, load_wav2vec
from methods.hallo.vocals import Vocals, load_vocals
from methods.loading import from_diffusers, load_network, pick_device
from methods.weight_files import Part, identity_of_part


@dataclass(frozen=True)
class HalloBackbone:
    """The networks of a run, in evaluation mode and without gradients.

    nets: the five of `net.pth`. vae: AutoencoderKL. audio_encoder: its features have the shape that
    `nets` were made for. face_encoder, landmarks: None where identities and boxes are known
    otherwise. vocals: parts voices from music; None hears them as they are.
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
    landmarks: Landmarker | None = None
    vocals: Vocals | None = None

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
    audio = _load_audio_encoder(found, device)
    faces = load_face_encoder(found["face_encoder"][1]) if "face_encoder" in found else None
    points = load_landmarker(found["landmarks"][1]) if "landmarks" in found else None
    vocals = _load_vocals(found)
    _require_fitting(nets, vae, audio)
    for net in (nets, vae):
        net.to(device, dtype).eval().requires_grad_(False)
    return HalloBackbone(
        nets=nets,
        vae=vae,
        audio_encoder=audio,
        face_encoder=faces,
        device=device,
        dtype=dtype,
        chunk=config.chunk,
        identity=weights_identity(config, "hallo"),
        landmarks=points,
        vocals=vocals,
    )


def _load_vae(folder: Path, part: Part, dtype: torch.dtype) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return from_diffusers(AutoencoderKL, folder, part, dtype)


def _load_audio_encoder(
    found: Mapping[str, tuple[Part, Path]], device: torch.device
) -> SoundEncoder:
    """Load wav2vec 2.0, in float32, where there is one; else the features that need no weights."""
    if "audio_encoder" not in found:
        return SpectralFeatures()
    part, folder = found["audio_encoder"]
    return replace(load_wav2vec(folder, str(device)), weights=identity_of_part(part, folder))


def _load_vocals(found: Mapping[str, tuple[Part, Path]]) -> Vocals | None:
    if "vocals" not in found:
        return None
    part, path = found["vocals"]
    return load_vocals(path, identity_of_part(part, path))


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
