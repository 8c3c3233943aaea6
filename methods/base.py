"""What every method shares: its configuration, its request and the signature of its sampler.

Torch-free: tensors and networks appear in annotations only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from torch import Tensor

    from methods.backbones import Backbone

Progress = Callable[[int, int], None]


class Options(BaseModel):
    """A frozen group of options; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MethodConfig(Options):
    """Options of a method; every field takes part in the identity of a result.

    Knobs that only change speed or memory belong to the backbone, not here.

    PRESETS: named sets of values. When a class has a field `preset`, the values of that preset
        stand in for every option that is not given; mappings are merged, other values replaced.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

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


@dataclass(frozen=True)
class SampleRequest:
    """One video to make.

    frames: source frames, (f, 3, h, w) float32 in [0, 1].
    prompt: what the result shall show.
    negative_prompt: what it shall not show; "" means the negative prompt of the configuration.
    controls: control maps by kind (`edges`, `depth`, `canny`), each (f, 3, h, w) in [0, 1].
    seed: 0 <= seed < 2**63; all randomness of the sample comes from it.
    """

    frames: Tensor
    prompt: str
    negative_prompt: str = ""
    controls: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0


# (backbone, request, config, progress(done, total)) -> frames (f, 3, h, w) float32 in [0, 1].
# The backbone is None for methods that need none. Results depend on nothing but these arguments.
Sampler = Callable[["Backbone | None", SampleRequest, Any, Progress], "Tensor"]
