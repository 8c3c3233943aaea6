"""Frame attention in Stable Video Diffusion, through the core in `methods.attention`.

At two places: the spatial self-attention sees frames folded into the batch, as any image network,
and may take keys from other frames; the temporal self-attention sees the frames of one pixel and
may be given fewer of them. A pattern is an index table in both, so no mask is needed. The released
network is `individual` at the first and `full` at the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from methods.attention import CallSlot, FrameAttentionProcessor, FrameCall
from methods.patterns import parse_pattern
from methods.svd.layers import choose_layers
from methods.svd.options import FrameAttention, SpatialAttention, TemporalAttention

SPATIAL = re.compile(r"\.transformer_blocks\.\d+\.attn1$")
TEMPORAL = re.compile(r"\.temporal_transformer_blocks\.\d+\.attn1$")


class TemporalAttentionProcessor:
    """Self-attention over the frames of each pixel, to the frames that a pattern names.

    Replaces `AttnProcessor2_0` in `TemporalBasicTransformerBlock.attn1`, and equals it for `full`.
    """

    def __init__(self, slot: CallSlot, layer: str) -> None:
        self._frames = FrameAttentionProcessor(slot, layer)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Self-attention of hidden_states (p, f, c), p pixels of all guidance rows; same shape.

        A frame has one token here, so this is frame attention with the pixels as guidance rows.
        """
        pixels, frames, _ = hidden_states.shape
        folded = hidden_states.flatten(0, 1).unsqueeze(1)
        out = self._frames(attn, folded, encoder_hidden_states, attention_mask)
        return out.squeeze(1).unflatten(0, (pixels, frames))


MakeProcessor = Callable[[CallSlot, str], Any]
_SITES: Mapping[str, tuple[re.Pattern[str], MakeProcessor]] = {
    "spatial": (SPATIAL, FrameAttentionProcessor),
    "temporal": (TEMPORAL, TemporalAttentionProcessor),
}


@contextmanager
def attending(unet: nn.Module, options: FrameAttention, frames: int) -> Iterator[None]:
    """Install the patterns into a `UNetSpatioTemporalConditionModel` for a `with` block.

    frames: f, of each guidance row in every call inside of the block (the window's, for windows).
    A site with the released network's pattern keeps its processors. On leaving, also by an
    exception, all processors are the former ones.

    Raises UserError when a pattern names frames that a clip of `frames` lacks, or when the network
    has no such layer where the options say.
    """
    with ExitStack() as undo:
        groups: Mapping[str, SpatialAttention | TemporalAttention] = {
            "spatial": options.spatial,
            "temporal": options.temporal,
        }
        for site, group in groups.items():
            if not group.is_stock:
                _install(unet, site, group, frames, undo)
        yield


def _install(
    unet: nn.Module,
    site: str,
    options: SpatialAttention | TemporalAttention,
    frames: int,
    undo: ExitStack,
) -> None:
    name, make = _SITES[site]
    slot = CallSlot()
    slot.current = FrameCall(frames, parse_pattern(options.pattern).table(frames), options.alpha)
    layers: Mapping[str, Any] = choose_layers(unet, options, name, f"attention.{site}")
    for layer, attn in layers.items():
        undo.callback(attn.set_processor, attn.processor)
        attn.set_processor(make(slot, layer))
