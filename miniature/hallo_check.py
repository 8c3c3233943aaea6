"""What the miniature Hallo reaches on held-out faces and voices, by its own sampler and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor

from data_manifests.clips import ClipRequest
from methods.backbones import decode_latents, encode_frames
from methods.base import SampleRequest
from methods.hallo.backbone import HalloBackbone
from methods.hallo.config import HalloConfig
from methods.hallo.sampler import sample
from metrics.base import Face, MetricInputs, MetricValue
from metrics.fidelity import psnr_series
from metrics.flicker import consecutive_mae
from metrics.seams import ratio
from metrics.sync import head_corr, mouth_corr, outside_corr
from miniature.faces import load_face_clip
from miniature.figure import Figure
from miniature.hallo_clips import decode, encode, pictures_of

CLIPS, FRAMES, LENGTH = 6, 36, 12
BASE: Mapping[str, Any] = {
    "preset": "fixed",
    "steps": 15,
    "guidance": {"scale": 1.5},
    "segment": {"length": LENGTH},
}
WHOLE, NO_LIP, NO_FACE, NO_POSE = "all scales 1", "lip scale 0", "face scale 0", "pose scale 0"
NO_MOTION = "no motion frames"
WAYS: Mapping[str, Mapping[str, Any]] = {
    WHOLE: {},
    NO_LIP: {"scales": {"lip": 0.0}},
    NO_FACE: {"scales": {"face": 0.0}},
    NO_POSE: {"scales": {"pose": 0.0}},
    NO_MOTION: {"motion": {"frames": 0}},
}
"""How the same portraits are drawn."""
AVERAGED = 48
"""Training faces in the mean face."""
MOST_CHANGE = 3.0
"""Frames may change from one to the next so many times as much as the truth's, or as little."""
NAME = "hallo"


@dataclass(frozen=True)
class Take:
    """A held-out face, whose first frame is the portrait: what is asked for, and what is known."""

    request: SampleRequest
    face: Face

    def judged(self, frames: Tensor) -> MetricInputs:
        """Frames (f, 3, h, w) in [0, 1], with what metrics compare them with."""
        borders = tuple(range(LENGTH, len(frames), LENGTH))
        return MetricInputs(frames, self.request.frames, face=self.face, borders=borders)


def held_out(number: int, frames: int = FRAMES) -> Take:
    """The held-out face of this number, which seeds its noise too."""
    clip = load_face_clip(f"heldout/{number}", ClipRequest("faces:heldout", frames=frames))
    known = {k: torch.from_numpy(v) for k, v in vars(clip.truth).items() if v is not None}
    pictures = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
    return Take(
        SampleRequest(pictures, clip.caption, seed=number, truth=known, voice=clip.voice),
        Face(
            known["mouth"], known["envelope"], known["face"], known["pose"], known["masks"][:, -1]
        ),
    )


def drawn(backbone: HalloBackbone, take: Take, way: Mapping[str, Any]) -> Tensor:
    """A portrait speaking, (f, 3, h, w) in [0, 1], under options beside `BASE`."""
    config = HalloConfig.model_validate({**BASE, **way})
    return sample(backbone, take.request, config, lambda done, total: None)


def mean_face() -> Tensor:
    """The mean of training pictures, (3, h, w)."""
    return torch.cat([pictures_of("train", i, 10 * i, 1) for i in range(AVERAGED)]).mean(0)


@torch.inference_mode()
def check_hallo_vae(vae: AutoencoderKL, pictures: int = 48) -> Iterator[Figure]:
    """Mean over held-out faces of the PSNR of decode(encode(x)), dB."""
    images = torch.cat([pictures_of("heldout", i, 5 * i, 1) for i in range(pictures)])
    again = decode(vae, encode(vae, images))
    yield Figure("hallo-vae", "PSNR, dB", float(psnr_series(again, images).mean()), 28.0)


