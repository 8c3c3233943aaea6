"""What the miniature Stable Video Diffusion reaches on held-out first frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

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
from miniature.judge import Judge, answers
from miniature.svd_clips import Take, draw_take
from miniature.svd_vae import UNSETTLED

CLIPS = 8
"""Clips of any scene; shapes are read in twice as many, of one sprite."""
BUCKETS = (20.0, 60.0, 127.0, 180.0, 255.0)
ORDINARY, FASTER = 1, 2
"""Indices of the bucket at which pictures are judged, that of the studies, and of the next one."""
STUDIED: Mapping[str, Any] = {"preset": "paper", "steps": 12, "motion_bucket": BUCKETS[ORDINARY]}
"""Options of the shipped studies of this network: faster sprites lose their shapes."""
LEAST_COVERAGE = 0.3
"""Share of the pixels that a pair of frames must have in common for its warping error to count."""
SHAPES_HELD = 0.75
"""Share of last frames with the right shape, as of pictures that the image model makes."""
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
    """Mean squared warping error of a clip (f, 3, h, w) along its own estimated flow (DIS).

    Over the pixels that the flow can follow: read it beside `least_coverage`.
    """
    fields = dis_flow(to_levels(frames))
    squares = (warp_backward(frames[1:], fields.forward) - frames[:-1]).pow(2).mean(1)
    return float((squares * fields.valid).sum() / fields.valid.sum().clamp(min=1))


def least_coverage(frames: Tensor) -> float:
    """Least share, over pairs of frames of a clip (f, 3, h, w), of pixels that can be followed."""
    return float(dis_flow(to_levels(frames)).pair_coverage.min())


def shapes_read(judge: Judge, videos: Sequence[Tensor], takes: Sequence[Take]) -> float:
    """Share of clips of one sprite in whose last frame the classifier reads the sprite's shape."""
    wanted = answers([take.scene for take in takes])["shape"]
    found = judge(torch.stack([video[-1] for video in videos]))["shape"].argmax(1)
    return float((found == wanted).float().mean())


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = torch.tensor([one, other], dtype=torch.float64).argsort().argsort().double()
    return float(torch.corrcoef(ranks)[0, 1])


def check_svd_vae(backbone: Backbone, clips: int = CLIPS) -> Iterator[Figure]:
    """Decoding frames together against one by one: fidelity, and changes that are not there.

    Of clean latents, and of latents that are unsettled as much as in training at most.
    """
    networks = load_svd(parse_backbone("miniature"))
    takes = [draw_take("heldout", number).frames() for number in range(clips)]
    clean = [encode_frames(backbone, frames) for frames in takes]
    error = {}
    for kind, latents in {"": clean, "unsettled ": _unsettled(backbone, clean)}.items():
        found = {
            "frames together": [decode(networks, z, Decoding(chunk=None)) for z in latents],
            "one by one (vae)": [decode_latents(backbone, z) for z in latents],
        }
        for way, videos in found.items():
            pairs, name = list(zip(videos, takes, strict=True)), f"{kind}{way}"
            least = 30.0 if name == "frames together" else None
            yield Figure("svd-vae", f"PSNR, dB, {name}", _mean(psnr(*p) for p in pairs), least)
            error[name] = _mean(restlessness(*p) for p in pairs)
            yield Figure("svd-vae", f"error of the changes x 1000, {name}", 1000 * error[name])
    gain = error["unsettled one by one (vae)"] / error["unsettled frames together"]
    yield Figure("svd-vae", "times below one by one, unsettled", gain, 1.0)


def _unsettled(backbone: Backbone, latents: Sequence[Tensor]) -> list[Tensor]:
    """Scaled latents (f, 4, h, w) with noise of its own on every frame, as much as in training."""
    generator = torch.Generator().manual_seed(0)
    level = UNSETTLED * float(backbone.vae.config.scaling_factor)
    return [z + level * torch.randn(z.shape, generator=generator) for z in latents]


def made(networks: SvdBackbone, take: Take, seed: int, **options: Any) -> Tensor:
    """A clip (f, 3, h, w) that begins with the first frame of a take."""
    config = SvdConfig.model_validate(options)
    request = SampleRequest(take.frames(), take.scene.caption, seed=seed)
    return sample(networks, request, config, lambda done, total: None)


def studied(networks: SvdBackbone, takes: Sequence[Take], bucket: float) -> list[Tensor]:
    """A clip of every take at the studies' setting; the noise is the same for all buckets."""
    return [
        made(networks, take, number, **{**STUDIED, "motion_bucket": bucket})
        for number, take in enumerate(takes)
    ]


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


def check_svd_unet(backbone: Backbone, judge: Judge, clips: int = CLIPS) -> Iterator[Figure]:
    """The first frame kept, motion that follows the bucket, shapes held, less warping error.

    At the studies' setting; the first frame also at diffusers' defaults.
    """
    networks = load_svd(parse_backbone("miniature"))
    takes = [draw_take("heldout", number) for number in range(clips)]
    columns = [studied(networks, takes, bucket) for bucket in BUCKETS]
    released = [made(networks, take, n, preset="repo") for n, take in enumerate(takes)]
    for name, videos in {"": columns[ORDINARY], ", diffusers' defaults": released}.items():
        kept = _mean(psnr(v[:1], t.frames()[:1]) for v, t in zip(videos, takes, strict=True))
        yield Figure("svd-unet", f"PSNR of the first frame, dB{name}", kept, 24.0)
    yield from _motions(columns)
    yield from _warping(backbone, takes, columns[ORDINARY])
    yield from _shapes(networks, judge, 2 * clips)


def _motions(columns: Sequence[Sequence[Tensor]]) -> Iterator[Figure]:
    """Videos by bucket; buckets are compared clip by clip."""
    moved = [[motion(video) for video in column] for column in columns]
    rows = zip(*moved, strict=True)
    name = "rank correlation of motion bucket and motion"
    yield Figure("svd-unet", name, _mean(rank_correlation(BUCKETS, row) for row in rows), 0.8)
    for bucket, column in zip(BUCKETS, moved, strict=True):
        yield Figure("svd-unet", f"motion at bucket {bucket:g}, pixels a frame", _mean(column))


def _warping(
    backbone: Backbone, takes: Sequence[Take], videos: Sequence[Tensor]
) -> Iterator[Figure]:
    own = _mean(warping_error(video) for video in videos)
    apart = _mean(warping_error(redrawn(backbone, take, n)) for n, take in enumerate(takes))
    covered = min(least_coverage(video) for video in videos)
    yield Figure("svd-unet", "least coverage of a pair of frames", covered, LEAST_COVERAGE)
    yield Figure("svd-unet", "warping error x 1000", 1000 * own)
    yield Figure("svd-unet", "warping error x 1000, image model per frame", 1000 * apart)
    yield Figure("svd-unet", "times below the image model per frame", apart / own, 1.0)


def _shapes(networks: SvdBackbone, judge: Judge, clips: int) -> Iterator[Figure]:
    """Whether sprites are still what they are at the end; the source is what can be reached."""
    takes = [draw_take("heldout", number, sprites=1) for number in range(clips)]
    source = shapes_read(judge, [take.frames() for take in takes], takes)
    yield Figure("svd-unet", "shape right in the last frame, source", source)
    for bucket, least in ((BUCKETS[ORDINARY], SHAPES_HELD), (BUCKETS[FASTER], None)):
        share = shapes_read(judge, studied(networks, takes, bucket), takes)
        yield Figure("svd-unet", f"shape right in the last frame, bucket {bucket:g}", share, least)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
