"""Sound front ends: from a voice to features per video frame, with the shape of wav2vec 2.0's.

Hallo's networks read 12 hidden states of wav2vec 2.0 for each frame and its neighbours. The
miniature has no such network: it is given fixed spectral features in the same layout.

Shapes: n samples at 16 kHz, T frames at 25 per second, k blocks (hidden states), c channels,
L positions of wav2vec's convolutions, about 49.9 per second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.voice import RATE, Voice, envelope, pitch
from methods.hallo.segments import FPS, audio_windows, padded_frames, padded_samples

REACH = 2
"""Frames on either side of a frame whose sound it hears too (scripts/inference.py:95-114)."""

WINDOW = 1024
"""Samples of a spectrum: 64 ms, centred on the frame."""

BANDS = 20
BAND_LIMITS = (60.0, 7000.0)
QUIET = 1e-8
MIDDLE_PITCH = 140.0
LOUD = 0.12
NORMAL_EPSILON = 1e-7


class SoundEncoder(Protocol):
    """Turns a voice into features."""

    @property
    def blocks(self) -> int:
        """k of what it returns."""
        ...

    @property
    def channels(self) -> int:
        """c of what it returns."""
        ...

    def __call__(self, voice: Voice, length: int = 1) -> Tensor:
        """Return features (T, k, c), float32 on the CPU, of a voice at 16 kHz.

        T is a multiple of `length`, the frames of a segment: silence is added at the end.
        """
        ...

    def identity(self) -> Any:
        """Return what the features depend on besides the voice, as plain data for hashing."""
        ...


def hear(encoder: SoundEncoder, voice: Voice, length: int = 1, reach: int = REACH) -> Tensor:
    """Return what each frame of a voice hears: (T, 2 reach + 1, k, c) float32.

    T is a multiple of `length`. Raises UserError for a voice at another rate than 16 kHz.
    """
    return windows(encoder(voice, length), reach)


def windows(features: Tensor, reach: int = REACH) -> Tensor:
    """Return each frame's features with its neighbours': (T, k, c) -> (T, 2 reach + 1, k, c).

    The first and the last frame stand for those that are not there. Cut the result into segments,
    not the features: a segment hears over its borders.
    """
    return features[audio_windows(len(features), reach)]


def _require_rate(voice: Voice) -> None:
    if voice.rate != RATE:
        what = f"has {voice.rate} samples per second"
        raise UserError(Problem("voice", what, f"{RATE}", "resample it"))


# --- the miniature's ---
@dataclass(frozen=True)
class SpectralFeatures:
    """Log-mel bands, loudness and pitch of the sound around each frame; nothing is learned.

    Channels, each about in [-1, 1]: 20 bands from 60 Hz to 7 kHz (triangles on the mel scale, log
    power), loudness of the frame, its logarithm, pitch in half octaves from 140 Hz (0 where not
    voiced), and how sure the pitch is.
    """

    blocks: int = 1
    channels: int = BANDS + 4
    version: int = 1

    def __call__(self, voice: Voice, length: int = 1) -> Tensor:
        """Return features as `SoundEncoder` says; loudness is that of the frame's own samples."""
        _require_rate(voice)
        frames = padded_frames(len(voice.samples), length)
        whole = voice.cut(0, frames / FPS)
        loud = envelope(whole, frames, FPS).astype(np.float64)
        hertz, sure = pitch(whole, frames, FPS)
        octaves = np.log2(np.where(hertz > 0, hertz, MIDDLE_PITCH) / MIDDLE_PITCH)
        columns = [
            *(np.log10(_band_powers(whole, frames) + QUIET) / 4 + 1).T,
            loud / LOUD,
            np.log10(loud + 1e-3) / 1.5 + 1,
            2 * octaves,
            sure,
        ]
        return torch.from_numpy(np.stack(columns, -1)[:, None].astype(np.float32))

    def identity(self) -> Any:
        """Return name and version: the features are the same everywhere."""
        return ["spectral", self.version]


def _band_powers(voice: Voice, frames: int) -> NDArray[np.float64]:
    """Return the power in each band around each frame, (T, BANDS); 1 for white noise of power 1."""
    step = RATE // FPS
    lead = (WINDOW - step) // 2
    samples = np.pad(voice.samples.astype(np.float64), (lead, WINDOW))
    index = np.arange(frames)[:, None] * step + np.arange(WINDOW)
    taper = np.hanning(WINDOW + 1)[:-1]
    power = np.abs(np.fft.rfft(samples[index] * taper)) ** 2 / (taper**2).sum()
    powers: NDArray[np.float64] = power @ mel_triangles().T
    return powers


