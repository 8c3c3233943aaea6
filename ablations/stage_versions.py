"""Versions of the stages that cells share, apart from their code so that a plan loads no arrays."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

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
    }
)
"""Version of the code behind each stage: raise it by hand when the values it makes change."""

SCORING = frozenset({"features"})
"""Stages that shape scores and never frames."""
