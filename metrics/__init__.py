"""Metrics as named definitions. This table is all that specs, plans and reports need; no torch.

Each target is a function `MetricInputs -> MetricValue`. `extra` holds:

direction: higher, lower or target, with `target`. range: [lo, hi], None = unbounded. unit.
definition: printed under tables. needs: of clip (an encoder), source, prompt, source_prompt, flow
    (of the source), estimator (flow is estimated even where the source's is known), fps, masks,
    face, borders (of parts decoded apart), cost. networks: names of `crossframe.weights.NETWORKS`,
    besides the encoder.
least_clips: of a distance between sets of clips, where the target returns `ClipFeatures` and
    values stand per row.
version: raised when values change. paper_names. torchmetric: the accumulating
    `torchmetrics.Metric` over the same function.
"""

from __future__ import annotations

from crossframe.registry import Registry
from metrics.tables.clip import CLIP_FRAME, CLIP_TEXT
from metrics.tables.flow import FLICKER, MOTION, WARP
from metrics.tables.i2v import I2V
from metrics.tables.networks import COST, NETWORKED
from metrics.tables.pixel import FIDELITY

METRICS = Registry(
    "metric",
    {
        **CLIP_FRAME,
        **CLIP_TEXT,
        **WARP,
        **FLICKER,
        **MOTION,
        **FIDELITY,
        **NETWORKED,
        **I2V,
        **COST,
    },
    group="crossframe.metrics",
)
