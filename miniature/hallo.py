"""The miniature Hallo: its two stages of training, on talking faces, at a tenth of the widths.

Stage 1 draws single frames from a reference of the same face, without sound and time; stage 2 adds
both, with everything else frozen, on segments with two motion frames before them. Then all is
trained together on such segments, which so short a stage 1 needs. Shapes:
`methods.hallo.calls`; latents are (b c f h w), scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from methods.hallo.audio import AudioModule, zeroed
from methods.hallo.calls import REGIONS, Bank, HalloCall
from methods.hallo.drawing import Conditions
from methods.hallo.networks import HalloNets, stage_parameters
from methods.hallo.schedule import TRAINING, alpha_bars
from methods.hallo.sizes import Sizes
from methods.hallo.sound import windows
from methods.hallo.training import (
    STAGE_1,
    STAGE_2,
    STAGE_2_JOINT,
    Dropped,
    DropRates,
    Weighting,
    draw_drops,
    noised,
    offset_noise,
    snr_weights,
    velocity,
    weighted_error,
)
from miniature.fit import Fit, Recipe, device, phase_folder
from miniature.hallo_clips import FRAMES, SOUND, Talk, Talks, boxes_for, focus, regions

SIZES = Sizes(
    widths=(32, 64, 32, 32),
    layers=1,
    heads=2,
    groups=8,
    token_width=32,
    motion_heads=2,
    audio_width=32,
    face_width=16,
    audio_blocks=SOUND.blocks,
    audio_channels=SOUND.channels,
    audio_hidden=64,
    audio_tokens=4,
    locator_widths=(4, 8, 8, 16),
)
Stage = Literal[1, 2]


@dataclass(frozen=True)
class Lesson(Recipe):
    """A recipe, whose batches are clips, and what it trains.

    stages: whose parameters are trained, on examples of the last one.
    lengths: frames of the segments, in turn; the released training has 14 and inference 16.
    focused: errors on face and lips count for more, so that the mouth is learned first.
    """

    stages: tuple[Stage, ...] = (1, 2)
    lengths: tuple[int, ...] = (8, 12, 6, 14)
    focused: bool = True


RECIPES = (
    Lesson(steps=3400, batch=10, rate=1.2e-3, average=0.998, stages=(1,)),
    Lesson(steps=2400, batch=2, rate=1e-3, average=0.998, seed=1, stages=(2,)),
    Lesson(steps=2400, batch=2, rate=8e-4, average=0.998, seed=2),
    Lesson(steps=2000, batch=2, rate=6e-4, average=0.998, seed=3, focused=False),
    Lesson(
        steps=1300, batch=3, rate=6e-4, average=0.998, seed=4, lengths=(4, 6, 12), focused=False
    ),
)
"""One after the other. The last two are for the background, where frames and segments differ the
longest; the short segments of the last are for what follows on motion frames."""
MOTION = 2
STILLS = 2
"""Targets of stage 1 that share a reference, whose features are computed once, and a timestep."""
APART = 6
"""Frames between reference and targets of stage 1, at least."""
EXPANDED = 0.5
"""Part of the clips whose masks are made of the reference frame's boxes, expanded as at inference;
the others have what the released training gives them, the union over the clip."""
BEGINNINGS = 0.25
"""Part of the segments that have the reference for motion frames."""


@dataclass(frozen=True)
class Objective:
    """What a stage minimises: how often steps leave conditions out, and how errors are weighted."""

    rates: DropRates
    weighting: Weighting = "per_sample"


Losses = Literal["meant", "released"]
OBJECTIVES: Mapping[Losses, Mapping[int, Objective]] = {
    "meant": {
        1: Objective(DropRates(identity=0.05, everything=0.05)),
        2: Objective(STAGE_2_JOINT),
    },
    "released": {1: Objective(STAGE_1), 2: Objective(STAGE_2, "batch_mean")},
}
"""By stage. Meant: the branch without conditions is trained as guidance uses it, which neither
stage of the released training does, and every sample's error has its own weight."""
SAVE_EVERY = 150.0