@cache
def mel_triangles() -> NDArray[np.float64]:
    """Return weights (BANDS, WINDOW // 2 + 1) of the bands, which add up to 1 each.

    Triangles between neighbours of points that lie evenly on the mel scale
    2595 log10(1 + f / 700) (O'Shaughnessy 1987).
    """
    low, high = (2595 * np.log10(1 + f / 700) for f in BAND_LIMITS)
    corners = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)
    up = (hertz - corners[:-2, None]) / np.diff(corners)[:-1, None]
    down = (corners[2:, None] - hertz) / np.diff(corners)[1:, None]
    weights = np.clip(np.minimum(up, down), 0, None)
    return weights / weights.sum(1, keepdims=True)


# --- wav2vec 2.0 ---
@dataclass(frozen=True, eq=False)
class Wav2VecFeatures:
    """All hidden states of a wav2vec 2.0 encoder, as Hallo reads them.

    The features of its convolutions are interpolated to the frames, linearly with the ends fixed
    to each other, before the transformer sees them (hallo/models/wav2vec.py:52-67); the states are
    the outputs of the transformer's layers, without what goes into the first.

    model: transformers' Wav2Vec2Model. normalise: whether the waveform is brought to mean 0 and
    variance 1 first. weights: what identifies the weights.
    """

    model: Any
    normalise: bool = True
    weights: Mapping[str, Any] = field(default_factory=dict)

    @property
    def blocks(self) -> int:
        """How many hidden states there are: 12 of the base model."""
        return int(self.model.config.num_hidden_layers)

    @property
    def channels(self) -> int:
        """Width of a hidden state: 768 of the base model."""
        return int(self.model.config.hidden_size)

    @torch.inference_mode()
    def __call__(self, voice: Voice, length: int = 1) -> Tensor:
        """Return features as `SoundEncoder` says; zeros are added after normalisation."""
        _require_rate(voice)
        count = len(voice.samples)
        samples = torch.from_numpy(voice.samples).float()
        if self.normalise:
            samples = normalised(samples)
        samples = F.pad(samples, (0, padded_samples(count, length) - count))
        parameter = next(self.model.parameters())
        states = hidden_states(
            self.model, samples[None].to(parameter), padded_frames(count, length)
        )
        return states[0].float().cpu()

    def identity(self) -> Any:
        """Return what identifies the weights, and whether waveforms are normalised."""
        return ["wav2vec2", dict(self.weights), self.normalise]


def normalised(samples: Tensor) -> Tensor:
    """Return samples (n,) with mean 0 and variance 1, as wav2vec's feature extractor does."""
    return (samples - samples.mean()) / (samples.var(correction=0) + NORMAL_EPSILON).sqrt()


def interpolated(features: Tensor, frames: int) -> Tensor:
    """Return features (b, L, c) at `frames` evenly spread places, both ends included: (b, T, c)."""
    return F.interpolate(features.mT, size=frames, mode="linear", align_corners=True).mT


def hidden_states(model: Any, samples: Tensor, frames: int) -> Tensor:
    """Return the outputs of all layers of wav2vec's transformer, (b, T, k, c).

    model: transformers' Wav2Vec2Model in evaluation mode. samples: (b, n). frames: T, to which the
    convolutions' features are interpolated first.
    """
    features = interpolated(model.feature_extractor(samples).mT, frames)
    embedded, _ = model.feature_projection(features)
    heard: list[Tensor] = []

    def keep(layer: Any, given: Any, made: Any) -> None:
        heard.append(made[0] if isinstance(made, tuple) else made)

    with ExitStack() as stack:
        for layer in model.encoder.layers:
            stack.callback(layer.register_forward_hook(keep).remove)
        last = model.encoder(embedded)
    # Large models have a norm after the last layer, which counts as part of it.
    return torch.stack([*heard[:-1], last.last_hidden_state], 2)


def load_wav2vec(
    folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Wav2VecFeatures:
    """Return the front end of a folder in transformers' layout (facebook/wav2vec2-base-960h).

    Raises UserError when the folder holds no wav2vec 2.0, or one for another rate than 16 kHz.
    """
    from transformers import Wav2Vec2Model

    folder = Path(folder)
    config = _read(folder / "config.json")
    if config.get("model_type") != "wav2vec2":
        what = f"holds a model of type {config.get('model_type')!r}"
        raise UserError(Problem(str(folder), what, "wav2vec2", "use facebook/wav2vec2-base-960h"))
    given = _read(folder / "preprocessor_config.json")
    if given.get("sampling_rate", RATE) != RATE:
        what = f"is for {given['sampling_rate']} samples per second"
        raise UserError(Problem(str(folder), what, f"{RATE}"))
    try:
        model = Wav2Vec2Model.from_pretrained(folder, local_files_only=True, dtype=dtype)
    except (OSError, ValueError) as error:
        raise UserError(Problem(str(folder), f"cannot be loaded: {error}")) from error
    return Wav2VecFeatures(model.to(device).eval(), bool(given.get("do_normalize", True)))


def _read(path: Path) -> dict[str, Any]:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "put a copy of facebook/wav2vec2-base-960h there"
        raise UserError(Problem(str(path), f"cannot be read: {error}", fix=fix)) from error
    return dict(data)
