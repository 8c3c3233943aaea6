"""Likeness to the picture that a video was made from: VBench-I2V's two scores, and simpler ones.

The picture is the first frame of the source clip. Shapes: f frames, n pictures, d embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.weights import NETWORKS, locate
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.clip_frame import consecutive_cosines
from metrics.dino import DinoEncoder
from metrics.fidelity import psnr_series
from metrics.image_input import prepare
from metrics.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from metrics.shared import image_features, require_encoder, require_source

SUBJECT, BACKGROUND = "i2v_subject", "i2v_background"
IMAGE, PIXELS, FIRST = "i2v_image/clip", "i2v_image/psnr", "i2v_first/psnr"
MOST, MEAN, LEAST = 0.4, 0.3, 0.3
"""VBench-I2V's weights since its release of July 2024; its first, of March 2024, weighed the
subject by 0.5, 0.5 and 0."""
BATCH = 32

DINO_I2V = Preprocessing(256, (224, 224), IMAGENET_MEAN, IMAGENET_STD, antialias=False)
"""VBench-I2V's input of DINO: shorter side 256, bicubic, then the central 224x224."""
DREAMSIM = Preprocessing((224, 224), None, (0.0,) * 3, (1.0,) * 3, antialias=False)
"""VBench-I2V's input of DreamSim: squashed to 224x224, bicubic, in [0, 1]."""

Network = Callable[[Tensor], Tensor]
"""Maps prepared pictures (n, 3, 224, 224) to (n, d), for any n of two or more."""


def image_cosines(image: Tensor, features: Tensor) -> Tensor:
    """(d,) embedding of the picture, (f, d) of the frames -> (f,) cosines."""
    return F.cosine_similarity(image[None], features, dim=-1)


def vbench_i2v(image: Tensor, features: Tensor) -> Tensor:
    """0.4 largest likeness to the picture + 0.3 mean + 0.3 least likeness of neighbours: (1,).

    image: (d,), features: (f, d), f >= 2, of any length. Likenesses are cosines, each not below 0
    (VBench-I2V, i2v_subject.py and i2v_background.py at 45e79ec).
    """
    likeness = image_cosines(image, features).clamp(min=0)
    steps = consecutive_cosines(features).clamp(min=0)
    return (MOST * likeness.max() + MEAN * steps.mean() + LEAST * steps.min())[None]


def subject(inputs: MetricInputs) -> MetricValue:
    """`i2v_subject`: the series is the likeness of each frame to the picture.

    Raises NotAvailable for a single frame, without a source, or without DINO's weights.
    """
    require_pairs(SUBJECT, len(inputs.frames))
    dino = inputs.resident.get("dino", lambda: DinoEncoder.from_folder(locate("dino")))

    def token(pixels: Tensor) -> Tensor:
        states: Tensor = dino.model(pixels, interpolate_pos_encoding=True).last_hidden_state
        return states[:, 0]

    return _scored(SUBJECT, inputs, DINO_I2V, token, dino.name)


def background(inputs: MetricInputs) -> MetricValue:
    """`i2v_background`: the series is the likeness of each frame to the picture.

    Raises NotAvailable for a single frame, without a source, or without DreamSim's program.
    """
    require_pairs(BACKGROUND, len(inputs.frames))
    network = inputs.resident.get("dreamsim", load_dreamsim)
    return _scored(BACKGROUND, inputs, DREAMSIM, network, NETWORKS["dreamsim"].id)


def load_dreamsim() -> Network:
    """DreamSim's ensemble as a TorchScript program. NotAvailable when it is absent."""
    program: Any = torch.jit.load(str(locate("dreamsim")), map_location="cpu").eval()
    return lambda pixels: program(pixels).flatten(1)


@torch.no_grad()
def _scored(
    name: str, inputs: MetricInputs, how: Preprocessing, network: Network, encoder: str
) -> MetricValue:
    """VBench reads the picture with Pillow, which antialiases, and the frames as tensors."""
    picture = require_source(name, inputs)[:1]
    as_file = prepare(picture, replace(how, antialias=True))
    pixels = torch.cat([as_file, prepare(inputs.frames, how)])
    parts = pixels.tensor_split(math.ceil(len(pixels) / BATCH))  # none of a single picture
    image, features = torch.cat([network(part).float() for part in parts]).split(
        [1, len(inputs.frames)]
    )
    score = vbench_i2v(image[0], features).item()
    likeness = image_cosines(image[0], features).double()
    return MetricValue(score, tuple(likeness.tolist()), {"encoder": encoder})


def image_similarity(inputs: MetricInputs) -> MetricValue:
    """`i2v_image/clip`: one value per frame."""
    encoder, picture = require_encoder(IMAGE, inputs), require_source(IMAGE, inputs)[:1]
    image = inputs.memo.get(
        f"picture_features {encoder.name}", lambda: encoder.encode_images(picture)
    )
    cosines = image_cosines(image[0], image_features(IMAGE, inputs))
    return mean_of(cosines, encoder=encoder.name)


def image_psnr_series(frames: Tensor, picture: Tensor) -> Tensor:
    """PSNR of each frame (f, 3, h, w) with one picture (1, 3, h, w) in decibels: (f,) float64."""
    return psnr_series(frames, picture.expand_as(frames))


def image_psnr(inputs: MetricInputs) -> MetricValue:
    """`i2v_image/psnr`: one value per frame."""
    return mean_of(image_psnr_series(inputs.frames, require_source(PIXELS, inputs)[:1]))


def first_psnr(inputs: MetricInputs) -> MetricValue:
    """`i2v_first/psnr`: one value, of the first frame."""
    return mean_of(psnr_series(inputs.frames[:1], require_source(FIRST, inputs)[:1]))


class ImageToVideoScore(ClipMean):
    """`i2v_subject`, `i2v_background` over clips: embeddings of picture (d,) and frames (f, d)."""

    higher_is_better = True
    series = staticmethod(vbench_i2v)


class ImageSimilarity(ClipMean):
    """`i2v_image/clip` over many clips: embeddings of the picture (d,) and the frames (f, d)."""

    higher_is_better = True
    series = staticmethod(image_cosines)


class ImagePsnr(ClipMean):
    """`i2v_image/psnr` over many clips: frames (f, 3, h, w) and picture (1, 3, h, w) in [0, 1]."""

    higher_is_better = True
    series = staticmethod(image_psnr_series)


class FirstFramePsnr(ClipMean):
    """`i2v_first/psnr` over many clips: first frame and picture, each (1, 3, h, w) in [0, 1]."""

    higher_is_better = True
    series = staticmethod(psnr_series)
