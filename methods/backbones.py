"""Backbones: the networks of a run in one object, and the ways in and out of their latent space.

Networks are plain diffusers and transformers models in evaluation mode without gradients. Here
stands the image family; `load_backbone` loads any.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from crossframe.errors import Problem
from crossframe.files import read_json
from methods import families
from methods.backbone_config import BackboneConfig, locate_all, tuned_file, weights_identity
from methods.base import Shared
from methods.condition_kinds import network_for
from methods.loading import Loaded, Loader, from_diffusers, load_network, pick_device
from methods.lora import add_lora
from methods.named_tensors import shapes_of
from methods.single_file import load_single_file
from methods.weight_files import Part, weight_files


@dataclass(frozen=True)
class Backbone:
    """The networks of a run.

    unet: UNet2DConditionModel. vae: AutoencoderKL. controlnets: ControlNetModel by kind.
    text_encoder: a CLIPTextModel; its last hidden states are the UNet's text.
    tokenizer: pads to `text_encoder.config.max_position_embeddings` tokens.
    text_mask: whether the text encoder is told which tokens are padding (SD's is not).
    scheduler_config: contents of scheduler_config.json.
    device, dtype: where and in what arithmetic the networks run.
    size: side in pixels of the images they were trained on.
    chunk: images that pass through the autoencoder at once.
    temporal: temporal attention of a checkpoint of Tune-A-Video, by the names of its authors
        (see `methods.tuneavideo.checkpoints`); empty for an image model. `tuneavideo` begins with
        it; other methods run the image UNet alone.
    gradient_checkpointing: whether tuning computes activations anew to spare memory.
    identity: sha256 by `role/file`, as `weights_identity` gives; empty for one made by hand.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    controlnets: Mapping[str, Any] = field(default_factory=dict)
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    size: int = 512
    text_mask: bool = False
    chunk: int = 8
    temporal: Mapping[str, Tensor] = field(default_factory=dict)
    gradient_checkpointing: bool = False
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def controlnet_for(self, kind: str) -> str:
        """Return the key in `controlnets` of the network that takes the control `kind`.

        Raises NotAvailable when there is none.
        """
        return network_for(kind, self.controlnets)


@overload
def load_backbone(config: BackboneConfig, family: Literal["image"] = "image") -> Backbone: ...
@overload
def load_backbone(config: BackboneConfig, family: str) -> Any: ...
def load_backbone(config: BackboneConfig, family: str = families.IMAGE) -> Any:
    """Load every network of a family's backbone onto its device.

    Returns what the samplers of that family are given: a `Backbone` for images, for others what
    `methods.families` says.

    Raises UserError for missing, unreadable or incomplete parts (all that are missing at once), and
    for a device that this machine lacks.
    """
    module, _, attribute = families.family(family).loader.partition(":")
    return getattr(importlib.import_module(module), attribute)(config)


def load_image(config: BackboneConfig) -> Backbone:
    """Load an image model and its ControlNets.

    Raises UserError for missing, unreadable or incomplete parts (all that are missing at once), and
    for a device that this machine lacks.
    """
    device, dtype = pick_device(config.device), getattr(torch, config.dtype)
    folders = {part.role: (part, folder) for part, folder in locate_all(config).items()}
    read = {
        role: _load(part, folder, dtype)
        for role, (part, folder) in folders.items()
        if part.has_weights and part.family != "lora"
    }
    loaded: dict[str, Any] = {role: net for role, (net, _) in read.items()}
    temporal = _with_tuned(config, loaded["unet"], read["unet"][1])
    for index, lora in enumerate(config.lora):
        add_lora(loaded, folders[f"lora.{index}"][1], lora.scale, f"backbone.lora.{index}")
    for net in loaded.values():
        net.to(device).eval().requires_grad_(False)
    text, unet, vae = loaded["text_encoder"], loaded["unet"], loaded["vae"]
    recompute = config.gradient_checkpointing
    prefix = "controlnet."
    return Backbone(
        unet=unet,
        vae=vae,
        text_encoder=getattr(text, "text_model", text),
        tokenizer=_load_tokenizer(folders["tokenizer"][1]),
        controlnets={r.removeprefix(prefix): n for r, n in loaded.items() if r.startswith(prefix)},
        scheduler_config=read_json(folders["scheduler"][1] / "scheduler_config.json"),
        device=device,
        dtype=dtype,
        size=unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1),
        text_mask=hasattr(text, "text_model"),
        chunk=config.chunk,
        temporal=temporal,
        gradient_checkpointing=device.type == "cuda" if recompute is None else recompute,
        identity=weights_identity(config),
    )


