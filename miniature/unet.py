"""The miniature world's denoiser: UNet2DConditionModel with SD-1.5's levels, single pictures."""

from __future__ import annotations

import torch
from diffusers.models import UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPModel

from miniature.clip import WIDTH, tokens
from miniature.fit import Fit, Recipe, device, work_folder
from miniature.world import training_frames

RECIPES = (
    Recipe(steps=2400, batch=32, rate=1e-3, average=0.998),
    Recipe(steps=8000, batch=16, rate=1e-3, average=0.999, seed=1),
)
"""One after the other: colours and patterns come in the first, shapes in the second."""
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


class Noising:
    """Draws noised latents, timesteps and text of a training step from torch's global generator."""

    def __init__(self, latents: Tensor, clip: CLIPModel) -> None:
        self.latents = latents.to(device())
        self.captions = [scene.caption for scene, _ in training_frames(0, len(latents))]
        self.text = TextStates(clip)
        self.signal = scheduler().alphas_cumprod.to(device())

    def draw(self, batch: int) -> tuple[list[int], Tensor, Tensor, Tensor, Tensor]:
        """Picture numbers, noised latents (n, 4, 16, 16), timesteps (n,), text, noise."""
        numbers = torch.randint(0, len(self.latents), (batch,)).tolist()
        t = torch.randint(0, 1000, (batch,)).to(device())
        clean = self.latents[numbers]
        noise = torch.randn(clean.shape).to(device())
        kept = torch.rand(batch) >= NO_PROMPT
        prompts = [self.captions[n] if keep else "" for n, keep in zip(numbers, kept, strict=True)]
        level = self.signal[t][:, None, None, None]
        return (
            numbers,
            level.sqrt() * clean + (1 - level).sqrt() * noise,
            t,
            self.text(prompts),
            noise,
        )

    def loss(self, predicted: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Min-SNR-weighted squared error of the noise."""
        snr = self.signal[t] / (1 - self.signal[t])
        weight = snr.clamp(max=SNR_CAP) / snr
        return (weight * (predicted - noise).pow(2).mean((1, 2, 3))).mean()


def train(latents: Tensor, clip: CLIPModel) -> UNet2DConditionModel:
    """Train or resume; returns the averaged network.

    ``latents`` (n, 4, 16, 16) are those of the training pictures 0 .. n, scaled.
    """
    noising = Noising(latents, clip)
    net = build().to(device(), memory_format=torch.channels_last)
    for phase, recipe in enumerate(RECIPES):
        run = Fit(net, recipe, work_folder() / f"unet-{phase}")

        def losses(step: int, batch: int = recipe.batch) -> dict[str, Tensor]:
            _, noised, t, text, noise = noising.draw(batch)
            return {"noise": noising.loss(net(noised, t, text).sample, noise, t)}

        run.run(losses)
        run.use_average()
    return net
