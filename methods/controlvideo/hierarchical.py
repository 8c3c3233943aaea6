"""The hierarchical sampler for long videos: one prediction made of several (paper section 3.4).

In every step the key frames are predicted together; then each clip between two keys by itself, its
frames attending to the keys. All of them see the latents before the step, so the parts together are
one prediction for the whole video, and the step, the noise and the smoother are those of a short
one. At work at once are the key frames, or the frames of one clip.

Shapes: f frames, latents (f, 4, h, w) float32; b guidance rows, d tokens, h heads, e channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from methods.attention import KeyValue
from methods.controlvideo.layout import Clip, Parity, VideoLayout
from methods.patterns import Pattern, parse_pattern

BOTH_KEYS = parse_pattern("keyframes[0,1]")
LEFT_KEY_AND_LAST_FRAME = parse_pattern("keyframes[0,-1]")
_RERUN: Mapping[Parity, Pattern] = {"paper": BOTH_KEYS, "repo": LEFT_KEY_AND_LAST_FRAME}
_REUSE: Mapping[Parity, Pattern] = {
    "paper": parse_pattern("reference"),
    "repo": parse_pattern("keyframes[-1]+reference"),
}


class PredictPart(Protocol):
    """`methods.networks.Networks.predict_part`, or a stand-in."""

    def __call__(
        self,
        latents: Tensor,
        timestep: int,
        scale: float,
        frames: Sequence[int],
        *,
        pattern: Pattern | None = None,
        bank: Mapping[str, Tensor | KeyValue] | None = None,
        record: dict[str, KeyValue] | None = None,
    ) -> Tensor:
        """Guided output for latents (k, 4, h, w) of `frames`, as if there were no others."""


@dataclass(frozen=True)
class HierarchicalPrediction:
    """A `Predict` for a whole video, made of predictions for its parts.

    layout: key frames and clips.
    inter_keys: what frames of a clip attend to: `paper`, both keys; `repo`, the left key and the
        last frame of the clip, since the released code takes the first and the last position of
        [left key, right key, frames between].
    reuse_keys: the keys' keys and values in the clips are those of the pass over all keys, so that
        keys are not run again; otherwise they run again in each clip, and see only it.
    """

    part: PredictPart
    layout: VideoLayout
    inter_keys: Parity = "paper"
    reuse_keys: bool = False

    def __call__(self, latents: Tensor, timestep: int, scale: float) -> Tensor:
        """Guided output for latents (f, 4, h, w)."""
        keys = list(self.layout.keys)
        record: dict[str, KeyValue] | None = {} if self.reuse_keys else None
        output = torch.empty_like(latents)
        output[keys] = self.part(latents[keys], timestep, scale, keys, record=record)
        for clip in self.layout.clips:
            interior = list(clip.interior)
            if record is None:
                frames, pattern, bank = list(clip.batch), _RERUN[self.inter_keys], None
            else:
                frames, pattern, bank = interior, _REUSE[self.inter_keys], self._bank(record, clip)
            made = self.part(latents[frames], timestep, scale, frames, pattern=pattern, bank=bank)
            output[interior] = made[-len(interior) :]
        return output

    def _bank(self, record: Mapping[str, KeyValue], clip: Clip) -> dict[str, Tensor | KeyValue]:
        """Keys and values (b, n, h, e) of a clip's keys, by layer."""
        wanted = (clip.left, clip.right) if self.inter_keys == "paper" else (clip.left,)
        places = [self.layout.keys.index(frame) for frame in wanted]
        return {
            layer: KeyValue(*(x_bkdhe[:, places].flatten(1, 2) for x_bkdhe in recorded))
            for layer, recorded in record.items()
        }