def build() -> HalloNets:
    """Fresh networks: both UNets alike, residual branches at zero, sound and time without effect.

    Alike as the two that Hallo starts from, whose features match from the beginning. Audio modules
    start at zero in their last projection rather than in the gates before it: so they disturb
    nothing at first, which the released start does.
    """
    torch.manual_seed(RECIPES[0].seed)
    nets = HalloNets(SIZES)
    for name, module in nets.named_modules():
        if name.endswith(("conv2", ".unet.conv_out")) and isinstance(module, nn.Conv2d):
            zeroed(module)
        if isinstance(module, AudioModule):
            zeroed(module.proj_out)
            for region in REGIONS:
                gate = module.get_submodule(f"transformer_blocks.0.zero_conv_{region}")
                assert isinstance(gate, nn.Conv2d)
                gate.reset_parameters()
    nets.denoising_unet.unet.load_state_dict(nets.reference_unet.unet.state_dict(), strict=False)
    return nets


@dataclass(frozen=True)
class Example:
    """b clips of a training step: targets (b c f h w), their conditions, focus (b 1 f h w)."""

    clean: Tensor
    given: Conditions
    focus: Tensor


def pick(
    talk: Talk, frames: Tensor, reference: int, before: Tensor, expanded: bool
) -> tuple[Tensor, ...]:
    """One clip of an example: targets, images, windows of sound, identity, locator, focus, masks.

    frames, before: numbers of the target frames and of the motion frames. expanded: masks are made
    of the reference frame's boxes. The masks of the four levels come last.
    """
    masks, locator = regions(*boxes_for(talk.face, talk.lip, reference if expanded else None))
    return (
        talk.latents[frames].transpose(0, 1),
        talk.latents[torch.cat([torch.tensor([reference]), before])],
        windows(talk.sound)[frames],
        talk.identity,
        locator,
        focus(talk.face[frames], talk.lip[frames])[None],
        *(mask[0] for mask in masks),
    )


def gather(rows: list[tuple[Tensor, ...]]) -> Example:
    """An example of what `pick` returned for each clip."""
    stacked = [torch.stack(column).to(device()) for column in zip(*rows, strict=True)]
    clean, images, sound, identity, face, weights, *masks = stacked
    return Example(clean, Conditions(identity, images, sound, tuple(masks), face), weights)


def draw_stills(talks: Talks, batch: int) -> Example:
    """Stage 1: `STILLS` frames of each clip and a reference at least `APART` frames away."""
    rows = []
    for number in torch.randint(0, talks.clips, (batch,)).tolist():
        reference, expanded = int(torch.randint(0, FRAMES, ())), bool(torch.rand(()) < EXPANDED)
        far = torch.tensor([k for k in range(FRAMES) if abs(k - reference) >= APART])
        frames = far[torch.randperm(len(far))[:STILLS]]
        rows.append(pick(talks[number], frames, reference, frames[:0], expanded))
    return gather(rows)


def draw_segments(talks: Talks, batch: int, length: int) -> Example:
    """Stage 2: ``length`` frames of each clip after two motion frames, any frame as reference.

    Some begin with the reference twice for their motion frames, as inference does.
    """
    rows = []
    for number in torch.randint(0, talks.clips, (batch,)).tolist():
        first = int(torch.randint(MOTION, FRAMES - length + 1, ()))
        reference, expanded = int(torch.randint(0, FRAMES, ())), bool(torch.rand(()) < EXPANDED)
        begins = bool(torch.rand(()) < BEGINNINGS)
        before = torch.tensor([reference] * MOTION if begins else range(first - MOTION, first))
        frames = torch.arange(first, first + length)
        rows.append(pick(talks[number], frames, reference, before, expanded))
    return gather(rows)


