"""The miniature world's autoencoder: AutoencoderKL, 128 x 128 pictures to 16 x 16 x 4 latents."""

from __future__ import annotations

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from miniature.data import crops, pictures
from miniature.fit import Fit, Recipe, device, work_folder

RECIPE = Recipe(steps=3600, batch=8, rate=1.5e-3, average=0.998)
CROP = 64
KL_WEIGHT = 2e-5
WHOLE_FROM = 0.85
"""After this part of the steps whole pictures are used: GroupNorm must see what it will in use."""


def build() -> AutoencoderKL:
    """Four levels as in SD-1.5, narrow, started as an 8 x 8 average and its nearest inverse.

    The two output norms still set gain and offset of every channel.
    """
    torch.manual_seed(RECIPE.seed)
    net = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(8, 24, 48, 96),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=128,
    )
    start_as_average(net)
    return net


@torch.no_grad()
def start_as_average(net: AutoencoderKL) -> None:
    """Lead +RGB and -RGB through six channels of every layer; all residual branches start at zero.

    From diffusers' own random start 1,200 crops leave an absolute error of .26, from this one .13.
    """
    delta, pool = torch.zeros(3, 3), torch.zeros(3, 3)
    delta[1, 1], pool[:2, :2] = 1.0, 0.25
    for name, module in net.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            _clear(module, slice(None))
        elif name.endswith("conv_shortcut"):
            _diagonal(module, 6, torch.ones(1, 1))
        elif name.endswith("downsamplers.0.conv"):
            _diagonal(module, 6, pool)
        elif name.endswith("upsamplers.0.conv"):
            _diagonal(module, 6, delta)
    for split in (net.encoder.conv_in, net.decoder.conv_in):
        _diagonal(split, 3, delta, signs=(1, -1))
    for merge in (net.encoder.conv_out, net.decoder.conv_out):
        _diagonal(merge, 3, delta)
        for i in range(3):
            merge.weight[i, 3 + i] = -delta
    net.encoder.conv_out.bias[4:] = -6.0  # a narrow posterior
    for quant in (net.quant_conv, net.post_quant_conv):
        _diagonal(quant, quant.out_channels, torch.ones(1, 1))


def _clear(layer: nn.Module, rows: slice) -> None:
    for value in layer.parameters():
        value[rows] = 0


def _diagonal(
    conv: nn.Conv2d, channels: int, kernel: Tensor, signs: tuple[int, ...] = (1,)
) -> None:
    """Let output channel ``channels * k + i`` be ``signs[k] * kernel`` of input channel i alone."""
    _clear(conv, slice(channels * len(signs)))
    for k, sign in enumerate(signs):
        for i in range(channels):
            conv.weight[k * channels + i, i] = sign * kernel


def fit() -> Fit[AutoencoderKL]:
    """The training run (not yet started)."""
    net = build().to(device(), memory_format=torch.channels_last)
    return Fit(net, RECIPE, work_folder() / "vae")


def losses(net: AutoencoderKL, step: int) -> dict[str, Tensor]:
    """Absolute and squared error of the reconstruction, and the KL term (all per element)."""
    whole = step >= WHOLE_FROM * RECIPE.steps
    images, _ = pictures(step * RECIPE.batch, RECIPE.batch // (4 if whole else 2))
    x = (images if whole else crops(images, CROP, 2)).to(
        device(), memory_format=torch.channels_last
    ) * 2 - 1
    posterior = net.encode(x).latent_dist
    y = net.decode(posterior.sample()).sample
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return {"l1": F.l1_loss(y, x), "mse": 2 * F.mse_loss(y, x), "kl": KL_WEIGHT * kl}


def train() -> AutoencoderKL:
    """Train or resume; returns the averaged network with its latent scale set."""
    run = fit()
    run.run(lambda step: losses(run.net, step))
    run.use_average()
    net = run.net
    net.register_to_config(scaling_factor=round(1 / float(latent_deviation(net)), 4))
    return net


@torch.no_grad()
def latent_deviation(net: AutoencoderKL, count: int = 64) -> Tensor:
    """Standard deviation of the latents of training pictures, over all elements."""
    images, _ = pictures(0, count)
    return torch.cat([net.encode(part * 2 - 1).latent_dist.mean for part in images.split(8)]).std()
