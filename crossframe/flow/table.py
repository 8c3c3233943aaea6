"""Estimators of optical flow by name. Torch-free.

`extra` holds `networks` (names of `crossframe.weights.NETWORKS`, which enter keys; an estimator
with networks is called with the `device` to run on), `check`, the forward-backward check that goes
with the estimator, and `version`.
"""

from __future__ import annotations

from typing import Any

from crossframe.registry import Entry, Registry
from crossframe.weights import networks_identity

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


def flow_networks(name: str) -> tuple[str, ...]:
    """Return the networks of an estimator of `FLOWS`; UserError for other names."""
    return tuple(FLOWS.entry(name).extra.get("networks", ()))


def flow_identity(name: str) -> dict[str, Any]:
    """Return name, version and networks of an estimator of `FLOWS`; UserError for other names."""
    version = FLOWS.entry(name).extra.get("version", 1)
    return {"name": name, "version": version, "networks": networks_identity(flow_networks(name))}
