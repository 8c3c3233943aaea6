"""What Hallo draws from: a portrait, who it shows and where, and what is heard; or what is missing.

Shapes: pictures (3, h, w) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.voice import Voice
from methods.base import SampleRequest
from methods.hallo.backbone import HalloBackbone
from methods.hallo.calls import Masks
from methods.hallo.config import HalloConfig
from methods.hallo.regions import (
    NO_BOXES,
    boxes_are_known,
    find_boxes,
    make_locator,
    make_masks,
)
from methods.hallo.segments import FPS
from methods.hallo.sizes import LEVELS, Sizes
from methods.hallo.sound import hear

RATE_OFF = 0.02
"""Part by which a clip's frame rate may differ from 25: half a frame a second."""
NO_IDENTITY = Problem(
    "backbone.face_encoder",
    "nothing says who the portrait shows",
    fix="name the folder face_analysis/models there and `pip install 'crossframe[portraits]'`, or "
    "set reference.identity: false",
)


@dataclass(frozen=True)
class Portrait:
    """What is known of the portrait, for all segments.

    picture: (3, h, w). identity: face embedding (1, e). masks: per level, (1, 1, 3, s, s), or None
    for none. face: the locator's input (1, 3, H, W), or None.
    """

    picture: Tensor
    identity: Tensor
    masks: Masks | None
    face: Tensor | None


def look(backbone: HalloBackbone, request: SampleRequest, config: HalloConfig) -> Portrait:
    """Return the portrait, its regions and its identity, on the backbone's device."""
    frame, options = config.reference.frame, config.regions
    picture = request.frames[frame]
    height, width = picture.shape[-2:]
    masked, side = options.attention == "three", height // backbone.factor
    large = config.quirks.large_boxes
    identity = face_embedding(backbone, request, config)
    masks, face = None, None
    if _needs_boxes(config):
        boxes = find_boxes(picture, frame, options, request.truth, backbone.landmarks)
        size = (width, height)
        if masked:
            made = make_masks(*boxes, size, options, side, large)
            masks = tuple(on_device(backbone, mask) for mask in made)
        if config.reference.locator:
            face = on_device(backbone, make_locator(boxes[0], size, options, side, large))
    return Portrait(picture, on_device(backbone, identity[None]), masks, face)


def _needs_boxes(config: HalloConfig) -> bool:
    return config.regions.attention == "three" or config.reference.locator


def face_embedding(backbone: HalloBackbone, request: SampleRequest, config: HalloConfig) -> Tensor:
    """Return who the portrait shows, (e,) float32: as the clip knows it, else as a network sees it.

    Raises UserError where neither says.
    """
    if not config.reference.identity:
        return torch.zeros(backbone.nets.sizes.face_width)
    known = _known_identity(backbone, request)
    if known is not None:
        return known
    if backbone.face_encoder is None:
        raise UserError(NO_IDENTITY)
    return backbone.face_encoder(request.frames[config.reference.frame])


def _known_identity(backbone: HalloBackbone, request: SampleRequest) -> Tensor | None:
    """What the clip knows, if it is a vector that these networks take."""
    known = request.truth.get("identity")
    fits = known is not None and known.shape == (backbone.nets.sizes.face_width,)
    return known.float() if known is not None and fits else None


def listen(
    backbone: HalloBackbone, request: SampleRequest, voice: Voice, config: HalloConfig
) -> Tensor:
    """Return what each frame hears, (T, window, k, c) float32 on the CPU.

    T is f, padded as the configuration says: of a clip whose rate is not quite 25 the voice is cut,
    or silence added, to as many frames as the clip has. Features are shared by all samples of a
    voice.
    """
    encoder, reach = backbone.audio_encoder, backbone.nets.sizes.window // 2
    frames, multiple = len(request.frames), config.padded_to
    voice = voice.cut(0, frames / FPS)
    parts: list[Any] = [voice.sha256, encoder.identity(), multiple, reach]
    vocals = backbone.vocals
    if vocals is not None:
        parts.append(dict(vocals.weights))

    def heard() -> dict[str, Tensor]:
        alone = voice if vocals is None else vocals(voice)
        return {"windows": hear(encoder, alone, multiple, reach)}

    made = request.shared("sound", parts, heard)
    # The released count of frames, in floating point, is one too large for some lengths.
    return made["windows"][: -(-frames // multiple) * multiple]


def on_device(backbone: HalloBackbone, tensor: Tensor) -> Tensor:
    """Return a tensor where the networks are, in their arithmetic."""
    return tensor.to(backbone.device, backbone.dtype)


def require(backbone: HalloBackbone, request: SampleRequest, config: HalloConfig) -> Voice:
    """Return the voice of a request that can be drawn.

    Raises UserError with all that does not fit or is not known.
    """
    problems = [
        *_voice_problems(request),
        *_size_problems(backbone, request),
        *_option_problems(backbone.nets.sizes, len(request.frames), config),
        *_unknown(backbone, request, config),
    ]
    if problems or request.voice is None:
        raise UserError(problems)
    return request.voice


def _voice_problems(request: SampleRequest) -> Iterator[Problem]:
    if request.voice is None:
        fix = (
            "take faces:heldout/0, a video with sound, or a picture with `voice: sound.wav` in its "
            "sidecar"
        )
        yield Problem("clip", "has no voice, and Hallo draws what a voice says", fix=fix)
        return
    rate = len(request.frames) / request.voice.seconds
    if abs(rate - FPS) > RATE_OFF * FPS:
        fix = "set clip.stride: 1, or convert it: ffmpeg -i IN -r 25 OUT"
        yield Problem("clip", f"has {rate:.4g} frames per second", f"{FPS}", fix)


def _unknown(
    backbone: HalloBackbone, request: SampleRequest, config: HalloConfig
) -> Iterator[Problem]:
    """What nobody says about the portrait."""
    asked = config.reference.identity and _known_identity(backbone, request) is None
    if asked and backbone.face_encoder is None:
        yield NO_IDENTITY
    known = boxes_are_known(config.regions, request.truth, backbone.landmarks)
    if _needs_boxes(config) and not known:
        yield NO_BOXES


def _size_problems(backbone: HalloBackbone, request: SampleRequest) -> Iterator[Problem]:
    height, width = request.frames.shape[-2:]
    least = backbone.factor << (LEVELS - 1)
    if height != width or height % least:
        what = f"frames of {width}x{height} pixels"
        yield Problem("clip.size", what, f"squares whose side is a multiple of {least}")


def _option_problems(sizes: Sizes, frames: int, config: HalloConfig) -> Iterator[Problem]:
    if config.reference.frame >= frames:
        what = f"the clip has no frame {config.reference.frame}"
        yield Problem("reference.frame", what, f"0..{frames - 1}")
    together = config.segment.length + config.motion.frames
    if together > sizes.positions:
        what = f"{config.segment.length} frames after {config.motion.frames} motion frames"
        fix = "lower segment.length or motion.frames"
        yield Problem("segment.length", what, f"{sizes.positions} in all", fix)
    single = not (sizes.masked_blocks and sizes.masked_levels)
    if single != (config.regions.attention == "single"):
        has = "one audio attention" if single else "an audio attention per region"
        what = f"{config.regions.attention!r}, but these networks have {has}"
        yield Problem("regions.attention", what, "single" if single else "three, everywhere, full")
