"""Hallo's five networks, over diffusers' UNets. Shapes: `methods.hallo.calls`."""

from __future__ import annotations

from typing import Any, Literal

from diffusers.models.unets.unet_motion_model import UNetMotionModel
from torch import Tensor, nn

from methods.hallo.audio import AudioModule
from methods.hallo.calls import HalloCall, Slot
from methods.hallo.keys import published_names
from methods.hallo.locator import FaceLocator
from methods.hallo.motion import MotionModule, TimeSlot
from methods.hallo.projections import AudioProjection, ImageProjection
from methods.hallo.reference import ReadProcessor, ReferenceNet
from methods.hallo.sizes import Place, Sizes, places
from methods.hallo.training import trains


class DenoisingNet(nn.Module):
    """The network that predicts: space and reference, then sound, then time, in every block.

    unet: UNetMotionModel, whose motion modules are `TimeSlot`s. It keeps nothing of a call; where
    gradients are checkpointed, the backward pass belongs inside `slot.holding(call)` too.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.unet = UNetMotionModel(
            in_channels=sizes.latent_channels,
            out_channels=sizes.latent_channels,
            block_out_channels=sizes.widths,
            layers_per_block=sizes.layers,
            cross_attention_dim=sizes.token_width,
            num_attention_heads=sizes.heads,
            norm_num_groups=sizes.groups,
            motion_num_attention_heads=sizes.motion_heads,
            motion_max_seq_length=sizes.positions,
        )
        self.slot: Slot[HalloCall] = Slot()
        for place in places(sizes):
            equip_block(self.unet.get_submodule(place.name), place, sizes, self.slot)
        self.unet.conv_in.register_forward_hook(self._add_locator)

    def forward(
        self, latents: Tensor, timestep: int | Tensor, tokens: Tensor, call: HalloCall
    ) -> Tensor:
        """Return the prediction, (b c f h w) like latents.

        timestep: one for all, or (b,). tokens: of the identity, (b n c).

        Raises ValueError when the latents have another number of frames than the call.
        """
        if latents.shape[2] != call.frames:
            raise ValueError(f"latents of {latents.shape[2]} frames in a call of {call.frames}")
        states = tokens.repeat_interleave(call.frames, dim=0)
        with self.slot.holding(call):
            prediction: Tensor = self.unet(latents, timestep, states).sample
        return prediction

    def _add_locator(self, conv: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        located = self.slot.read().locator
        return out if located is None else out + located.transpose(1, 2).flatten(0, 1)


class HalloNets(nn.Module):
    """The networks of a `net.pth`, fresh: untrained, and zero where Hallo begins at zero."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.reference_unet = ReferenceNet(sizes)
        self.denoising_unet = DenoisingNet(sizes)
        self.face_locator = FaceLocator(sizes.locator_widths, sizes.widths[0])
        self.image_proj = ImageProjection(
            sizes.face_width, sizes.identity_tokens, sizes.token_width
        )
        heard = sizes.window * sizes.audio_blocks * sizes.audio_channels
        self.audio_proj = AudioProjection(
            heard, sizes.audio_hidden, sizes.audio_tokens, sizes.audio_width
        )


def equip_block(block: Any, place: Place, sizes: Sizes, slot: Slot[HalloCall]) -> None:
    """Give a block of a UNetMotionModel its reference attention and its `TimeSlot`s."""
    for j, module in enumerate(block.motion_modules):
        layer, width, audio = f"{place.name}.attentions.{j}", module.in_channels, None
        if place.audio_widths:
            attn = block.attentions[j].transformer_blocks[0].attn1
            attn.set_processor(ReadProcessor(slot, layer, place.level))
            audio = AudioModule(
                width,
                place.audio_widths[j],
                sizes.heads,
                sizes.groups,
                sizes.audio_width,
                masked=sizes.is_masked(place.part, place.level),
            )
        motion = MotionModule(width, sizes.motion_heads, sizes.positions)
        block.motion_modules[j] = TimeSlot(slot, layer, place.level, audio, motion)


def stage_parameters(nets: HalloNets, stage: Literal[1, 2]) -> dict[str, nn.Parameter]:
    """Return what a stage of the training trains, by name.

    1: both UNets without sound and time, image projection and face locator. 2: audio and motion
    modules that run, and the audio projection. Paper, section 3.4; train_stage{1,2}.py.
    """
    dead = tuple(
        f"{name}." for name, m in nets.named_modules() if isinstance(m, TimeSlot) and m.dead
    )
    return {
        name: parameter
        for name, parameter in nets.named_parameters()
        if trains(published_names(name)[0], stage) and not name.startswith(dead)
    }
