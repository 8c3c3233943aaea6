"""The miniature world's denoiser: UNet2DConditionModel with SD-1.5's levels, single pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models import UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from miniature.clip import WIDTH, tokens
from miniature.fit import Fit, Recipe, device, phase_folder
from miniature.world import covered, training_frames

RECIPES = (
    Recipe(steps=2400, batch=32, rate=1e-3, average=0.998),
    Recipe(steps=8000, batch=16, rate=1e-3, average=0.999, seed=1, stop=4369),
    Recipe(steps=7000, batch=16, rate=1e-3, average=0.999, seed=2),
    Recipe(steps=5000, batch=16, rate=1e-3, average=0.999, seed=3),
    Recipe(steps=2600, batch=16, rate=1e-3, average=0.999, seed=4),
)
"""One after the other. Colours and patterns come in the first two; shapes, which are an eighth of
the picture, come in those that are `FOCUSED` on them. All but the last of the shipped network were
trained on text states from before CLIP's last recipe, which hardly told shapes apart."""
FOCUSED = 2
"""From this recipe on, sprites weigh more and timesteps are drawn where shapes are decided."""
SPRITE_WEIGHT = 4.0
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
"""SD-1.5's noise schedule."""
NO_PROMPT = 0.1
SNR_CAP = 5.0
"""Min-SNR weighting (Hang et al. 2023, arXiv 2303.09556, eq. 7)."""


def build() -> UNet2DConditionModel:
    """SD-1.5's block types and layers at a tenth to an eighteenth of its widths.

    Residual branches and the output start at zero.
    """
    torch.manual_seed(RECIPES[0].seed)
    net = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 72, 72),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,  # diffusers' name for the number of heads in SD-1.5's layout
        norm_num_groups=8,
    )
    for name, module in net.named_modules():
        if name.endswith(("conv2", "conv_out")) and isinstance(module, nn.Conv2d):
            for value in module.parameters():
                nn.init.zeros_(value)
    return net


def scheduler() -> DDIMScheduler:
    """DDIM on SD-1.5's schedule."""
    return DDIMScheduler(**SCHEDULE)


class TextStates:
    """CLIP text states (n, 16, 96) of captions, each encoded once."""

    def __init__(self, clip: CLIPModel) -> None:
        self.clip = clip.to(device()).eval()
        self.known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        new = sorted(set(captions) - self.known.keys())
        if new:
            batch = {name: value.to(device()) for name, value in tokens(new).items()}
            states = self.clip.text_model(**batch).last_hidden_state
            self.known |= dict(zip(new, states, strict=True))
        return torch.stack([self.known[caption] for caption in captions])


@dataclass(frozen=True)
class Draw:
    """Noised pictures of a training step.

    numbers: of the pictures. noised, noise: (n, 4, 16, 16). t: (n,). text: (n, 16, 96).
    """

    numbers: list[int]
    noised: Tensor
    noise: Tensor
    t: Tensor
    text: Tensor


class Noising:
    """Draws training steps from torch's global generator, and judges predictions.

    focused: timesteps are drawn from a logit-normal density (Esser et al. 2024, arXiv 2403.03206,
    section 3.1), and latents around sprites weigh `SPRITE_WEIGHT` times as much as the others.
    """

    def __init__(self, latents: Tensor, clip: CLIPModel, focused: bool = False) -> None:
        self.latents = latents.to(device())
        self.frames = list(training_frames(0, len(latents)))
        self.text = TextStates(clip)
        self.signal = scheduler().alphas_cumprod.to(device())
        self.focused = focused
        self.weights: dict[int, Tensor] = {}

    def draw(self, batch: int) -> Draw:
        """Draw ``batch`` pictures with their noise, timesteps and prompts."""
        numbers = torch.randint(0, len(self.latents), (batch,)).tolist()
        t = self._timesteps(batch).to(device())
        clean = self.latents[numbers]
        noise = torch.randn(clean.shape).to(device())
        kept = torch.rand(batch) >= NO_PROMPT
        prompts = [
            self.frames[n][0].caption if keep else "" for n, keep in zip(numbers, kept, strict=True)
        ]
        level = self.signal[t][:, None, None, None]
        noised = level.sqrt() * clean + (1 - level).sqrt() * noise
        return Draw(numbers, noised, noise, t, self.text(prompts))

    def _timesteps(self, batch: int) -> Tensor:
        if self.focused:
            return (torch.randn(batch).sigmoid() * 1000).long()
        return torch.randint(0, 1000, (batch,))

    def loss(self, predicted: Tensor, draw: Draw) -> Tensor:
        """Min-SNR-weighted squared error of the noise."""
        snr = self.signal[draw.t] / (1 - self.signal[draw.t])
        weight = snr.clamp(max=SNR_CAP) / snr
        error = (predicted - draw.noise).pow(2).mean(1)
        if self.focused:
            error = error * torch.stack([self._weight(n) for n in draw.numbers]).to(error)
        return (weight * error.mean((1, 2))).mean()

    def _weight(self, number: int) -> Tensor:
        """Weights (16, 16) of a picture's latents, one on average, drawn when first asked for."""
        if number not in self.weights:
            scene, time = self.frames[number]
            seen = torch.from_numpy(covered(scene, np.array([time]), 16)).float()
            near = F.max_pool2d(seen, 3, 1, 1)[0]
            weight = 1 + (SPRITE_WEIGHT - 1) * near
            self.weights[number] = weight / weight.mean()
        return self.weights[number]


def train(latents: Tensor, clip: CLIPModel) -> UNet2DConditionModel:
    """Train or resume; returns the averaged network.

    ``latents`` (n, 4, 16, 16) are those of the training pictures 0 .. n, scaled.
    """
    net = build().to(device(), memory_format=torch.channels_last)
    for phase, recipe in enumerate(RECIPES):
        run = Fit(net, recipe, phase_folder("unet", phase, RECIPES))
        noising = Noising(latents, clip, focused=phase >= FOCUSED)

        def losses(
            step: int, batch: int = recipe.batch, noising: Noising = noising
        ) -> dict[str, Tensor]:
            draw = noising.draw(batch)
            return {"noise": noising.loss(net(draw.noised, draw.t, draw.text).sample, draw)}

        run.run(losses)
        run.use_average()
    return net
