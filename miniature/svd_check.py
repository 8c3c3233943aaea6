"""What the miniature Stable Video Diffusion reaches on held-out first frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from crossframe.flow.fields import dis_flow, dis_forward, to_levels, warp_backward
from methods.backbone_config import parse_backbone
from methods.backbones import Backbone, decode_latents, encode_frames, encode_prompts
from methods.base import SampleRequest
from methods.ddim import add_noise, make_schedule
from methods.denoising import denoise
from methods.guidance import guide
from methods.svd.backbone import SvdBackbone, load_svd
from methods.svd.config import SvdConfig
from methods.svd.decoding import decode
from methods.svd.options import Decoding
from methods.svd.sampler import sample
from miniature.figure import Figure
from miniature.svd_clips import Take, draw_take

CLIPS = 8
BUCKETS = (20.0, 60.0, 100.0, 140.0, 180.0)
ORDINARY = 2
"""Index of the bucket at which pictures are judged."""
STEPS, GUIDANCE, STRENGTH = 20, 4.0, 0.75
"""Of the image model that redraws every frame."""


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


def check_svd_vae(backbone: Backbone, clips: int = CLIPS) -> Iterator[Figure]:
    """Decoding frames together against one by one: fidelity, and changes that are not there."""
    networks = load_svd(parse_backbone("miniature"))
    takes = [draw_take("heldout", number).frames() for number in range(clips)]
    latents = [encode_frames(backbone, frames) for frames in takes]
    found = {
        "frames together": [decode(networks, z, Decoding(chunk=None)) for z in latents],
        "one by one (vae)": [decode_latents(backbone, z) for z in latents],
    }
    for name, videos in found.items():
        pairs = list(zip(videos, takes, strict=True))
        least = 30.0 if name == "frames together" else None
        yield Figure("svd-vae", f"PSNR, dB, {name}", _mean(psnr(*p) for p in pairs), least)
        error = _mean(restlessness(*p) for p in pairs)
        yield Figure("svd-vae", f"error of the changes x 1000, {name}", 1000 * error)


def made(networks: SvdBackbone, take: Take, bucket: float, seed: int) -> Tensor:
    """A clip (f, 3, h, w) that begins with the first frame of a take, as diffusers makes it."""
    config = SvdConfig(preset="repo", motion_bucket=bucket)
    request = SampleRequest(take.frames(), take.scene.caption, seed=seed)
    return sample(networks, request, config, lambda done, total: None)


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
    networks = load_svd(parse_backbone("miniature"))
    takes = [draw_take("heldout", number) for number in range(clips)]
    videos = [[made(networks, take, b, n) for b in BUCKETS] for n, take in enumerate(takes)]
    moved = [[motion(video) for video in row] for row in videos]
    ordinary = [row[ORDINARY] for row in videos]
    kept = [psnr(v[:1], t.frames()[:1]) for v, t in zip(ordinary, takes, strict=True)]
    yield Figure("svd-unet", "PSNR of the first frame, dB", _mean(kept), 24.0)
    name = "rank correlation of motion bucket and motion"
    yield Figure("svd-unet", name, _mean(rank_correlation(BUCKETS, row) for row in moved), 0.8)
    for bucket, column in zip(BUCKETS, zip(*moved, strict=True), strict=True):
        yield Figure("svd-unet", f"motion at bucket {bucket:g}, pixels a frame", _mean(column))
    own = _mean(warping_error(video) for video in ordinary)
    apart = _mean(warping_error(redrawn(backbone, take, n)) for n, take in enumerate(takes))
    yield Figure("svd-unet", "warping error x 1000", 1000 * own)
    yield Figure("svd-unet", "warping error x 1000, image model per frame", 1000 * apart)
    yield Figure("svd-unet", "times below the image model per frame", apart / own, 1.0)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
