"""Stages that cells share: versions, keys, places. A module apart, so that plans load no arrays."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from crossframe.keys import identity

STAGES: Mapping[str, int] = MappingProxyType(
    {
        "decode": 1,
        "control": 1,
        "flow": 1,
        "text": 1,
        "inversion": 1,
        "tuning": 1,
        "sampling": 1,
        "features": 1,
        "sound": 1,
    }
)
"""Version of the code behind each stage: raise it by hand when the values it makes change."""

SUFFIX = ".safetensors"

GUARDED = frozenset({"inversion", "tuning"})
"""Stages so dear that of several runners one makes an entry while the others do something else."""

SCORING = frozenset({"features"})
"""Stages that shape scores and never frames."""

OF_FAMILY: Mapping[str, str] = MappingProxyType({"sound": "hallo"})
"""Stages that shape frames of one family's methods only; the keys of others leave them out."""


def frame_stages(stages: Mapping[str, int], family: str | None) -> dict[str, int]:
    """Return those of the stages that shape frames of methods of a family, or of none."""
    return {
        name: version
        for name, version in stages.items()
        if name not in SCORING and OF_FAMILY.get(name, family) == family
    }


def stage_key(stage: str, parts: Any) -> str:
    """Return the key of an entry; raises ValueError for a stage that is not in `STAGES`.

    parts: whatever `crossframe.keys.plain` accepts, and raises as that does.
    """
    if stage not in STAGES:
        raise ValueError(f"no stage {stage!r} (allowed: {', '.join(STAGES)})")
    return identity([stage, STAGES[stage], parts])


def stage_file(stage: str, key: str) -> tuple[str, str, str]:
    """Return where an entry lies below the root of a stage cache: two folders and a file."""
    return stage, key[:2], f"{key}{SUFFIX}"
