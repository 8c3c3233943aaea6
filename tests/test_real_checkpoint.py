"""Stable Diffusion 1.5's true folder layout, names and size, with random weights.

Configuration values are those of the published model. Needs about 3 GB of disk and 8 GB of memory.
"""

from __future__ import annotations

import gc
import json
import shutil
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from methods.backbone_config import parse_backbone
from methods.backbones import encode_prompts, load_backbone
from methods.base import SampleRequest
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.sampler import sample
from tests.tiny_backbone import old_attention_name

SIZE, FRAMES, STEPS = 256, 2, 2
PARAMETERS = {
    "unet": 859_520_964,
    "controlnet": 361_279_120,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def unet() -> Any:
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def controlnet() -> Any:
    return ControlNetModel(cross_attention_dim=768)


def vae() -> Any:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    )


def text_encoder() -> Any:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            projection_dim=768,
        )
    )


def random_half(net: torch.nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return float16 tensors for a network that lives on the meta device."""
    tensors = {}
    for name, parameter in net.named_parameters():
        noise = torch.empty(parameter.shape, dtype=torch.float32).normal_(generator=generator)
        is_gain = parameter.ndim == 1 and name.endswith("weight")
        scale = 0.02 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        tensors[name] = (noise * scale + is_gain).half()
    return tensors


def write_net(
    folder: Path, build: Callable[[], Any], generator: torch.Generator, file: str, rename: Any
) -> None:
    with torch.device("meta"):
        net = build()
    (net.config.save_pretrained if isinstance(net, CLIPTextModel) else net.save_config)(folder)
    tensors = {rename(name): value for name, value in random_half(net, generator).items()}
    save_file(tensors, folder / file, {"format": "pt"})


def write_tokenizer(folder: Path) -> None:
    """Write a vocabulary of CLIP's size: letters, filler, and the two markers at its end."""
    folder.mkdir(parents=True)
    letters = [letter + end for end in ("", "</w>") for letter in string.printable.strip()]
    filler = [f"filler{number}</w>" for number in range(49406 - len(letters))]
    words = [*letters, *filler, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    markers = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    markers |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings = {**markers, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_checkpoint(root: Path, control: Path) -> None:
    """Write the published layout; text encoder and autoencoder with their old tensor names."""
    generator = torch.Generator().manual_seed(0)
    diffusers = "diffusion_pytorch_model.safetensors"
    write_net(root / "unet", unet, generator, diffusers, str)
    write_net(root / "vae", vae, generator, diffusers, old_attention_name)
    write_net(control, controlnet, generator, diffusers, str)
    write_net(
        root / "text_encoder", text_encoder, generator, "model.safetensors", "text_model.{}".format
    )
    write_tokenizer(root / "tokenizer")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    gc.collect()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Folders of Stable Diffusion and of a ControlNet, removed after the test."""
    root, control = tmp_path / "stable-diffusion-v1-5", tmp_path / "sd-controlnet-canny"
    write_checkpoint(root, control)
    yield root, control
    shutil.rmtree(root)
    shutil.rmtree(control)


@pytest.mark.slow
def test_stable_diffusion_1_5_from_its_folder(checkpoint: tuple[Path, Path]) -> None:
    root, control = checkpoint
    config = parse_backbone({"root": str(root), "controlnet": {"canny": str(control)}})
    backbone = load_backbone(config)
    nets = {
        "unet": backbone.unet,
        "controlnet": backbone.controlnets["canny"],
        "vae": backbone.vae,
        "text_encoder": backbone.text_encoder,
    }
    counted = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    assert counted == PARAMETERS
    assert (backbone.size, backbone.factor, backbone.text_mask) == (512, 8, False)
    with torch.inference_mode():
        assert encode_prompts(backbone, ["a cat"]).shape == (1, 77, 768)
    generator = torch.Generator().manual_seed(1)
    frames, edges = torch.rand((2, FRAMES, 3, SIZE, SIZE), generator=generator).to(backbone.device)
    request = SampleRequest(frames, "a cat", "", {"edges": edges}, seed=0)
    seen: list[int] = []
    options = ControlVideoConfig(preset="repo", steps=STEPS, prompt_suffix="", negative_prompt="")
    video = sample(backbone, request, options, lambda done, total: seen.append(done))
    assert seen == [1, 2]
    assert video.shape == (FRAMES, 3, SIZE, SIZE)
    assert torch.isfinite(video).all()
    assert video.std() > 0.01
