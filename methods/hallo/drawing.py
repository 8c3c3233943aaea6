"""One segment of Hallo: conditions of b clips, as the networks take them, and the sampling run.

Shapes: `methods.hallo.calls`; latents are (b c f h w), scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.base import Progress
from methods.ddim import Schedule
from methods.denoising import Predict, StepNoise, denoise
from methods.guidance import guide
from methods.hallo.calls import Bank, HalloCall, Masks, Order
from methods.hallo.networks import HalloNets
from methods.hallo.options import Guidance
from methods.solvers import make_step


@dataclass(frozen=True)
class Conditions:
    """What a segment is drawn under.

    identity: face embeddings (b e).
    images: latents of the reference, then of n motion frames, (b s c h w).
    sound: windows of features (b f w blocks channels).
    masks: of the regions, one entry per level; None lets every branch act everywhere.
    face: the face locator's input, (b 3 H W) in [0, 1], H = 8 h; None locates nothing.
    """

    identity: Tensor
    images: Tensor
    sound: Tensor
    masks: Masks | None
    face: Tensor | None


RELEASED = Guidance()


def prepare(
    nets: HalloNets,
    given: Conditions,
    call: HalloCall,
    *,
    guided: bool,
    half: bool = False,
    null: Guidance = RELEASED,
    tokens_order: Order | None = None,
) -> tuple[Tensor, HalloCall]:
    """Return identity tokens and the call of a whole sampling run.

    With guidance the batch is twice as long, clips without conditions first. Motion frames, made
    under the identity tokens of their half, and masks are the same in both.

    call: everything that `given` does not say, such as scales and order. half: see `ReferenceNet`.
    null: what the half without conditions goes without.
    tokens_order: of the identity tokens in the reference network; None is the call's order.
    """
    b, f = given.sound.shape[:2]
    tokens, audio = nets.image_proj(given.identity), nets.audio_proj(given.sound)
    located, masks, images = _located(nets, given, f), given.masks, given.images
    if masks is not None:
        masks = tuple(mask.expand(b, -1, -1, -1, -1) for mask in masks)
    if guided:
        tokens = torch.cat([_null_identity(nets, given, tokens, null), tokens])
        audio = torch.cat([_null_audio(nets, given, audio, null), audio])
        if located is not None:
            located = torch.cat([_located_null(located, null), located])
        if masks is not None:
            masks = tuple(torch.cat([mask, mask]) for mask in masks)
        images = torch.cat([images, images])
    bank = nets.reference_unet(images, tokens, order=tokens_order or call.order, half=half)
    told = replace(
        call,
        frames=f,
        bank=_still(bank, b) if guided and null.motion == "dropped" else bank,
        unconditional=b if guided and null.reference == "dropped" else 0,
        audio=audio,
        masks=masks,
        locator=located,
    )
    return tokens, told


def _located(nets: HalloNets, given: Conditions, frames: int) -> Tensor | None:
    if given.face is None:
        return None
    features: Tensor = nets.face_locator(given.face[:, :, None])
    return features.expand(-1, -1, frames, -1, -1)


def _located_null(located: Tensor, null: Guidance) -> Tensor:
    return torch.zeros_like(located) if null.locator == "dropped" else located


def _null_identity(nets: HalloNets, given: Conditions, tokens: Tensor, null: Guidance) -> Tensor:
    if null.identity == "projected":
        projected: Tensor = nets.image_proj(torch.zeros_like(given.identity))
        return projected
    return tokens if null.identity == "kept" else torch.zeros_like(tokens)


def _null_audio(nets: HalloNets, given: Conditions, audio: Tensor, null: Guidance) -> Tensor:
    if null.audio == "projected":
        projected: Tensor = nets.audio_proj(torch.zeros_like(given.sound))
        return projected
    return audio if null.audio == "kept" else torch.zeros_like(audio)


def _still(bank: Bank, b: int) -> Bank:
    """A bank whose motion frames are 0 in the first b clips."""
    return {
        layer: torch.cat(
            [torch.cat([x[:b, :1], torch.zeros_like(x[:b, 1:])], dim=1), x[b:]],
        )
        for layer, x in bank.items()
    }


def predictor(nets: HalloNets, tokens: Tensor, call: HalloCall, *, guided: bool) -> Predict:
    """Return what `denoise` asks for each step: the guided velocity of latents (b c f h w).

    The networks compute in the arithmetic of `tokens`; what is returned is float32.
    """

    def predict(latents: Tensor, timestep: int, scale: float) -> Tensor:
        seen = latents.to(tokens.dtype)
        batch = torch.cat([seen, seen]) if guided else seen
        output = nets.denoising_unet(batch, timestep, tokens, call).float()
        return guide(output, scale, 2 if guided else 1)

    return predict


@torch.no_grad()
def draw_latents(
    nets: HalloNets,
    given: Conditions,
    schedule: Schedule,
    noise: Tensor,
    guidance: float | Sequence[float],
    call: HalloCall,
    *,
    half: bool = False,
    null: Guidance = RELEASED,
    tokens_order: Order | None = None,
    eta: float = 0.0,
    step_noise: StepNoise = lambda index: None,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """Draw a segment's latents from noise, both (b c f h w).

    guidance: one scale, or one per step; no guidance where all are 1. null, half, tokens_order: see
    `prepare`. eta: DDIM's. step_noise, progress: see `methods.denoising.denoise`.
    """
    scales = [guidance] * len(schedule) if isinstance(guidance, float | int) else list(guidance)
    guided = any(scale != 1 for scale in scales)
    tokens, told = prepare(
        nets, given, call, guided=guided, half=half, null=null, tokens_order=tokens_order
    )
    predict = predictor(nets, tokens, told, guided=guided)
    step = make_step("ddim", eta)
    return denoise(
        predict, schedule, scales, noise, step=step, step_noise=step_noise, progress=progress
    )
