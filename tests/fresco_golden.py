"""Golden vectors of FRESCO's released code, as the tests read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent / "golden" / "fresco"


@dataclass(frozen=True)
class Golden:
    """One case: tensors by name, greatest allowed difference by output, and its settings.

    weights: of the layer, where there is one.
    """

    input: dict[str, Tensor]
    output: dict[str, Tensor]
    weights: dict[str, Tensor]
    tolerance: dict[str, float]
    config: dict[str, Any]

    def check(self, name: str, found: Tensor) -> None:
        """Assert that `found` is the output `name`, exactly where the tolerance is 0."""
        expected, allowed = self.output[name], self.tolerance[name]
        assert found.shape == expected.shape, name
        difference = (found.double() - expected.double()).abs().max().item()
        assert difference <= allowed, f"{name}: off by {difference}, allowed {allowed}"


def golden(case: str) -> Golden:
    """Read the case of that name."""
    path = FOLDER / f"{case}.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = {k: json.loads(file.metadata()[k]) for k in ("tolerances", "config")}
    return Golden(
        *(_under(tensors, kind) for kind in ("input/", "output/", "weights/")),
        tolerance=_under(about["tolerances"], "output/"),
        config=about["config"],
    )


def _under(named: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
