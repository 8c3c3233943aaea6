"""What the miniature Hallo reaches on held-out faces and voices, from the pixels of its frames.

Shapes: n clips, f frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from torch import Tensor

from data_manifests.clips import ClipRequest, Truth
from methods.hallo.calls import HalloCall, Scales
from methods.hallo.drawing import Conditions, draw_latents
from methods.hallo.networks import HalloNets
from methods.hallo.schedule import TRAINING, sampling_schedule
from methods.hallo.segments import Segment, draw_segments
from methods.hallo.sound import hear
from methods.noise import frame_noise
from miniature.faces import load_face_clip
from miniature.figure import Figure
from miniature.hallo import MOTION
from miniature.hallo_clips import (
    LATENT,
    SOUND,
    boxes_for,
    corners,
    decode,
    encode,
    pictures_of,
    regions,
)
from miniature.talking import border_jump, changes, correlation, mouth_darkness, offsets, psnr

CLIPS, FRAMES, LENGTH = 6, 36, 12
STEPS, GUIDANCE = 15, 1.5
THING_REACH = 26
"""Pixels that the hanging object may be away from where it hangs in the reference."""
AVERAGED = 48
"""Training faces in the mean face."""
NAME = "hallo"


WHOLE = Scales()


@dataclass(frozen=True)
class Way:
    """How the same portraits are drawn: scales of the three audio branches, and motion frames."""

    scales: Scales = WHOLE
    motion_frames: int = MOTION


WAYS = {
    "all scales 1": Way(),
    "lip scale 0": Way(Scales(lip=0.0)),
    "face scale 0": Way(Scales(face=0.0)),
    "pose scale 0": Way(Scales(pose=0.0)),
    "no motion frames": Way(motion_frames=0),
}


@dataclass(frozen=True)
class Portraits:
    """Held-out faces, their first frame being the reference.

    frames: (n, f, 3, h, w) in [0, 1]. truths: what is known of each clip. sound: windows of
    features (n, f, w, blocks, channels). fixed: conditions that no segment changes (sound and
    images are left empty).
    """

    frames: Tensor
    truths: list[Truth]
    sound: Tensor
    fixed: Conditions

    @property
    def reference(self) -> Tensor:
        """(n, 3, h, w)."""
        return self.frames[:, 0]


def held_out(clips: int = CLIPS, frames: int = FRAMES) -> Portraits:
    """The first held-out faces."""
    loaded = [
        load_face_clip(f"heldout/{i}", ClipRequest(f"faces:heldout/{i}", frames=frames))
        for i in range(clips)
    ]
    truths = [clip.truth for clip in loaded if clip.truth is not None]
    voices = [clip.voice for clip in loaded if clip.voice is not None]
    masks, located = zip(*[_regions(truth) for truth in truths], strict=True)
    identity = torch.stack([torch.from_numpy(np.asarray(truth.identity)) for truth in truths])
    pictures = np.stack([clip.frames for clip in loaded])
    empty = torch.empty(0)
    return Portraits(
        frames=torch.from_numpy(pictures).permute(0, 1, 4, 2, 3).float() / 255,
        truths=truths,
        sound=torch.stack([hear(SOUND, voice)[:frames] for voice in voices]),
        fixed=Conditions(
            identity, empty, empty, tuple(map(torch.cat, zip(*masks, strict=True))),
            torch.stack(located),
        ),
    )  # fmt: skip


def _regions(truth: Truth) -> tuple[tuple[Tensor, ...], Tensor]:
    assert truth.face is not None
    assert truth.lip is not None
    return regions(*boxes_for(corners(truth.face), corners(truth.lip), 0))


def generate(nets: HalloNets, vae: AutoencoderKL, portraits: Portraits, way: Way) -> Tensor:
    """Draw every portrait from its first frame and its voice: (n, f, 3, h, w) in [0, 1]."""
    n, f = portraits.frames.shape[:2]
    schedule = sampling_schedule(STEPS, TRAINING)
    call = HalloCall(frames=LENGTH, scales=way.scales, order="fixed")
    shape = (4, LATENT, LATENT)

    def draw(segment: Segment, motion: Tensor) -> Tensor:
        """A segment of all portraits, (g, n, 3, h, w)."""
        shown = torch.cat([portraits.reference[None], motion]).transpose(0, 1)  # (n, s, 3, h, w)
        images = encode(vae, shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
        noise = torch.stack(
            [frame_noise(i, ("segment", segment.index), LENGTH, shape, 0.0) for i in range(n)]
        ).transpose(1, 2)
        fixed = portraits.fixed
        given = Conditions(
            fixed.identity, images, portraits.sound[:, segment.frames], fixed.masks, fixed.face
        )
        latents = draw_latents(nets, given, schedule, noise, GUIDANCE, call)
        pictures = decode(vae, latents.transpose(1, 2).flatten(0, 1)).unflatten(0, (n, LENGTH))
        return pictures.transpose(0, 1)

    return draw_segments(draw, portraits.reference, f, LENGTH, way.motion_frames).transpose(0, 1)


def voice_follows(frames: Tensor, truth: Truth) -> float:
    """Correlation of the darkness of the mouth's region in frames (f, 3, h, w) with its opening."""
    region, opening = (torch.from_numpy(np.asarray(a)) for a in (truth.mouth, truth.opening))
    return correlation(mouth_darkness(frames, region), opening)