def encode_prompts(backbone: Backbone, prompts: Sequence[str]) -> Tensor:
    """Return the encoder's last hidden states, (n, tokens, c), in the backbone's dtype.

    Prompts are padded or cut to the encoder's number of positions (77 for Stable Diffusion 1.5); a
    cut is announced by a warning.
    """
    length = backbone.text_encoder.config.max_position_embeddings
    tokens = backbone.tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    _warn_if_cut(backbone.tokenizer, prompts, length)
    mask = tokens["attention_mask"].to(backbone.device) if backbone.text_mask else None
    ids = tokens["input_ids"].to(backbone.device)
    return backbone.text_encoder(ids, attention_mask=mask).last_hidden_state.to(backbone.dtype)


def text_states(backbone: Backbone, prompts: Sequence[str], shared: Shared) -> Tensor:
    """Return what `encode_prompts` does, shared with all samples that have the same prompts."""
    files = {
        name: sha256
        for name, sha256 in backbone.identity.items()
        if name.startswith(("text_encoder", "tokenizer"))
    }
    parts = [files, str(backbone.dtype), backbone.device.type, list(prompts)]

    def make() -> dict[str, Tensor]:
        """The states, in an arithmetic that holds those of any other."""
        return {"states": encode_prompts(backbone, prompts).float()}

    made = shared_by_weights(backbone, shared, "text", parts, make)
    return made["states"].to(backbone.device, backbone.dtype)


def shared_by_weights(
    backbone: Backbone,
    shared: Shared,
    stage: str,
    parts: Any,
    make: Callable[[], Mapping[str, Tensor]],
) -> Mapping[str, Tensor]:
    """Return what `make` does, shared by `parts`, which hold the backbone's identity.

    A backbone made by hand has none to share by: `make` is called every time.
    """
    return shared(stage, parts, make) if backbone.identity else make()


def encode_frames(backbone: Backbone, frames: Tensor, noise: Tensor | None = None) -> Tensor:
    """Return scaled latents, (f, 4, h/factor, w/factor) float32: the mode of the VAE's posterior.

    frames: (f, 3, h, w) in [0, 1]. noise: standard normal, shaped as the latents; with it the
    posterior is sampled, mode + standard deviation * noise.
    """
    vae, scale = backbone.vae, backbone.vae.config.scaling_factor
    latents = []
    for n, chunk in enumerate(frames.split(backbone.chunk)):
        shown = chunk.to(backbone.device, backbone.dtype)
        posterior = vae.encode(shown * 2 - 1).latent_dist
        found = posterior.mode().float()
        if noise is not None:
            drawn = noise[n * backbone.chunk :][: len(chunk)]
            found = found + posterior.std.float() * drawn.to(found)
        latents.append(found * scale)
    return torch.cat(latents)


def decode_latents(backbone: Backbone, latents: Tensor) -> Tensor:
    """Return frames, (f, 3, h, w) float32 in [0, 1] on the CPU.

    latents: scaled, (f, 4, h/factor, w/factor).
    """
    chunks = (latents / backbone.vae.config.scaling_factor).split(backbone.chunk)
    decoded = [backbone.vae.decode(c.to(backbone.device, backbone.dtype)).sample for c in chunks]
    return torch.cat([(d.float() / 2 + 0.5).clamp(0, 1).cpu() for d in decoded])


