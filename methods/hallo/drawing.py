"""One segment of Hallo: conditions of b clips, as the networks take them, and the sampling run.

Shapes: `methods.hallo.calls`; latents are (b c f h w), scaled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.ddim import Schedule
from methods.denoising import Predict, denoise
from methods.guidance import guide
from methods.hallo.calls import HalloCall, Masks
from methods.hallo.networks import HalloNets


@dataclass(frozen=True)
class Conditions:
    """What a segment is drawn under.

    identity: face embeddings (b e).
    images: latents of the reference, then of n motion frames, (b s c h w).
    sound: windows of features (b f w blocks channels).
    masks: of the regions, one entry per level.
    face: the face locator's input, (b 3 H W) in [0, 1], H = 8 h.
    """

    identity: Tensor
    images: Tensor
    sound: Tensor
    masks: Masks
    face: Tensor


def prepare(
    nets: HalloNets, given: Conditions, call: HalloCall, *, guided: bool, half: bool = False
) -> tuple[Tensor, HalloCall]:
    """Return identity tokens and the call of a whole sampling run.

    With guidance the batch is twice as long, clips without conditions first: identity tokens of a
    zero embedding, no reference, audio tokens and face features of 0. Motion frames, made under
    those tokens too, and masks are the same in both halves.

    call: everything that `given` does not say, such as scales and order. half: see `ReferenceNet`.
    """
    b, f = given.sound.shape[:2]
    tokens, images = nets.image_proj(given.identity), given.images
    audio = nets.audio_proj(given.sound)
    located = nets.face_locator(given.face[:, :, None]).expand(-1, -1, f, -1, -1)
    masks = tuple(mask.expand(b, -1, -1, -1, -1) for mask in given.masks)
    if guided:
        tokens = torch.cat([nets.image_proj(torch.zeros_like(given.identity)), tokens])
        audio, located = (torch.cat([torch.zeros_like(x), x]) for x in (audio, located))
        images, masks = torch.cat([images, images]), tuple(torch.cat([m, m]) for m in masks)
    bank = nets.reference_unet(images, tokens, order=call.order, half=half)
    free = b if guided else 0
    told = replace(
        call, frames=f, bank=bank, unconditional=free, audio=audio, masks=masks, locator=located
    )
    return tokens, told


def predictor(nets: HalloNets, tokens: Tensor, call: HalloCall, *, guided: bool) -> Predict:
    """Return what `denoise` asks for each step: the guided velocity of latents (b c f h w)."""

    def predict(latents: Tensor, timestep: int, scale: float) -> Tensor:
        batch = torch.cat([latents, latents]) if guided else latents
        output = nets.denoising_unet(batch, timestep, tokens, call)
        return guide(output, scale, 2 if guided else 1)

    return predict


@torch.no_grad()
def draw_latents(
    nets: HalloNets,
    given: Conditions,
    schedule: Schedule,
    noise: Tensor,
    guidance: float,
    call: HalloCall,
    *,
    half: bool = False,
) -> Tensor:
    """Draw a segment's latents from noise, both (b c f h w). No guidance at a scale of 1."""
    guided = guidance != 1
    tokens, told = prepare(nets, given, call, guided=guided, half=half)
    predict = predictor(nets, tokens, told, guided=guided)
    return denoise(predict, schedule, [guidance] * len(schedule), noise)
