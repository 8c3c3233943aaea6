"""`crossframe miniature train`: train the networks, resumably, in the order of their needs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from diffusers.models import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    ControlNetModel,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from torch import nn
from transformers import CLIPModel, CLIPVisionModelWithProjection

from crossframe.errors import Problem, UserError
from methods.hallo.networks import HalloNets
from miniature import clip, controlnet, hallo, hallo_vae, judge, latents, svd, svd_vae, unet, vae
from miniature.export import WEIGHTS, export
from miniature.fit import Recipe, device
from miniature.svd_clips import Encoders


def _trained(kind: type[nn.Module], name: str) -> nn.Module:
    """A network that this one builds on, from the shipped weights."""
    folder = WEIGHTS / name
    if not (folder / "config.json").is_file():
        fix = f"run `crossframe miniature train {name}` first"
        raise UserError(Problem(str(folder), f"{name} has not been trained", fix=fix))
    net = kind.from_pretrained(folder, torch_dtype=torch.float32)  # type: ignore[attr-defined]
    return net.to(device()).eval().requires_grad_(False)


def _unet() -> UNet2DConditionModel:
    pictures = latents.load(_trained(AutoencoderKL, "vae"))
    return unet.train(pictures, _trained(CLIPModel, "clip"))


def _controlnet(kind: str) -> Callable[[], ControlNetModel]:
    def train() -> ControlNetModel:
        pictures = latents.load(_trained(AutoencoderKL, "vae"))
        base = _trained(UNet2DConditionModel, "unet")
        return controlnet.train(kind, base, pictures, _trained(CLIPModel, "clip"))

    return train


def _svd_unet() -> UNetSpatioTemporalConditionModel:
    vae, image = _trained(AutoencoderKL, "vae"), _trained(CLIPVisionModelWithProjection, "clip")
    return svd.train(Encoders(vae, image))


def _svd_vae() -> AutoencoderKLTemporalDecoder:
    return svd_vae.train(_trained(AutoencoderKL, "vae"))


def _hallo_vae() -> AutoencoderKL:
    return hallo_vae.train(_trained(AutoencoderKL, "vae"))


def _hallo(losses: hallo.Losses) -> Callable[[], HalloNets]:
    return lambda: hallo.train(_trained(AutoencoderKL, "hallo-vae"), losses)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Sequence[Recipe]]] = {
    "vae": (vae.train, [vae.RECIPE]),
    "clip": (clip.train, clip.RECIPES),
    "judge": (judge.train, [judge.RECIPE]),
    "unet": (_unet, unet.RECIPES),
    "controlnet-edges": (_controlnet("edges"), [controlnet.RECIPES["edges"]]),
    "controlnet-depth": (_controlnet("depth"), [controlnet.RECIPES["depth"]]),
    "svd-unet": (_svd_unet, svd.RECIPES),
    "svd-vae": (_svd_vae, [svd_vae.RECIPE]),
    "hallo-vae": (_hallo_vae, [hallo_vae.RECIPE]),
    "hallo": (_hallo("meant"), hallo.RECIPES),
}
VARIANTS: dict[str, tuple[Callable[[], nn.Module], Sequence[Recipe]]] = {
    "hallo-released": (_hallo("released"), hallo.RECIPES),
}
"""Trained only when they are named, and not shipped."""


def main(words: list[str]) -> int:
    """Train the named networks, or all, and write them to ``miniature/weights``."""
    parser = argparse.ArgumentParser(prog="crossframe miniature train", description=__doc__)
    known = NETWORKS | VARIANTS
    more = f"; when named also {', '.join(VARIANTS)}"
    shown = f"of {', '.join(NETWORKS)}; default: all of these{more}"
    parser.add_argument("networks", nargs="*", help=shown)
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args(words)
    unknown = [name for name in options.networks if name not in known]
    if unknown:
        raise UserError(
            [
                Problem("miniature train", f"no network {name!r}", ", ".join(known))
                for name in unknown
            ]
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    for name in options.networks or NETWORKS:
        train, recipes = known[name]
        print(export(name, train(), recipes))
    return 0
