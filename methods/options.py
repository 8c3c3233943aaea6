"""Options of methods and backbones as frozen models, with presets. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from crossframe.errors import Problem


class Options(BaseModel):
    """A frozen group of options; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class MethodConfig(Options):
    """Options of a method; every field takes part in the identity of a result.

    Knobs that only change speed or memory belong to the backbone, not here.

    PRESETS: named sets of values. When a class has a field `preset`, the values of that preset
        stand in for every option that is not given; mappings are merged, other values replaced.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def shared_work(self, seed: int) -> Mapping[str, Any]:
        """Return what decides the work that samples of one clip share, by stage; for plans.

        As in `{"inversion": [self.inversion, self.steps]}`; `seed` belongs to it where work is
        drawn at random. Prompts and control maps are counted without being named here.
        """
        return {}

    def networks(self) -> Sequence[str]:
        """Return what shapes frames beside the backbone, by names of `crossframe.weights`."""
        return ()

    def absent(self) -> Sequence[Problem]:
        """Return what these options need and this machine lacks, with how to get it; for plans."""
        return ()

    def frame_problems(self, frames: int) -> Sequence[Problem]:
        """Return what these options cannot do with clips of `frames` frames, before any is read."""
        return ()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        known = cls.model_fields.get("preset")
        if known is None or not isinstance(given, Mapping):
            return given
        name = given.get("preset", known.default)
        preset = cls.PRESETS.get(name, {}) if isinstance(name, str) else {}
        return merge(preset, given)


class SentinelConfig(MethodConfig):
    """Reference rows have no options."""


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` overlaid by `above`; where both hold a mapping, the two are merged."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged
