"""What every method is asked and answers: its request and the signature of its sampler.

Torch-free: tensors and networks appear in annotations only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossframe.keys import array_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from crossframe.voice import Voice

Progress = Callable[[int, int], None]

Note = Callable[[str, Any], None]

Shared = Callable[
    [str, Any, Callable[[], Mapping[str, "Tensor"]]],
    Mapping[str, "Tensor"],
]
"""(stage, parts, make) -> tensors: what `make` returns, or what it returned for equal `parts`.

stage: `text`, `inversion`, `tuning`, ... parts: everything that the tensors depend on, as plain
data. Tensors are float32, float16, integers or bool, and come back on the CPU.
"""


def alone(stage: str, parts: Any, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Share nothing: the `Shared` of a sample made by itself."""
    return make()


def unheard(name: str, value: Any) -> None:
    """Keep no notes: the `Note` of a sample made by itself."""


@dataclass(frozen=True)
class SampleRequest:
    """One video to make.

    frames: source frames, (f, 3, h, w) float32 in [0, 1].
    prompt: what the result shall show.
    negative_prompt: what it shall not show; "" means the negative prompt of the configuration.
    controls: control maps by control (see `methods.condition_kinds`), each (f, 3, h, w) in [0, 1].
    seed: 0 <= seed < 2**63; all randomness of the sample comes from it.
    source_prompt: what the source frames show; "" when nobody said.
    truth: what is known exactly about the source, empty for footage: `flow_forward` and
        `flow_backward` (f-1, 2, h, w) in pixels, t -> t+1 and back; `occluded_forward` and
        `occluded_backward` (f-1, h, w) bool; `depth` (f, h, w) in [0, 1], 1 = near; `masks`
        (f, n, h, w) bool, the visible part of each object; of talking faces head, body and what
        hangs beside the head. Of talking faces too: `mouth`, one box that holds the mouth in all
        frames, `lip` and `face`, the boxes of each frame, (f, h, w) bool; `opening` (f,) of the
        mouth in [0, 1]; `pose` (f, 2), the head's offset in pixels; `envelope` (f,), the voice's
        loudness; `identity` (k,), who the face is.
    voice: what is heard during the frames, None where nothing is.
    shared: gives work that samples have in common; it changes no result.
    note: takes facts on how the sample was made (a loss curve, an error), by name, as plain data.
    scratch: folder for unfinished work that an interrupt should not cost; it may be emptied at any
        time between samples. None: there is no place.
    """

    frames: Tensor
    prompt: str
    negative_prompt: str = ""
    controls: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    source_prompt: str = ""
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    voice: Voice | None = None
    shared: Shared = alone
    note: Note = unheard
    scratch: Path | None = None

    @cached_property
    def source_sha256(self) -> str:
        """Hash of the source frames, for the `parts` of shared work."""
        return array_sha256(self.frames.numpy())


# (backbone, request, config, progress(done, total)) -> frames (f, 3, h, w) float32 in [0, 1].
# The backbone is of the method's family (`methods.families`), None for methods that need none.
# Results depend on nothing but these arguments.
Sampler = Callable[[Any, SampleRequest, Any, Progress], "Tensor"]
