"""What a score depends on besides the frames: the part of its key that metrics know. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossframe.flow.table import flow_identity
from crossframe.weights import networks_identity

FLOW_NEEDS = {"flow", "estimator"}


def score_identity(
    extra: Mapping[str, Any], facts: Mapping[str, Any], flow: str = "dis"
) -> dict[str, Any]:
    """Return the version of a metric and what it depends on, for hashing.

    extra: of its registry entry. facts: by name of a need, what satisfies it: "clip" -> identity of
    the encoder's weights and of its preprocessing, "source_prompt" -> the caption, "fps" -> the
    rate, "face" -> hashes. Only those that the metric needs are taken. flow: the estimator. Absent
    networks count as None, so that a score is made anew once they are there.
    """
    needs = extra.get("needs", ())
    made: dict[str, Any] = {"version": extra.get("version", 1)}
    made |= {need: facts[need] for need in needs if need in facts}
    if extra.get("networks"):
        made["networks"] = networks_identity(extra["networks"])
    if FLOW_NEEDS & set(needs):
        made["estimator"] = flow_identity(flow)
    return made
