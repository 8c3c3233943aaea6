"""Reference rows: videos whose scores are known in advance, run beside every grid.

`source` has the motion of the clip and the consistency of real footage. `frozen` has perfect
consistency and no motion: a metric on which it wins does not measure quality alone.
"""

from __future__ import annotations

from torch import Tensor

from methods.backbones import Backbone
from methods.base import Progress, SampleRequest
from methods.options import SentinelConfig


def source(
    backbone: Backbone | None, request: SampleRequest, config: SentinelConfig, progress: Progress
) -> Tensor:
    """Return the source frames, (f, 3, h, w) in [0, 1], unchanged."""
    progress(1, 1)
    return request.frames


def frozen(
    backbone: Backbone | None, request: SampleRequest, config: SentinelConfig, progress: Progress
) -> Tensor:
    """Return the first source frame f times, (f, 3, h, w) in [0, 1]."""
    progress(1, 1)
    return request.frames[:1].expand_as(request.frames).contiguous()