@torch.inference_mode()
def check_hallo(
    backbone: HalloBackbone, clips: int = CLIPS, frames: int = FRAMES
) -> Iterator[Figure]:
    """Figures of held-out faces; correlations and ratios are means over clips."""
    takes = [held_out(number, frames) for number in range(clips)]
    videos = {name: [drawn(backbone, take, way) for take in takes] for name, way in WAYS.items()}
    judged = {
        name: [take.judged(video) for take, video in zip(takes, made, strict=True)]
        for name, made in videos.items()
    }
    yield from following(judged, f"n = {clips} clips of {frames} frames")
    yield from likeness(backbone, judged[WHOLE])
    yield from continuity(judged[WHOLE], judged[NO_MOTION])


Judged = list[MetricInputs]


def following(judged: Mapping[str, Judged], n: str) -> Iterator[Figure]:
    """How mouth, head and hanging object follow the voice, by scales.

    Without the lip branch the mouth may follow neither way, so sizes of correlations are averaged.
    Without the face's branch the head has to follow less than with it, and without that of the
    pose the object, which hangs outside of the face's mask.
    """
    mouth = _values(mouth_corr, judged[WHOLE])
    yield Figure(NAME, f"mouth opening, correlation, {WHOLE} ({n})", fmean(mouth), 0.7)
    silent = fmean(map(abs, _values(mouth_corr, judged[NO_LIP])))
    yield Figure(NAME, f"mouth opening, size of the correlation, {NO_LIP}", silent, None, 0.2)
    measures = (
        ("head aside", head_corr, NO_FACE, NO_POSE),
        ("object outside the face", outside_corr, NO_POSE, NO_FACE),
    )
    for what, metric, own, other in measures:
        name = f"{what}, correlation with the pose"
        found = {way: fmean(_values(metric, judged[way])) for way in (WHOLE, own, other)}
        yield Figure(NAME, f"{name}, {WHOLE}", found[WHOLE])
        below = math.nextafter(found[WHOLE], -math.inf)
        yield Figure(NAME, f"{name}, {own}", found[own], None, below)
        yield Figure(NAME, f"{name}, {other}", found[other])


def likeness(backbone: HalloBackbone, plain: Judged) -> Iterator[Figure]:
    """PSNR against the truth inside the box of the face, and in the whole picture.

    The face has to be nearer to the truth than the mean face, and than the portrait repeated, as
    the autoencoder gives it back: drawing must be worth more than standing still.
    """
    networks: Any = backbone
    stranger = mean_face()
    repeated = [
        decode_latents(networks, encode_frames(networks, _source(row)[:1]))[0] for row in plain
    ]
    mean = fmean(_face_psnr(row, stranger) for row in plain)
    still = fmean(_face_psnr(row, first) for row, first in zip(plain, repeated, strict=True))
    own = fmean(_face_psnr(row, row.frames) for row in plain)
    yield Figure(NAME, "face, PSNR against the truth, dB", own, max(mean, still))
    yield Figure(NAME, "face, PSNR of the portrait repeated, dB", still)
    yield Figure(NAME, "face, PSNR of the mean face, dB", mean)
    whole = fmean(float(psnr_series(row.frames, _source(row)).mean()) for row in plain)
    yield Figure(NAME, "whole picture, PSNR against the truth, dB", whole)


def continuity(plain: Judged, without: Judged) -> Iterator[Figure]:
    """Change from frame to frame, and across the borders of segments."""
    moved, true = (
        fmean(float(consecutive_mae(frames).mean()) for frames in videos)
        for videos in ([row.frames for row in plain], [_source(row) for row in plain])
    )
    name = "change from frame to frame over the truth's"
    yield Figure(NAME, name, moved / true, 1 / MOST_CHANGE, MOST_CHANGE)
    jump, lost = (fmean(_values(ratio, rows)) for rows in (plain, without))
    yield Figure(NAME, "change at segment borders over that within", jump, None, 1.5)
    yield Figure(NAME, "the same without motion frames", lost, jump)


def _values(
    metric: Callable[[MetricInputs], MetricValue], rows: Iterable[MetricInputs]
) -> list[float]:
    return [metric(row).value for row in rows]


def _source(row: MetricInputs) -> Tensor:
    assert row.source is not None
    return row.source


def _face_psnr(row: MetricInputs, frames: Tensor) -> float:
    """PSNR inside the box of the face of frames (f, 3, h, w), or of one picture for all frames."""
    assert row.face is not None
    source = _source(row)
    return float(psnr_series(frames.expand_as(source), source, row.face.box).mean())
