"""The miniature Hallo's autoencoder: the world's, trained on for faces.

The world's own blurs eyes and brows, which sprites do not have: on held-out faces it reaches 26 dB.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from torch import Tensor

from crossframe.keys import derive_seed
from miniature.face import VERSION, face_of
from miniature.faces import face_boxes, render_frames
from miniature.fit import Fit, Recipe, device, work_folder
from miniature.vae import KL_WEIGHT

RECIPE = Recipe(steps=1000, batch=3, rate=8e-4, average=0.995, warmup=50)
LATEST = 300
"""Pictures are of frames drawn from 0 .. `LATEST`."""
FACE_WEIGHT = 2.0
"""What an error inside the box of the face counts, against one outside."""


def pictures(start: int, count: int) -> tuple[Tensor, Tensor]:
    """Training pictures ``start ..``, one of each face: (n, 3, 128, 128) in [0, 1], and weights.

    The weights (n, 1, 128, 128) are `FACE_WEIGHT` in the box of the face and 1 elsewhere.
    """
    drawn, weights = [], []
    for number in range(start, start + count):
        face = face_of("train", number)
        rng = np.random.default_rng(derive_seed(VERSION, "face picture", number))
        time = np.array([rng.uniform(0, LATEST)])
        drawn.append(render_frames(face, time)[0])
        weights.append(np.where(face_boxes(face, time), FACE_WEIGHT, 1.0))
    images = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255
    return images, torch.from_numpy(np.stack(weights)).float()


def losses(net: AutoencoderKL, step: int) -> dict[str, Tensor]:
    """Weighted absolute and squared error of the reconstruction, and the KL term."""
    images, weight = (part.to(device()) for part in pictures(step * RECIPE.batch, RECIPE.batch))
    posterior = net.encode(images * 2 - 1).latent_dist
    error = net.decode(posterior.sample()).sample - (images * 2 - 1)
    weight = weight / weight.mean()
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return {
        "l1": (error.abs() * weight).mean(),
        "mse": 2 * (error.square() * weight).mean(),
        "kl": KL_WEIGHT * kl,
    }


def train(start: AutoencoderKL) -> AutoencoderKL:
    """Train on from the world's autoencoder, or resume; returns the average, its scale set."""
    net = start.requires_grad_(True).to(device(), memory_format=torch.channels_last)
    run = Fit(net, RECIPE, work_folder() / "hallo-vae")
    run.run(lambda step: losses(net, step))
    run.use_average()
    net.register_to_config(scaling_factor=round(1 / float(latent_deviation(net)), 4))
    return net


@torch.no_grad()
def latent_deviation(net: AutoencoderKL, count: int = 48) -> Tensor:
    """Standard deviation of the latents of training pictures, over all elements."""
    parts = pictures(0, count)[0].to(device()).split(8)
    return torch.cat([net.encode(part * 2 - 1).latent_dist.mean for part in parts]).std()
