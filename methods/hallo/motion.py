"""Motion modules: attention over time at every position; the slot that holds what follows space.

diffusers' AnimateDiff module has the released weights under other names, but takes the statistics
of its norm over all frames at once; the released code takes them per frame. Frames that came before
the clip may stand in front of it. Shapes: `methods.hallo.calls`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from methods.hallo.audio import AudioModule, zeroed
from methods.hallo.calls import EQUAL, HalloCall, Slot
from methods.hallo.sizes import MOTION_GROUPS


class MotionModule(AnimateDiffTransformer3D):
    """Two self-attentions over time with sinusoidal positions, and a feed-forward.

    positions: frames that it can tell apart. The output projection starts at 0, so that a new
    module changes nothing.
    """

    def __init__(self, width: int, heads: int, positions: int) -> None:
        super().__init__(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=width,
            norm_num_groups=MOTION_GROUPS,
            positional_embeddings="sinusoidal",
            num_positional_embeddings=positions,
        )
        self.positions = positions
        zeroed(self.proj_out)

    def forward(
        self, x: Tensor, frames: int, before: Tensor | None = None, *, pooled: bool = False
    ) -> Tensor:
        """Return frames like x (b f, c, h, w).

        before: motion frames (b n c h w) that stand in front and are not returned. pooled: norm
        over frames together.

        Raises ValueError for more than `positions` frames.
        """
        x_bfchw = x.unflatten(0, (-1, frames))
        whole = x_bfchw if before is None else torch.cat([before.to(x), x_bfchw], dim=1)
        b, total, _, h, w = whole.shape
        if total > self.positions:
            what = f"{frames} frames after {total - frames} motion frames"
            raise ValueError(f"{what} exceed the {self.positions} positions of a motion module")
        tokens = self._normed(whole, pooled).permute(0, 3, 4, 1, 2).flatten(0, 2)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        moved = self.proj_out(tokens).unflatten(0, (b, h, w)).permute(0, 3, 4, 1, 2)
        return (whole + moved)[:, total - frames :].flatten(0, 1)

    def _normed(self, x_bfchw: Tensor, pooled: bool) -> Tensor:
        if pooled:
            return self.norm(x_bfchw.transpose(1, 2)).transpose(1, 2)
        return self.norm(x_bfchw.flatten(0, 1)).unflatten(0, x_bfchw.shape[:2])


class TimeSlot(nn.Module):
    """What follows spatial attention: the audio module, then the motion module.

    It stands where diffusers' UNetMotionModel has a motion module, which knows no sound.

    layer: whose motion frames it takes from the bank. audio: None in a block without spatial
    attention, whose motion module the released code never reaches.
    """

    def __init__(
        self,
        slot: Slot[HalloCall],
        layer: str,
        level: int,
        audio: AudioModule | None,
        motion: MotionModule,
    ) -> None:
        super().__init__()
        self.slot, self.layer, self.level = slot, layer, level
        self.middle = layer.startswith("mid_block")
        self.audio, self.motion = audio, motion

    @property
    def dead(self) -> bool:
        """Whether the released code never runs it."""
        return self.audio is None

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        num_frames: int = 1,
        cross_attention_kwargs: Any = None,
    ) -> Tensor:
        """Return frames like hidden_states (b f, c, h, w); arguments as diffusers passes them."""
        call = self.slot.read()
        x = self._hear(hidden_states, call)
        if not call.motion or (self.dead and not (call.dead_modules or call.evaluation)):
            return x
        before = self._before(x, call)
        return self.motion(x, call.frames, before, pooled=call.motion_norm == "pooled")

    def _hear(self, x: Tensor, call: HalloCall) -> Tensor:
        if self.audio is None or call.audio is None:
            return x
        scales = call.scales if self.middle or not call.evaluation else EQUAL
        masks = call.region_masks(self.level, x)
        return self.audio(x, call.audio.flatten(0, 1), masks, scales)

    def _before(self, x: Tensor, call: HalloCall) -> Tensor | None:
        if self.dead or (call.evaluation and not self.middle):
            return None
        return call.motion_frames(self.layer, x)
