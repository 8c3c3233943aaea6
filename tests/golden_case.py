"""Published cases, made by the original authors' code: see the README of each folder of golden/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """One case, `<folder>/<name>`: tensors by role, configuration and tolerance."""

    def __init__(self, case: str) -> None:
        path = GOLDEN / f"{case}.safetensors"
        with safe_open(path, "pt") as file:
            header = file.metadata()
        tensors = load_file(path)
        self.config: dict[str, Any] = json.loads(header["config"])
        self.tolerance = float(header["tolerance"])
        self.weights, self.input, self.output = (
            {k.removeprefix(role): v for k, v in tensors.items() if k.startswith(role)}
            for role in ("weights/", "input/", "output/")
        )

    def close(self, actual: Tensor, name: str) -> None:
        """Assert that `actual` is the output `name` within the case's tolerance."""
        assert (actual - self.output[name]).abs().max() <= self.tolerance


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A network's configuration with the names of the 2-D blocks in place of the 3-D ones."""
    blocks = ("down_block_types", "up_block_types")
    return {
        k: [block.replace("3D", "2D") for block in v] if k in blocks else v
        for k, v in config.items()
    }
