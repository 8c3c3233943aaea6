"""What the miniature Stable Video Diffusion reaches on held-out first frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.models import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from crossframe.flow.fields import dis_flow, dis_forward, to_levels, warp_backward
from methods.backbones import Backbone, decode_latents, encode_frames, encode_prompts
from methods.ddim import add_noise, make_schedule
from methods.denoising import denoise
from methods.guidance import guide
from methods.norm_groups import groups_of
from miniature.export import WEIGHTS
from miniature.figure import Figure
from miniature.svd import sample
from miniature.svd_clips import Batch, Encoders, Take, draw_take, image_embeddings

CLIPS = 12
BUCKETS = (20.0, 60.0, 100.0, 140.0, 180.0)
ORDINARY = 2
"""Index of the bucket at which pictures are judged."""
FPS, AUGMENTATION = 7, 0.02
"""The defaults of the released pipeline."""
STEPS, GUIDANCE, STRENGTH = 20, 4.0, 0.75
"""Of the image model that redraws every frame."""


def shipped(kind: Any, name: str) -> Any:
    """A shipped network in float32."""
    folder = WEIGHTS / name
    with groups_of(folder):
        net: nn.Module = kind.from_pretrained(folder, torch_dtype=torch.float32)
    return net.eval().requires_grad_(False)


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Mean over pictures (n, 3, h, w) in [0, 1] of the peak signal-to-noise ratio, dB."""
    error = (found - wanted).pow(2).mean((-3, -2, -1))
    return float((-10 * error.log10()).mean())


def restlessness(found: Tensor, wanted: Tensor) -> float:
    """Mean squared difference of the changes from frame to frame of two clips (f, 3, h, w)."""
    return float((found.diff(dim=0) - wanted.diff(dim=0)).pow(2).mean())


def motion(frames: Tensor) -> float:
    """Mean length of the estimated flow (DIS) of a clip (f, 3, h, w) in [0, 1], pixels a frame."""
    return float(dis_forward(to_levels(frames)).norm(dim=1).mean())


def warping_error(frames: Tensor) -> float:
    """Mean squared warping error of a clip (f, 3, h, w) along its own estimated flow (DIS)."""
    fields = dis_flow(to_levels(frames))
    squares = (warp_backward(frames[1:], fields.forward) - frames[:-1]).pow(2).mean(1)
    return float((squares * fields.valid).sum() / fields.valid.sum().clamp(min=1))


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = torch.tensor([one, other], dtype=torch.float64).argsort().argsort().double()
    return float(torch.corrcoef(ranks)[0, 1])


def decode(vae: AutoencoderKLTemporalDecoder, latents: Tensor) -> Tensor:
    """Pictures (f, 3, h, w) in [0, 1] of a clip's scaled latents, decoded together."""
    sample = vae.decode(latents / vae.config.scaling_factor, num_frames=len(latents)).sample
    return (sample / 2 + 0.5).clamp(0, 1)


def check_svd_vae(backbone: Backbone, clips: int = CLIPS) -> Iterator[Figure]:
    """Decoding frames together against one by one: fidelity, and changes that are not there."""
    together = shipped(AutoencoderKLTemporalDecoder, "svd-vae")
    decoders = {
        "frames together": partial(decode, together),
        "one by one (vae)": partial(decode_latents, backbone),
    }
    takes = [draw_take("heldout", number).frames() for number in range(clips)]
    latents = [encode_frames(backbone, frames) for frames in takes]
    for name, decoder in decoders.items():
        found = [decoder(z) for z in latents]
        pairs = list(zip(found, takes, strict=True))
        least = 30.0 if name == "frames together" else None
        yield Figure("svd-vae", f"PSNR, dB, {name}", _mean(psnr(*p) for p in pairs), least)
        error = _mean(restlessness(*p) for p in pairs)
        yield Figure("svd-vae", f"error of the changes x 1000, {name}", 1000 * error)


def given_pictures(encoders: Encoders, pictures: Tensor, bucket: float) -> Batch:
    """What the denoiser is given for first frames (n, 3, h, w) in [0, 1]."""
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1))
    given = encoders.latents(pictures * 2 - 1 + AUGMENTATION * noise)
    ids = torch.tensor([FPS - 1, bucket, AUGMENTATION]).expand(len(pictures), -1)
    return Batch(given[:, None], given, image_embeddings(encoders.image, pictures), ids)


def redrawn(backbone: Backbone, take: Take, seed: int) -> Tensor:
    """The frames of a take (f, 3, h, w), each redrawn from its caption by the image model."""
    frames = take.frames()
    schedule = make_schedule(backbone.scheduler_config, STEPS, STRENGTH)
    text = encode_prompts(backbone, ["", take.scene.caption]).repeat_interleave(len(frames), 0)

    def predict(latents: Tensor, timestep: int, scale: float) -> Tensor:
        """Guided noise, (f, 4, h, w)."""
        out = backbone.unet(latents.repeat(2, 1, 1, 1), timestep, text).sample
        return guide(out, scale, 2)

    clean = encode_frames(backbone, frames)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    start = add_noise(clean, noise, schedule.alpha_bar[0])
    return decode_latents(backbone, denoise(predict, schedule, [GUIDANCE] * len(schedule), start))


def check_svd_unet(backbone: Backbone, clips: int = CLIPS) -> Iterator[Figure]:
    """The first frame kept, motion that follows the bucket, and less warping error than per frame.

    Buckets are compared clip by clip, with the same noise for all of them.
    """
    net = shipped(UNetSpatioTemporalConditionModel, "svd-unet")
    vae = shipped(AutoencoderKLTemporalDecoder, "svd-vae")
    encoders = Encoders(backbone.vae, shipped(CLIPVisionModelWithProjection, "clip"))
    takes = [draw_take("heldout", number) for number in range(clips)]
    first = torch.stack([take.frames()[0] for take in takes])
    made = [
        [decode(vae, z) for z in sample(net, given_pictures(encoders, first, bucket))]
        for bucket in BUCKETS
    ]
    moved = [[motion(video) for video in videos] for videos in made]
    ordinary = torch.stack(made[ORDINARY])
    yield Figure("svd-unet", "PSNR of the first frame, dB", psnr(ordinary[:, 0], first), 24.0)
    responses = [rank_correlation(BUCKETS, row) for row in zip(*moved, strict=True)]
    name = "rank correlation of motion bucket and motion"
    yield Figure("svd-unet", name, _mean(responses), 0.8)
    for bucket, row in zip(BUCKETS, moved, strict=True):
        yield Figure("svd-unet", f"motion at bucket {bucket:g}, pixels a frame", _mean(row))
    own = _mean(warping_error(video) for video in ordinary)
    apart = _mean(warping_error(redrawn(backbone, take, n)) for n, take in enumerate(takes))
    yield Figure("svd-unet", "warping error x 1000", 1000 * own)
    yield Figure("svd-unet", "warping error x 1000, image model per frame", 1000 * apart)
    yield Figure("svd-unet", "times below the image model per frame", apart / own, 1.0)


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)
