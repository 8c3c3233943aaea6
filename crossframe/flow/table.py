"""Estimators of optical flow by name. Torch-free.

`extra` holds `networks` (names of `crossframe.weights.NETWORKS`, which enter the keys of scores),
`check`, the forward-backward check that goes with the estimator, and `version`.
"""

from __future__ import annotations

from crossframe.registry import Entry, Registry

FLOWS = Registry(
    "flow estimator",
    {
        "dis": Entry(
            "crossframe.flow.estimators:DisFlow",
            "OpenCV's DIS, medium preset, on grey frames; needs no weights",
            {"networks": (), "check": "sundaram", "version": 1},
        ),
        "raft": Entry(
            "crossframe.flow.estimators:RaftFlow",
            "RAFT (large, torchvision's C_T_V2 weights), 20 steps",
            {
                "networks": ("raft",),
                "check": "sundaram",
                "version": 1,
                "install": "install the torchvision that matches your torch",
            },
        ),
        "gmflow": Entry(
            "crossframe.flow.estimators:GmFlow",
            "GMFlow through ptlflow, from a local checkpoint",
            {
                "networks": ("gmflow",),
                "check": "gmflow",
                "version": 1,
                "install": "pip install 'crossframe[ptlflow]', best in an environment of its own",
            },
        ),
    },
    group="crossframe.flows",
)
