"""What one call of the denoising network is told, beside latents, timestep and identity tokens.

Shapes (suffix letters name the axes of a tensor):
    b  clips, or guidance halves times clips, unconditional first      f  frames of a clip
    s  images given to the reference network: the reference, then n motion frames
    r  rows of a network's batch, (b f) or (b s), b outer              d  tokens of an image, (h w)
    c  channels    m  audio tokens of a frame
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from torch import Tensor

from methods.hallo.options import Scales
from methods.patterns import Pattern, parse_pattern

REGIONS = ("full", "face", "lip")
"""Order of masks, zero convolutions and scales: around the face, in it without lips, lips."""

# Per layer (`down_blocks.0.attentions.0`), normalised tokens of the reference network, (b s d c).
Bank = Mapping[str, Tensor]
# Per level, weights in [0, 1] of the regions, (b or 1, f or 1, 3, h, w).
Masks = tuple[Tensor, ...]
Order = Literal["parity", "fixed"]
"""`parity`: the rows that the released code pairs; `fixed`: those that belong together."""

READ = parse_pattern("individual+reference")


EQUAL = Scales()
ABSENT_FRAMES = 4
"""Motion frames, all zero, that stand in where there is no bank, whatever n is; as released."""


@dataclass(frozen=True)
class HalloCall:
    """The conditions of one call.

    frames: f.
    bank: what the reference network left; None where the reference was dropped.
    unconditional: leading clips of the batch that do not attend to the reference (the first half
        under guidance). They see motion frames all the same.
    audio: tokens (b f m c); None leaves the audio modules out, as stage 1 of the training does.
    masks: of the regions; None lets every branch act everywhere.
    scales: weights of the branches.
    locator: features of the face locator, (b c f h w), added behind the first convolution; None
        adds nothing.
    motion: whether motion modules run; stage 1 of the training has none.
    pattern: frames that are keys of a frame's spatial attention; the `reference` of it is the bank.
    reference_levels: levels at which the reference is attended to; None means all.
    order: which image is a row's reference. In the released code row r reads that of clip r mod b,
        where r // f was meant; the two differ when b > 1 and f > 1.
    motion_norm: statistics of the motion modules' norm, `per_frame` as released or `pooled` over
        frames as in diffusers.
    dead_modules: whether the motion modules of the deepest down and up block run. Released weights
        have them and released code never reaches them.
    evaluation: take the branch that the released code takes after `.eval()`: motion frames and
        scales act in the middle block only, and the dead modules run.
    """

    frames: int
    bank: Bank | None = None
    unconditional: int = 0
    audio: Tensor | None = None
    masks: Masks | None = None
    scales: Scales = EQUAL
    locator: Tensor | None = None
    motion: bool = True
    pattern: Pattern = READ
    reference_levels: tuple[int, ...] | None = None
    order: Order = "parity"
    motion_norm: Literal["per_frame", "pooled"] = "per_frame"
    dead_modules: bool = False
    evaluation: bool = False

    def reference(self, layer: str, level: int) -> Tensor | None:
        """Return the reference's tokens (b d c) for a layer, or None where there are none."""
        if self.bank is None or not self.pattern.needs_bank:
            return None
        if self.reference_levels is not None and level not in self.reference_levels:
            return None
        return self.bank[layer][:, 0]

    def motion_frames(self, layer: str, like: Tensor) -> Tensor:
        """Return the motion frames (b n c h w) of a layer, for rows `like` (b f, c, h, w)."""
        if self.bank is None:
            b = like.shape[0] // self.frames
            return like.new_zeros(b, ABSENT_FRAMES, *like.shape[1:])
        return self.bank[layer][:, 1:].transpose(2, 3).unflatten(3, like.shape[2:])

    def region_masks(self, level: int, like: Tensor) -> Tensor | None:
        """Return the masks (r 3 d) of a level for rows `like` (b f, c, h, w), or None."""
        if self.masks is None:
            return None
        masks_bf3hw = self.masks[level].to(like)
        b = len(like) // self.frames
        return masks_bf3hw.expand(b, self.frames, -1, -1, -1).flatten(0, 1).flatten(2)


Told = TypeVar("Told")


class Slot(Generic[Told]):
    """The place where the parts of one network find what the current call is told."""

    def __init__(self) -> None:
        self.current: Told | None = None

    @contextmanager
    def holding(self, told: Told) -> Iterator[None]:
        """Let the parts find `told` inside the block, and what was there before after it."""
        before, self.current = self.current, told
        try:
            yield
        finally:
            self.current = before

    def read(self) -> Told:
        """What the current call is told; RuntimeError outside of `holding`."""
        if self.current is None:
            raise RuntimeError("a part of Hallo's networks was called outside of them")
        return self.current
