"""ControlNets of the miniature world for edges and depth: copies of the denoiser's encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers.models import ControlNetModel, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel

from crossframe.keys import derive_seed
from methods.conditions import canny
from miniature.fit import Fit, Recipe, device, work_folder
from miniature.unet import Noising
from miniature.world import Scene, depths, edges, render_frames, training_frames

RECIPES = {
    "edges": Recipe(steps=1200, batch=16, rate=1.5e-3, average=0.995, decay=0.0),
    "depth": Recipe(steps=400, batch=16, rate=1.5e-3, average=0.99, decay=0.0),
}
EMBEDDING = (8, 16, 24, 32)
"""Channels of the condition's embedding: three halvings from pixels to latents, as for SD-1.5."""


def edge_map(scene: Scene, time: float, number: int) -> NDArray[Any]:
    """Edges (h, w) in {0, 1} of training picture ``number``.

    They are exact (60 %), sprite outlines alone (15 %) or Canny edges of the picture (25 %), which
    prepare the network for footage, where nothing is exact.
    """
    kind = np.random.default_rng(derive_seed(0, "edges", number)).random()
    t = np.array([time])
    if kind < 0.75:
        return edges(scene, t, patterned=kind < 0.6)[0]
    return canny(render_frames(scene, t))[0]


def depth_map(scene: Scene, time: float, number: int) -> NDArray[Any]:
    """Exact inverse depth (h, w) in [0, 1]."""
    return depths(scene, np.array([time]))[0]


MAPS: dict[str, Callable[[Scene, float, int], NDArray[Any]]] = {
    "edges": edge_map,
    "depth": depth_map,
}


def build(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet started from the denoiser's encoder, with zero output convolutions.

    The condition's embedding does not start at zero as well: with both, neither learns for long.
    """
    torch.manual_seed(0)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=EMBEDDING)
    net.controlnet_cond_embedding.conv_out.reset_parameters()
    return net


class Conditions:
    """Control maps of the training pictures, drawn when first asked for and kept as bytes."""

    def __init__(self, kind: str, count: int) -> None:
        self.draw = MAPS[kind]
        self.frames = list(training_frames(0, count))
        self.known: dict[int, NDArray[Any]] = {}

    def __call__(self, numbers: list[int]) -> Tensor:
        """Maps of pictures, (n, 3, h, w) in [0, 1]."""
        for number in set(numbers) - self.known.keys():
            scene, time = self.frames[number]
            self.known[number] = np.round(self.draw(scene, time, number) * 255).astype(np.uint8)
        maps = torch.from_numpy(np.stack([self.known[number] for number in numbers])).float() / 255
        return maps[:, None].expand(-1, 3, -1, -1).to(device())


def train(
    kind: str, unet: UNet2DConditionModel, latents: Tensor, clip: CLIPModel
) -> ControlNetModel:
    """Train or resume the ControlNet for ``kind``, denoiser frozen; returns the average."""
    noising, conditions = Noising(latents, clip, focused=True), Conditions(kind, len(latents))
    unet = unet.to(device()).eval().requires_grad_(False)
    recipe = RECIPES[kind]
    run = Fit(build(unet).to(device()), recipe, work_folder() / f"controlnet-{kind}")

    def losses(step: int) -> dict[str, Tensor]:
        """What `Fit` minimises: the error of the noise that the frozen UNet predicts with help."""
        draw = noising.draw(recipe.batch)
        given = (draw.noised, draw.t, draw.text)
        down, mid = run.net(*given, conditions(draw.numbers), return_dict=False)
        out = unet(
            *given,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        )
        return {"noise": noising.loss(out.sample, draw)}

    run.run(losses)
    run.use_average()
    return run.net