class Trainer:
    """What both stages minimise.

    grey: latents (4 h w) of what stands for no motion frame. objective: None is the one meant.
    focused: errors are weighted by an example's focus.
    """

    def __init__(
        self,
        nets: HalloNets,
        stage: Stage,
        grey: Tensor,
        objective: Objective | None = None,
        focused: bool = True,
    ) -> None:
        self.nets, self.stage, self.grey = nets, stage, grey.to(device())
        self.focused = focused
        self.signal = alpha_bars(TRAINING).to(device())
        self.objective = objective or OBJECTIVES["meant"][stage]

    def loss(self, example: Example) -> Tensor:
        """Min-SNR-weighted squared error of the velocity; draws from torch's generator."""
        clean = example.clean
        t = torch.randint(0, len(self.signal), (len(clean),)).to(clean.device)
        noise = torch.randn(clean.shape).to(clean)
        noise = offset_noise(noise, torch.randn(clean.shape[:2]).to(clean))
        level = self.signal[t]
        tokens, call = self.told(example, draw_drops(self.objective.rates, torch.rand(5)))
        answer = self.nets.denoising_unet(noised(clean, noise, level), t, tokens, call)
        target = velocity(clean, noise, level)
        weights, weighting = snr_weights(level), self.objective.weighting
        focus = example.focus if self.focused else None
        return weighted_error(answer, target, weights, weighting, focus)

    def told(self, example: Example, dropped: Dropped) -> tuple[Tensor, HalloCall]:
        """Identity tokens and the call of a step, without what is dropped."""
        given, frames = example.given, example.clean.shape[2]
        later = self.stage == 2
        tokens = self.nets.image_proj(given.identity * (0.0 if dropped.identity else 1.0))
        call = HalloCall(
            frames=frames,
            bank=self._bank(given.images, tokens, dropped),
            unconditional=len(tokens) if dropped.region else 0,
            audio=self._audio(given.sound, dropped) if later else None,
            masks=given.masks,
            locator=None if dropped.region else self._located(given.face, frames),
            motion=later,
            order="fixed",
        )
        return tokens, call

    def _bank(self, images: Tensor, tokens: Tensor, dropped: Dropped) -> Bank | None:
        """What the reference network writes; where all is dropped, motion frames stay."""
        if dropped.reference and (self.stage == 1 or not dropped.region):
            return None
        if dropped.motion:
            images = torch.cat([images[:, :1], self.grey.expand_as(images[:, 1:])], 1)
        bank: Bank = self.nets.reference_unet(images, tokens, order="fixed")
        return bank

    def _located(self, face: Tensor | None, frames: int) -> Tensor | None:
        """Features of the face locator, the same for every frame."""
        if face is None:
            return None
        features: Tensor = self.nets.face_locator(face[:, :, None])
        return features.expand(-1, -1, frames, -1, -1)

    def _audio(self, sound: Tensor, dropped: Dropped) -> Tensor:
        audio: Tensor = self.nets.audio_proj(sound)
        return torch.zeros_like(audio) if dropped.audio else audio


def train(vae: AutoencoderKL, losses: Losses = "meant") -> HalloNets:
    """Train or resume every recipe; returns the averaged networks."""
    talks = Talks(vae)
    talks.encode_missing()
    nets = build().to(device())
    for phase in range(len(RECIPES)):
        train_phase(nets, talks, phase, losses)
    return nets


def train_phase(nets: HalloNets, talks: Talks, phase: int, losses: Losses) -> None:
    """Train or resume one recipe, and leave the average of its weights in the networks."""
    recipe, name = RECIPES[phase], "hallo" if losses == "meant" else f"hallo-{losses}"
    nets.requires_grad_(False)
    for trained in recipe.stages:
        for parameter in stage_parameters(nets, trained).values():
            parameter.requires_grad_(True)
    stage, lengths = recipe.stages[-1], recipe.lengths
    run = Fit(nets, recipe, phase_folder(name, phase, RECIPES))
    trainer = Trainer(nets, stage, talks.grey, OBJECTIVES[losses][stage], recipe.focused)

    def step_losses(step: int) -> Mapping[str, Tensor]:
        if stage == 1:
            return {"still": trainer.loss(draw_stills(talks, recipe.batch))}
        length = lengths[step % len(lengths)]
        return {"segment": trainer.loss(draw_segments(talks, recipe.batch, length))}

    run.run(step_losses, every=SAVE_EVERY)
    run.use_average()
