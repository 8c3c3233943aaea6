"""Networks of Stable Video Diffusion's classes with another number of groups in every GroupNorm.

diffusers fixes 32 groups in these classes: no layer can be narrower than 32 channels, and at 32 a
group is one channel, from which GroupNorm takes away whatever the timestep added. Small networks
name their number in config.json, under `KEY`; where it is absent nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from crossframe.files import read_json

KEY = "_norm_num_groups"
"""diffusers keeps configuration of such a name, and does not take it for an argument."""


@contextmanager
def norm_groups(count: int) -> Iterator[None]:
    """Give every GroupNorm that is built inside ``count`` groups, whatever was asked for.

    It acts on torch's class for as long as it is open: build one network in it, on one thread.
    """
    plain = nn.GroupNorm.__init__

    def build(self: nn.GroupNorm, num_groups: int, *given: Any, **named: Any) -> None:
        plain(self, count, *given, **named)

    nn.GroupNorm.__init__ = build  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.GroupNorm.__init__ = plain  # type: ignore[method-assign]


def read_groups(config: Mapping[str, Any]) -> int | None:
    """The number of groups that a network's config.json asks for; None for the class's own."""
    return config.get(KEY)


@contextmanager
def groups_of(folder: Path) -> Iterator[None]:
    """Let ``from_pretrained(folder)`` inside build the groups that its config.json names."""
    count = read_groups(read_json(folder / "config.json"))
    if count is None:
        yield
    else:
        with norm_groups(count):
            yield
