"""`crossframe miniature check`: what the shipped networks reach on held-out scenes, and should."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from methods.backbone_config import parse_backbone
from methods.backbones import (
    Backbone,
    decode_latents,
    encode_frames,
    encode_prompts,
    load_backbone,
)
from methods.conditions import canny
from methods.ddim import make_schedule
from methods.denoising import denoise
from methods.guidance import guide
from methods.hallo.backbone import load_hallo
from miniature.clip import IMAGE_SIZE, MEAN, STD, tokens
from miniature.export import WEIGHTS, load_hallo_vae, load_judge, write_acceptance
from miniature.figure import Figure
from miniature.hallo_check import check_hallo, check_hallo_vae
from miniature.judge import HEADS, Judge, answers
from miniature.svd_check import check_svd_unet, check_svd_vae
from miniature.world import Scene, depths, edges, render_frames, scene_of

TIME = np.array([4.0])
STEPS, GUIDANCE = 20, 4.0
GROUP = 64
EDGE_REACH = 2


def frames_of(scenes: Sequence[Scene], size: int = 128, later: float = 0) -> Tensor:
    """One frame of each scene, (n, 3, h, w) in [0, 1], ``later`` frames after `TIME`."""
    frames = np.concatenate([render_frames(scene, TIME + later, size) for scene in scenes])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def held_out(count: int, sprites: int | None = None, distinct: bool = False) -> list[Scene]:
    """The first ``count`` held-out scenes; ``distinct`` skips captions that were there before."""
    scenes: dict[str, Scene] = {}
    number = 0
    while len(scenes) < count:
        scene = scene_of("heldout", number, sprites)
        scenes.setdefault(scene.caption if distinct else str(number), scene)
        number += 1
    return list(scenes.values())


def check_vae(backbone: Backbone, pictures: int = 64) -> Iterator[Figure]:
    """Mean over pictures of the PSNR of decode(encode(x)), dB."""
    images = frames_of(held_out(pictures))
    rebuilt = decode_latents(backbone, encode_frames(backbone, images))
    error = (rebuilt - images).pow(2).mean((1, 2, 3))
    yield Figure("vae", "PSNR, dB", float((-10 * error.log10()).mean()), 28.0)


def check_clip() -> Iterator[Figure]:
    """Two top-1 retrievals: pictures by caption, and later frames among pictures of one caption."""
    clip = CLIPModel.from_pretrained(WEIGHTS / "clip", torch_dtype=torch.float32).eval()

    def embedded(scenes: Sequence[Scene], later: float = 0) -> Tensor:
        pixels = (frames_of(scenes, IMAGE_SIZE, later) - MEAN) / STD
        return F.normalize(clip.visual_projection(clip.vision_model(pixels).pooler_output), dim=-1)

    def found(scores: Tensor) -> float:
        return float((scores.argmax(1) == torch.arange(len(scores))).float().mean())

    scenes = held_out(4 * GROUP, distinct=True)
    hits = []
    for group in (scenes[i : i + GROUP] for i in range(0, len(scenes), GROUP)):
        text = clip.text_model(**tokens([s.caption for s in group])).pooler_output
        hits.append(found(embedded(group) @ F.normalize(clip.text_projection(text), dim=-1).T))
    yield Figure("clip", "retrieval among 64 captions", sum(hits) / len(hits), 0.85)
    hits = [found(embedded(alike, 2) @ embedded(alike).T) for alike in same_caption(16, 8)]
    yield Figure("clip", "later frame found among 8 of one caption", sum(hits) / len(hits))


def same_caption(groups: int, count: int) -> list[list[Scene]]:
    """Held-out scenes of one sprite by caption: the first ``groups`` captions to have ``count``."""
    by_caption: dict[str, list[Scene]] = {}
    full: list[list[Scene]] = []
    numbers = itertools.count()
    while len(full) < groups:
        scene = scene_of("heldout", next(numbers), 1)
        alike = by_caption.setdefault(scene.caption, [])
        alike.append(scene)
        if len(alike) == count:
            full.append(alike)
    return full


def agreement(judge: Judge, images: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share of pictures in which the classifier names what the caption names, per attribute."""
    truth, logits = answers(scenes), judge(images)
    return {name: float((logits[name].argmax(1) == truth[name]).float().mean()) for name in HEADS}


def check_judge(judge: Judge) -> Iterator[Figure]:
    """Accuracy on rendered pictures: what the figures of the generated ones can reach at most."""
    scenes = held_out(256, sprites=1)
    for name, share in agreement(judge, frames_of(scenes), scenes).items():
        yield Figure("judge", f"{name} right", share)


