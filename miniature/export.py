"""Shipped weights: half-precision safetensors in from_pretrained layout, each with a model card."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn

from crossframe.errors import Problem, UserError
from crossframe.files import read_json, replacing_folder, write_json, write_text
from crossframe.keys import file_sha256
from crossframe.provenance import package_versions
from methods.hallo.checkpoints import write_net
from methods.hallo.networks import HalloNets
from miniature.clip import build_tokenizer, preprocessor
from miniature.face import VERSION as FACES_VERSION
from miniature.fit import Recipe, phase_folder
from miniature.judge import Judge
from miniature.svd import SCHEDULE as SVD_SCHEDULE
from miniature.unet import SCHEDULE
from miniature.world import VERSION

NET = "net.safetensors"
"""Hallo's five networks in one file, by the published names."""
WEIGHTS = Path(__file__).parent / "weights"
ABOUT = {
    "vae": "Autoencoder, 128 x 128 x 3 to 16 x 16 x 4",
    "clip": (
        "CLIP, 64 x 64 pictures and captions of up to 16 tokens; its text states condition the UNet"
    ),
    "judge": "Classifier of colour, shape and pattern, for acceptance only",
    "unet": "Denoiser of latents under captions, epsilon prediction, single pictures only",
    "controlnet-edges": "ControlNet for edge maps (white lines on black)",
    "controlnet-depth": "ControlNet for inverse depth (1 = near)",
    "svd-unet": (
        "Stable Video Diffusion's denoiser: clips of 8 frames from a first frame, its CLIP "
        "embedding, frames a second, motion bucket and strength of the noise on the given frame"
    ),
    "svd-vae": "Stable Video Diffusion's autoencoder: that of `vae`, decoding frames together",
    "hallo-vae": "Hallo's autoencoder: that of `vae`, trained on for faces",
    "hallo": (
        "Hallo's five networks by their published names: talking faces from a portrait and the "
        "spectral features of a voice"
    ),
    "hallo-released": "As `hallo`, trained with the drops and the weighting of the released stages",
}
WORLD = f"miniature world, version {VERSION}, training split, generated"
FACES = f"talking faces, version {FACES_VERSION}, training split, generated"
DATA = {"hallo-vae": FACES, "hallo": FACES, "hallo-released": FACES}
"""What a network was trained on, where it was not the miniature world of sprites."""
SCHEDULERS = {
    "unet": ("scheduler", {"_class_name": "DDIMScheduler", **SCHEDULE}),
    "svd-unet": ("svd-scheduler", {"_class_name": "EulerDiscreteScheduler", **SVD_SCHEDULE}),
}
"""Written beside a denoiser: folder, and contents of its scheduler_config.json."""


def load_judge() -> Judge:
    """The shipped classifier.

    Raises:
        UserError: it has not been trained.
    """
    path = WEIGHTS / "judge" / "model.safetensors"
    if not path.is_file():
        fix = "run `crossframe miniature train judge`"
        raise UserError(Problem(str(path), "the classifier has not been trained", fix=fix))
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return judge.eval()


def load_hallo_vae() -> AutoencoderKL:
    """The autoencoder shipped with them, in float32."""
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "hallo-vae", torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False)


def export(name: str, net: nn.Module, recipes: Sequence[Recipe]) -> Path:
    """Write ``net`` as fp16 with its card to ``miniature/weights/<name>``; returns the folder."""
    folder = WEIGHTS / name
    with replacing_folder(folder) as tmp:
        half: Any = copy.deepcopy(net)
        half = half.to("cpu", torch.float16, memory_format=torch.contiguous_format)
        if isinstance(net, HalloNets):
            write_net(tmp / NET, half, torch.float16)
        elif isinstance(net, Judge):
            save_file(
                {k: v.contiguous() for k, v in half.state_dict().items()},
                tmp / "model.safetensors",
            )
        else:
            half.save_pretrained(tmp)
        if name == "clip":
            build_tokenizer().save_pretrained(tmp)
            write_json(tmp / "preprocessor_config.json", preprocessor())
        _write_card(tmp, name, net, recipes)
    if name in SCHEDULERS:
        beside, scheduler = SCHEDULERS[name]
        write_json(WEIGHTS / beside / "scheduler_config.json", scheduler)
    return folder


def _write_card(folder: Path, name: str, net: nn.Module, recipes: Sequence[Recipe]) -> None:
    weights = next(folder.glob("*.safetensors"))
    runs = [_last_losses(phase_folder(name, phase, recipes)) for phase in range(len(recipes))]
    card = {
        "about": ABOUT[name],
        "parameters": sum(p.numel() for p in net.parameters()),
        "data": DATA.get(name, WORLD),
        "recipes": [asdict(recipe) for recipe in recipes],
        "training_seconds": sum(float(losses[1]) for losses in runs),
        "final_losses": dict(part.split("=") for part in runs[-1][2:]),
        "sha256": file_sha256(weights),
        "versions": package_versions(),
        "licence": "Apache-2.0",
    }
    write_json(folder / "card.json", card)


def _last_losses(folder: Path) -> list[str]:
    """The last line that a run logged: step, seconds, then `name=value`."""
    return (folder / "losses.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")


def write_acceptance(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Put figures (network -> name -> value) into the cards and write the readable cards."""
    for name, values in figures.items():
        path = WEIGHTS / name / "card.json"
        card = {**read_json(path), "acceptance": dict(values)}
        write_json(path, card)
        lines = [
            f"# miniature {name}",
            "",
            f"{card['about']}. Figures are on held-out scenes.",
            "",
        ]
        lines += [f"- {key}: {json.dumps(value)}" for key, value in card.items() if key != "about"]
        write_text(path.with_name("README.md"), "\n".join(lines) + "\n")