def head_follows(frames: Tensor, truth: Truth, reference: Tensor) -> float:
    """Correlation of the head's place aside with the truth's."""
    pose = torch.from_numpy(np.asarray(truth.pose))
    return correlation(offsets(frames, reference, _mask(truth, 0))[:, 0], pose[:, 0])


def thing_follows(frames: Tensor, truth: Truth, reference: Tensor) -> float:
    """Correlation of the height of the hanging object, outside of the face, with the pose."""
    pose = torch.from_numpy(np.asarray(truth.pose))
    found = offsets(frames, reference, _mask(truth, 2), THING_REACH)[:, 1]
    return correlation(found, pose[:, 0])


def _mask(truth: Truth, part: int) -> Tensor:
    """Pixels (h, w) of head (0) or hanging object (2) in the reference."""
    return torch.from_numpy(truth.masks[0, part])


def _mean(
    portraits: Portraits, drawn: Tensor, measure: Callable[[Tensor, Truth, Tensor], float]
) -> float:
    """Mean over clips of a measure of (frames, truth, reference)."""
    rows = zip(drawn, portraits.truths, portraits.reference, strict=True)
    return fmean(measure(*row) for row in rows)


def likeness(portraits: Portraits, drawn: Tensor) -> float:
    """PSNR against the truth inside the boxes of the faces, mean over clips."""
    where = [torch.from_numpy(np.asarray(truth.face)) for truth in portraits.truths]
    rows = zip(drawn, portraits.frames, where, strict=True)
    return fmean(psnr(frames, truth, face) for frames, truth, face in rows)


def mean_face() -> Tensor:
    """The mean of training pictures, (3, h, w)."""
    return torch.cat([pictures_of("train", i, 10 * i, 1) for i in range(AVERAGED)]).mean(0)


@torch.inference_mode()
def check_hallo_vae(vae: AutoencoderKL, pictures: int = 48) -> Iterator[Figure]:
    """Mean over held-out faces of the PSNR of decode(encode(x)), dB."""
    images = torch.cat([pictures_of("heldout", i, 5 * i, 1) for i in range(pictures)])
    yield Figure("hallo-vae", "PSNR, dB", psnr(decode(vae, encode(vae, images)), images), 28.0)


@torch.inference_mode()
def check_hallo(nets: HalloNets, vae: AutoencoderKL, clips: int = CLIPS) -> Iterator[Figure]:
    """Figures of held-out faces, `FRAMES` frames each; correlations are means over clips."""
    portraits = held_out(clips)
    n = f"n = {clips} clips of {portraits.frames.shape[1]} frames"
    drawn = {name: generate(nets, vae, portraits, way) for name, way in WAYS.items()}
    plain = drawn["all scales 1"]
    yield from _following(portraits, drawn, n)
    yield from _likeness(portraits, plain)
    yield from _continuity(portraits, plain, drawn["no motion frames"])


def _following(portraits: Portraits, drawn: dict[str, Tensor], n: str) -> Iterator[Figure]:
    """How mouth, head and hanging object follow the voice, by scales."""

    def mouth(frames: Tensor, truth: Truth, reference: Tensor) -> float:
        return voice_follows(frames, truth)

    bounds = {"all scales 1": (0.7, None), "lip scale 0": (None, 0.2)}
    for name in ("all scales 1", "lip scale 0"):
        value = _mean(portraits, drawn[name], mouth)
        yield Figure(NAME, f"mouth opening, correlation, {name} ({n})", value, *bounds[name])
    measures = {"head aside": head_follows, "object outside the face": thing_follows}
    for what, measure in measures.items():
        for name in ("all scales 1", "face scale 0", "pose scale 0"):
            value = _mean(portraits, drawn[name], measure)
            yield Figure(NAME, f"{what}, correlation with the pose, {name}", value)


def _likeness(portraits: Portraits, plain: Tensor) -> Iterator[Figure]:
    still = portraits.reference[:, None].expand_as(portraits.frames)
    stranger = mean_face().expand_as(portraits.frames)
    least = likeness(portraits, stranger)
    yield Figure(NAME, "face, PSNR against the truth, dB", likeness(portraits, plain), least)
    yield Figure(NAME, "face, PSNR of the reference repeated, dB", likeness(portraits, still))
    yield Figure(NAME, "face, PSNR of the mean face, dB", least)
    whole = fmean(psnr(*pair) for pair in zip(plain, portraits.frames, strict=True))
    yield Figure(NAME, "whole picture, PSNR against the truth, dB", whole)


def _continuity(portraits: Portraits, plain: Tensor, without: Tensor) -> Iterator[Figure]:
    moved, true = (
        torch.stack([changes(clip) for clip in clips]) for clips in (plain, portraits.frames)
    )
    ratio = float(moved.mean() / true.mean())
    yield Figure(NAME, "change from frame to frame over the truth's", ratio, None, 3.0)
    jump = border_jump(list(moved), LENGTH)
    lost = border_jump([changes(clip) for clip in without], LENGTH)
    yield Figure(NAME, "change at segment borders over that within", jump, None, 1.5)
    yield Figure(NAME, "the same without motion frames", lost, jump)
