"""The miniature's temporal decoder: AutoencoderKLTemporalDecoder around the shipped autoencoder.

The encoder is the shipped autoencoder's, weight by weight, and rests: both share their latents. The
decoder starts from its spatial layers and is trained on clips, temporal layers and all. With one
resnet a level the class has neither the second resnet in the middle nor the attention before it
(it keeps weights for the attention, which rest), and no post_quant_conv: that is folded into the
first convolution.
"""

from __future__ import annotations

import re

import torch
from diffusers.models import AutoencoderKL, AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from methods.norm_groups import KEY, norm_groups
from miniature.fit import Fit, Recipe, device, work_folder
from miniature.svd_clips import draw_take

RECIPE = Recipe(steps=600, batch=1, rate=1e-3, warmup=20, average=0.98, decay=0.0)
FIRST_CLIP = 100_000
"""Its clips are others than the denoiser's."""
UNSETTLED = 0.1
"""Latents get noise of up to this deviation, as a denoiser leaves some that differs by frame."""
UNUSED = ("decoder.mid_block.attentions.", "decoder.mid_block.resnets.1.")
"""What the autoencoder has and the temporal decoder, with one resnet a level, does not run."""


def build(vae: AutoencoderKL) -> AutoencoderKLTemporalDecoder:
    """The network before training: ``vae``, but for what is `UNUSED`."""
    torch.manual_seed(RECIPE.seed)
    config = vae.config
    with norm_groups(config.norm_num_groups):
        net = AutoencoderKLTemporalDecoder(
            down_block_types=config.down_block_types,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            sample_size=config.sample_size,
            scaling_factor=config.scaling_factor,
            force_upcast=config.force_upcast,
        )
    net.register_to_config(**{KEY: config.norm_num_groups})
    _silence(net)
    found = {_renamed(name): value for name, value in _folded(vae).items() if not _unused(name)}
    _, unexpected = net.load_state_dict(found, strict=False)
    assert not unexpected, f"the autoencoder has layers of its own: {unexpected}"
    for name, value in net.named_parameters():
        value.requires_grad_(name.startswith("decoder.") and not _unused(name))
    return net


def _unused(name: str) -> bool:
    return name.startswith(UNUSED)


@torch.no_grad()
def _silence(net: AutoencoderKLTemporalDecoder) -> None:
    """Let every residual branch, and the convolution over time at the end, change nothing."""
    for name, module in net.named_modules():
        if name.endswith("conv2"):
            for value in module.parameters():
                nn.init.zeros_(value)
    last = net.decoder.time_conv_out
    nn.init.zeros_(last.bias)
    nn.init.zeros_(last.weight)
    for channel in range(last.out_channels):
        last.weight[channel, channel, 1] = 1.0


def _renamed(name: str) -> str:
    """The name that a tensor of AutoencoderKL has in AutoencoderKLTemporalDecoder."""
    return re.sub(r"^(decoder\.\w+.*\.resnets\.\d+)\.", r"\1.spatial_res_block.", name)


@torch.no_grad()
def _folded(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The autoencoder's tensors without post_quant_conv, which moves into ``decoder.conv_in``.

    Exact inside; at the border the bias of the folded layer leaks in from outside the picture.
    """
    tensors = dict(vae.state_dict())
    mixed, offset = (tensors.pop(f"post_quant_conv.{part}") for part in ("weight", "bias"))
    kernel = tensors["decoder.conv_in.weight"]
    tensors["decoder.conv_in.weight"] = torch.einsum("oihw,ij->ojhw", kernel, mixed[:, :, 0, 0])
    tensors["decoder.conv_in.bias"] = tensors["decoder.conv_in.bias"] + torch.einsum(
        "oihw,i->o", kernel, offset
    )
    return tensors


def losses(net: AutoencoderKLTemporalDecoder, step: int) -> dict[str, Tensor]:
    """Absolute and squared error of a decoded clip in [-1, 1], per element."""
    x = draw_take("train", FIRST_CLIP + step).frames().to(device()) * 2 - 1
    with torch.no_grad():
        z = net.encode(x).latent_dist.mean
    z = z + UNSETTLED * torch.rand(()).to(z) * torch.randn(z.shape).to(z)
    y = net.decode(z, num_frames=len(x)).sample
    return {"l1": F.l1_loss(y, x), "mse": 2 * F.mse_loss(y, x)}


def train(vae: AutoencoderKL) -> AutoencoderKLTemporalDecoder:
    """Train or resume the decoder; returns the averaged network."""
    run = Fit(build(vae).to(device()), RECIPE, work_folder() / "svd-vae")
    run.run(lambda step: losses(run.net, step))
    run.use_average()
    return run.net
