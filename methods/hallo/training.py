"""Hallo's two stages of training as functions: targets, loss weights, and what a step leaves out.

Shapes: b clips; latents (b, ...) in any layout with the batch first, frames and channels behind.
The released training scripts of arXiv 2406.08801 are followed; where they differ from what they
evidently intend, both forms are offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

SNR_CAP = 5.0
NOISE_OFFSET = 0.05
Weighting = Literal["per_sample", "batch_mean"]


def noised(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return sqrt(a) clean + sqrt(1 - a) noise, (b, ...); alpha_bar (b,), signal per sample."""
    signal = _like(alpha_bar, clean)
    return signal.sqrt() * clean + (1 - signal).sqrt() * noise


def velocity(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the target sqrt(a) noise - sqrt(1 - a) clean, (b, ...) (arXiv 2202.00512, app. D).

    Without signal it is -clean: there the network says what the picture is, given nothing of it.
    """
    signal = _like(alpha_bar, clean)
    return signal.sqrt() * noise - (1 - signal).sqrt() * clean


def offset_noise(noise: Tensor, offset: Tensor, strength: float = NOISE_OFFSET) -> Tensor:
    """Return noise (b, c, ...) with `strength` times an offset (b, c) per clip and channel.

    The offset is one for all frames and pixels of a clip.
    """
    return noise + strength * _like(offset, noise)


def snr_weights(alpha_bar: Tensor, cap: float = SNR_CAP) -> Tensor:
    """Return min(SNR + 1, cap) / (SNR + 1) for signal variances (b,).

    The released form of Min-SNR weighting (Hang et al., arXiv 2303.09556) for velocities. The
    paper's own is min(SNR, cap) / (SNR + 1), which is 0 where no signal is left; this one is 1.
    """
    shifted = alpha_bar / (1 - alpha_bar) + 1
    return shifted.clamp(max=cap) / shifted


def weighted_error(
    predicted: Tensor,
    target: Tensor,
    weights: Tensor,
    weighting: Weighting = "per_sample",
    focus: Tensor | None = None,
) -> Tensor:
    """Return the mean squared error (), weighted by sample.

    Args:
        predicted, target: (b, ...).
        weights: (b,), see `snr_weights`.
        weighting: "per_sample" weighs each sample's error: stage 1, and evidently meant for both.
            "batch_mean" is what stage 2 of the released code computes: the error is averaged
            before, so that all samples get the batch's mean weight.
        focus: factors that broadcast to the error's shape, or None.
    """
    error = (predicted - target).square()
    if focus is not None:
        error = error * focus
    if weighting == "batch_mean":
        return error.mean() * weights.mean()
    return (error.flatten(1).mean(1) * weights).mean()


@dataclass(frozen=True)
class DropRates:
    """How often a training step leaves conditions out; each is drawn once for the whole batch.

    Attributes:
        identity: the face embedding becomes 0 and the reference is skipped, together.
        reference: the reference alone is skipped, and the motion frames with it.
        audio: the audio tokens become 0.
        motion: the pixels of the motion frames become 0, mid-grey.
        everything: identity, reference, audio and face region at once, as in the branch without
            conditions that guidance compares with; motion frames stay, as they do there.
    """

    identity: float = 0.0
    reference: float = 0.0
    audio: float = 0.0
    motion: float = 0.0
    everything: float = 0.0


STAGE_1 = DropRates(identity=0.1)
STAGE_2 = DropRates(reference=0.05, audio=0.05, motion=0.05)
"""As released. Reference and audio go together in .25 % of all steps, identity and face region
never: the branch without conditions is hardly trained. A rate for dropping reference and audio
together stands in the released configuration and is read nowhere."""
STAGE_2_JOINT = DropRates(reference=0.05, audio=0.05, motion=0.05, everything=0.05)
"""As evidently meant: the branch without conditions is trained as it is used."""


@dataclass(frozen=True)
class Dropped:
    """What one step leaves out."""

    identity: bool = False
    reference: bool = False
    audio: bool = False
    motion: bool = False
    region: bool = False


def draw_drops(rates: DropRates, uniform: Tensor) -> Dropped:
    """Decide what a step leaves out; uniform (5,) in [0, 1), one draw per rate in their order."""
    identity, reference, audio, motion, everything = (
        bool(draw < rate)
        for draw, rate in zip(
            uniform,
            (rates.identity, rates.reference, rates.audio, rates.motion, rates.everything),
            strict=True,
        )
    )
    return Dropped(
        identity=identity or everything,
        reference=identity or reference or everything,
        audio=audio or everything,
        motion=motion,
        region=everything,
    )


def trains(name: str, stage: Literal[1, 2]) -> bool:
    """Whether a stage trains the parameter `name` of the published key layout.

    Stage 1: both networks without audio and motion modules, identity projection, face locator.
    Stage 2: audio and motion modules, and the projection of audio features.
    """
    temporal = "audio_modules." in name or "motion_modules." in name or name.startswith("audioproj")
    return temporal == (stage == 2)


def _like(values: Tensor, tensor: Tensor) -> Tensor:
    """Give values (b,) or (b, c) trailing axes of length 1, up to the axes of `tensor`."""
    return values.reshape(*values.shape, *[1] * (tensor.dim() - values.dim())).to(tensor)
