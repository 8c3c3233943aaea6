"""The miniature Stable Video Diffusion: UNetSpatioTemporalConditionModel on clips of eight frames.

Preconditioning is that of the released model (Blattmann et al. 2023, arXiv 2311.15127, app. D.4;
Karras et al. 2022, arXiv 2206.00364). With x = x0 + sigma n the network F sees
x / sqrt(sigma^2 + 1) and c_noise = ln(sigma) / 4, and its target is
v = (n - sigma x0) / sqrt(sigma^2 + 1): the denoised clip is
x / (sigma^2 + 1) - sigma / sqrt(sigma^2 + 1) F. The weight of the squared error of the denoised
clip is (sigma^2 + 1) / sigma^2, as in the "VWeighting" of the authors' code: that of v is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models import UNetSpatioTemporalConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from methods.norm_groups import KEY, norm_groups
from miniature.fit import Fit, Recipe, device, phase_folder
from miniature.svd_clips import FRAMES, Batch, Encoders, draw_batch

RECIPES = (
    Recipe(steps=2500, batch=4, rate=1e-3, average=0.998),
    Recipe(steps=5000, batch=4, rate=1e-3, average=0.998, seed=1),
)
"""One after the other. Fast sprites dissolve after either."""
FIRST_CLIPS, CLIPS_PER_STEP, MOST_CLIPS = 500, 1, 4000
"""Clips to draw from at the first step, what every step adds to them, and where that ends."""
GROUPS = 8
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}
"""That of the released model."""
SIGMA_MEAN, SIGMA_DEVIATION = 0.7, 1.6
"""Of ln sigma: the authors' for image-to-video before their last, higher resolution."""
EVEN = 0.1
"""This part of the sigmas is drawn log-uniformly between the schedule's ends, so that they are
seen: 700, at which sampling starts, lies 3.7 deviations from the mean."""
NO_PICTURE = 0.1
"""Part of the clips that are trained without picture and context, for guidance."""


def build() -> UNetSpatioTemporalConditionModel:
    """The released model's blocks, a tenth to a twentieth as wide, with one layer where it has two.

    Residual branches and the output start at zero, and space and time in equal parts.
    """
    torch.manual_seed(RECIPES[0].seed)
    with norm_groups(GROUPS):
        net = UNetSpatioTemporalConditionModel(
            sample_size=16,
            in_channels=8,
            out_channels=4,
            block_out_channels=(32, 48, 64, 64),
            num_attention_heads=(2, 3, 4, 4),
            layers_per_block=1,
            cross_attention_dim=64,
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=96,
            num_frames=FRAMES,
        )
    net.register_to_config(**{KEY: GROUPS})
    for name, module in net.named_modules():
        if name.endswith(("conv2", "conv_out", "proj_out")):
            for value in module.parameters():
                nn.init.zeros_(value)
        elif name.endswith("time_mixer"):
            nn.init.zeros_(module.mix_factor)
    return net


def _like(sigma: Tensor) -> Tensor:
    """Sigmas (n,) against clips (n, f, 4, h, w)."""
    return sigma[:, None, None, None, None]


def velocity(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """What the network should answer, (n, f, 4, h, w), for sigmas (n,)."""
    s = _like(sigma)
    return (noise - s * clean) / (s**2 + 1).sqrt()


def draw_sigmas(count: int) -> Tensor:
    """Sigmas (count,) of a step, from torch's generator."""
    low, high = SCHEDULE["sigma_min"], SCHEDULE["sigma_max"]
    ends = torch.tensor([low, high]).log()
    drawn = SIGMA_MEAN + SIGMA_DEVIATION * torch.randn(count)
    even = ends[0] + (ends[1] - ends[0]) * torch.rand(count)
    return torch.where(torch.rand(count) < EVEN, even, drawn).clamp(ends[0], ends[1]).exp()


@dataclass(frozen=True)
class Draw:
    """A training step: noised clips (n, f, 4, h, w), their sigmas (n,), and the right answer."""

    noised: Tensor
    sigma: Tensor
    target: Tensor
    batch: Batch


def draw(batch: Batch) -> Draw:
    """Noise clips, and take the picture away from some, all from torch's generator."""
    count = len(batch.latents)
    sigma = draw_sigmas(count).to(batch.latents)
    noise = torch.randn(batch.latents.shape).to(batch.latents)
    kept = (torch.rand(count) >= NO_PICTURE).to(batch.latents)
    blinded = Batch(
        batch.latents,
        batch.given * kept[:, None, None, None],
        batch.context * kept[:, None, None],
        batch.ids,
    )
    noised = batch.latents + _like(sigma) * noise
    return Draw(noised, sigma, velocity(batch.latents, noise, sigma), blinded)


def answer(
    net: UNetSpatioTemporalConditionModel, noised: Tensor, sigma: Tensor, of: Batch
) -> Tensor:
    """The network's answer (n, f, 4, h, w) to noised clips under what is given of ``of``."""
    given = of.given[:, None].expand(-1, noised.shape[1], -1, -1, -1)
    scaled = noised / (_like(sigma) ** 2 + 1).sqrt()
    inputs = torch.cat([scaled, given], 2)
    out: Tensor = net(inputs, sigma.log() / 4, of.context, of.ids).sample
    return out


def losses(net: UNetSpatioTemporalConditionModel, drawn: Draw) -> dict[str, Tensor]:
    """Squared error of v, per element."""
    found = answer(net, drawn.noised, drawn.sigma, drawn.batch)
    return {"velocity": F.mse_loss(found, drawn.target)}


def clips_at(step: int) -> int:
    """How many training clips a step draws from: it grows, so that training can start early."""
    return min(MOST_CLIPS, FIRST_CLIPS + CLIPS_PER_STEP * step)


def train(encoders: Encoders) -> UNetSpatioTemporalConditionModel:
    """Train or resume, encoding clips as they are needed; returns the averaged network."""
    net, before = build().to(device()), 0
    for phase, recipe in enumerate(RECIPES):
        run = Fit(net, recipe, phase_folder("svd-unet", phase, RECIPES))

        def step_losses(
            step: int, before: int = before, count: int = recipe.batch
        ) -> dict[str, Tensor]:
            return losses(net, draw(draw_batch(encoders, clips_at(before + step), count)))

        run.run(step_losses)
        run.use_average()
        before += recipe.end
    return net