def size_problems(backbone: Backbone, frames: Tensor) -> list[Problem]:
    """Return what is wrong with the size of frames (f, 3, h, w): sides must fit the latents."""
    height, width = frames.shape[-2:]
    if not (height % backbone.factor or width % backbone.factor):
        return []
    what = f"frames of {width}x{height} pixels"
    return [Problem("clip.size", what, f"multiples of {backbone.factor}")]


def _warn_if_cut(tokenizer: Any, prompts: Sequence[str], length: int) -> None:
    for prompt in prompts:
        count = len(tokenizer(prompt, verbose=False)["input_ids"])
        if count > length:
            message = f"the prompt {prompt[:40]!r}... has {count} tokens and is cut to {length}"
            warnings.warn(message, stacklevel=3)


def _load(part: Part, folder: Path, dtype: torch.dtype) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Load one network, with the temporal attention that its files hold besides, mostly {}."""
    if folder.is_file():
        return load_single_file(part, folder, dtype), {}
    return load_network(part, folder, dtype, _LOADERS)


def _with_tuned(
    config: BackboneConfig, unet: nn.Module, temporal: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Lay `backbone.tuned` over a UNet; return the temporal attention that goes with it."""
    if not config.tuned:
        return temporal
    from methods.tuneavideo.checkpoints import read_tuned

    own = unet.state_dict()
    tuned = read_tuned(tuned_file(config.tuned), shapes_of(own))
    unet.load_state_dict({name: tuned.get(name, tensor) for name, tensor in own.items()})
    return {name: tensor for name, tensor in tuned.items() if name not in own}


def _load_unet(folder: Path, part: Part, dtype: torch.dtype) -> Loaded:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from methods.tuneavideo.checkpoints import is_video_config

    if is_video_config(read_json(folder / "config.json")):
        return _load_video_unet(UNet2DConditionModel, folder, part, dtype)
    return from_diffusers(UNet2DConditionModel, folder, part, dtype)


def _load_video_unet(model: Any, folder: Path, part: Part, dtype: torch.dtype) -> Loaded:
    """Load the image UNet of a checkpoint of Tune-A-Video; temporal attention goes beside it."""
    from methods.tuneavideo.checkpoints import image_config, read_folder

    with torch.device("meta"):
        net = model.from_config(image_config(read_json(folder / "config.json")))
    files = weight_files(folder, part.variant)
    found = read_folder(folder, files, shapes_of(net.state_dict()), f"backbone.{part.role}")
    net.load_state_dict(found.image, assign=True)
    return net.to(dtype), {"missing_keys": (), "temporal": found.temporal}


def _load_vae(folder: Path, part: Part, dtype: torch.dtype) -> Loaded:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return from_diffusers(AutoencoderKL, folder, part, dtype)


def _load_controlnet(folder: Path, part: Part, dtype: torch.dtype) -> Loaded:
    from diffusers.models.controlnets.controlnet import ControlNetModel

    return from_diffusers(ControlNetModel, folder, part, dtype)


def _load_text_encoder(folder: Path, part: Part, dtype: torch.dtype) -> Loaded:
    """Load a whole CLIP (`model_type: clip`) or its text half."""
    from transformers import CLIPModel, CLIPTextModel

    whole = read_json(folder / "config.json").get("model_type") == "clip"
    return (CLIPModel if whole else CLIPTextModel).from_pretrained(
        folder,
        dtype=dtype,
        variant=part.variant or None,
        output_loading_info=True,
        local_files_only=True,
    )


def _load_tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else CLIPTokenizer
    return kind.from_pretrained(folder, local_files_only=True)


_LOADERS: Mapping[str, Loader] = {
    "unet": _load_unet,
    "vae": _load_vae,
    "controlnet": _load_controlnet,
    "text_encoder": _load_text_encoder,
}