def generate(
    backbone: Backbone,
    scenes: Sequence[Scene],
    control: str = "",
    maps: Tensor | None = None,
) -> Tensor:
    """One picture per scene from its caption, (n, 3, h, w) in [0, 1].

    Plain Stable Diffusion: DDIM with classifier-free guidance, each picture on its own. ``maps``
    (n, 3, h, w) in [0, 1] go to the ControlNet named ``control``.
    """
    states = encode_prompts(backbone, ["", *(scene.caption for scene in scenes)])
    text = torch.cat([states[:1].expand(len(scenes), -1, -1), states[1:]])

    def predict(latents: Tensor, timestep: int, scale: float) -> Tensor:
        """Guided noise, (n, 4, h, w), with the ControlNet where there are maps."""
        batch = latents.repeat(2, 1, 1, 1)
        residuals = {}
        if maps is not None:
            down, mid = backbone.controlnets[control](
                batch, timestep, text, maps.repeat(2, 1, 1, 1), return_dict=False
            )
            residuals = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": mid,
            }
        return guide(backbone.unet(batch, timestep, text, **residuals).sample, scale, 2)

    noise = torch.randn(len(scenes), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    schedule = make_schedule(backbone.scheduler_config, STEPS)
    return decode_latents(backbone, denoise(predict, schedule, [GUIDANCE] * STEPS, noise))


def check_unet(backbone: Backbone, judge: Judge) -> Iterator[Figure]:
    """Share of text-to-image pictures in which the classifier sees what the prompt asks for."""
    scenes = held_out(128, sprites=1)
    images = torch.cat([generate(backbone, scenes[i : i + 32]) for i in range(0, 128, 32)])
    least = {"colour": 0.85, "shape": 0.75, "pattern": 0.85}
    for name, share in agreement(judge, images, scenes).items():
        yield Figure("unet", f"{name} obeyed", share, least[name])


def edge_f1(found: NDArray[Any], given: NDArray[Any], reach: int = EDGE_REACH) -> float:
    """F1 of edge maps (f, h, w) in {0, 1}; a pixel is met within ``reach`` pixels (Chebyshev)."""
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    grown_found, grown_given = (
        np.stack([cv2.dilate(m.astype(np.uint8), kernel) for m in maps]) for maps in (found, given)
    )
    precision = (found * grown_given).sum() / max(found.sum(), 1)
    recall = (given * grown_found).sum() / max(given.sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def check_edges(backbone: Backbone) -> Iterator[Figure]:
    """F1 of Canny edges of generated pictures and the given edges, with and without control."""
    scenes = held_out(32)
    given = np.concatenate([edges(scene, TIME) for scene in scenes])
    maps = torch.from_numpy(given)[:, None].expand(-1, 3, -1, -1).float()
    pictures = {
        "with control": generate(backbone, scenes, "edges", maps),
        "without": generate(backbone, scenes),
    }
    pictures["of the source (ceiling)"] = frames_of(scenes)
    for name, images in pictures.items():
        found = canny((images.permute(0, 2, 3, 1) * 255).round().byte().numpy())
        yield Figure(
            "controlnet-edges",
            f"edge F1 at {EDGE_REACH} px, {name}",
            edge_f1(found, given),
        )


def check_depth(backbone: Backbone) -> Iterator[Figure]:
    """Mean absolute difference from the named colour where the depth map puts the sprite.

    Small only if the sprite lies where the depth says.
    """
    scenes = held_out(32, sprites=1)
    depth = np.concatenate([depths(scene, TIME) for scene in scenes])
    maps = torch.from_numpy(depth)[:, None].expand(-1, 3, -1, -1)
    inside = torch.from_numpy(depth > 0.5)[:, None]
    for name, images in (
        ("with control", generate(backbone, scenes, "depth", maps)),
        ("without", generate(backbone, scenes)),
        ("of the source (floor)", frames_of(scenes)),
    ):
        wanted = torch.stack([torch.tensor(scene.sprites[0].rgb) for scene in scenes])[
            :, :, None, None
        ]
        error = ((images - wanted).abs() * inside).sum() / (3 * inside.sum())
        yield Figure("controlnet-depth", f"colour error inside the sprite, {name}", float(error))


@torch.inference_mode()
def measure(only: Sequence[str] = ()) -> list[Figure]:
    """Measure the figures of the named networks, or of all that are shipped."""
    backbone, judge = load_backbone(parse_backbone("miniature")), load_judge()
    checks: dict[str, Callable[[], Iterator[Figure]]] = {
        "vae": lambda: check_vae(backbone),
        "clip": check_clip,
        "judge": lambda: check_judge(judge),
        "unet": lambda: check_unet(backbone, judge),
        "controlnet-edges": lambda: check_edges(backbone),
        "controlnet-depth": lambda: check_depth(backbone),
        "svd-unet": lambda: check_svd_unet(backbone, judge),
        "svd-vae": lambda: check_svd_vae(backbone),
        "hallo-vae": lambda: check_hallo_vae(load_hallo_vae()),
        "hallo": lambda: check_hallo(load_hallo(parse_backbone("miniature"))),
    }
    wanted = [name for name in checks if (not only or name in only) and (WEIGHTS / name).is_dir()]
    return [figure for name in wanted for figure in checks[name]()]


def main(words: list[str]) -> int:
    """Print the figures; 1 if one falls short. ``--write`` puts them into the model cards."""
    parser = argparse.ArgumentParser(prog="crossframe miniature check", description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument(
        "--write", action="store_true", help="write the figures into the model cards"
    )
    options = parser.parse_args(words)
    figures = measure(options.networks)
    table = Table("network", "figure", "reached", "should be", "")
    for figure in figures:
        short = "short" if figure.short else ""
        table.add_row(figure.network, figure.name, f"{figure.value:.3f}", figure.goal, short)
    Console().print(table)
    if options.write:
        write_acceptance(
            {
                n: {f.name: round(f.value, 4) for f in figures if f.network == n}
                for n in {f.network for f in figures}
            }
        )
    return int(any(figure.short for figure in figures))
