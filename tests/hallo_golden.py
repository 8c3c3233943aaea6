"""Published cases of Hallo as its tests read them: weights by the names here, masks by region."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_case import GOLDEN, Golden
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from methods.hallo.calls import REGIONS, Masks
from methods.hallo.keys import own_name

# Beside the checkout lie cases that are too large to be part of it.
LARGE = Path(__file__).parent.parent.parent / "shared" / "golden" / "hallo"


class Case(Golden):
    """One case of `golden/hallo`, or of the folder of large cases; skips the test without it."""

    def __init__(self, name: str) -> None:
        folder = next((f for f in (GOLDEN / "hallo", LARGE) if _file(f, name).is_file()), None)
        if folder is None:
            pytest.skip(f"{name}.safetensors is too large for this repository and not in {LARGE}")
        super().__init__(str((folder / name).absolute()))
        self.aside = {
            key: tensor
            for key, tensor in load_file(_file(folder, name)).items()
            if key.startswith(("wrong/", "variant/"))
        }
        with safe_open(_file(folder, name), "pt") as file:
            self.header = file.metadata()

    def check(self, name: str, found: Tensor) -> None:
        """Assert that `found` is the output `name`; the difference is told by `pytest -s`."""
        assert found.shape == self.output[name].shape, (name, found.shape)
        off = (found - self.output[name]).abs().max().item()
        print(f"{name}: off by {off:.1e}, allowed {self.tolerance:g}")
        assert off <= self.tolerance, f"{name}: off by {off}, allowed {self.tolerance}"

    def masks(self, shape: tuple[int, ...], suffix: str = "") -> Tensor:
        """Masks of one level, (b f 3 h w) of `shape` (b, f, h, w)."""
        found = torch.stack([self.input[f"{region}_mask{suffix}"] for region in REGIONS], 1)
        b, f, h, w = shape
        return found.unflatten(0, (b, f)).unflatten(-1, (h, w))

    def pyramid(self, sides: tuple[int, ...]) -> Masks:
        """Masks of all levels, (1 1 3 h w)."""
        return tuple(self.masks((1, 1, s, s), f".{level}") for level, s in enumerate(sides))


def fill(module: nn.Module, weights: dict[str, Tensor], path: str = "") -> None:
    """Load weights that have the published names below `path` of the denoising network."""
    named = {}
    for name, tensor in weights.items():
        own = own_name(f"denoising_unet.{path}{name}")
        assert own is not None
        named[own.removeprefix(f"denoising_unet.unet.{path}")] = tensor
    module.load_state_dict(named)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
