"""Control maps on their way to a cell: kept by clip, control and range; colours stay colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablations.bench import ClipBench, decoded
from ablations.cards import ClipCard
from ablations.shipped import shipped_parts
from ablations.stages import StageCache
from data_manifests.clips import Clip
from methods.conditions import canny, wrapped
from tests.fake_parts import fake_parts


def noisy(frames: int = 2, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, size, size, 3)).astype(np.uint8)


def clip(**controls: np.ndarray) -> Clip:
    return Clip("dog", noisy(), 8.0, "a dog", controls=controls)


def bench(root: Path, one: Clip, asked: list[Any] | None = None) -> ClipBench:
    parts = shipped_parts()
    if asked is not None:
        maps = torch.zeros(2, 3, 16, 16)
        parts = replace(parts, control=lambda *given: asked.append(given) or maps)
    return ClipBench(one, ClipCard("dog", "dog", one.sha256), parts, StageCache(root), "dis")


def test_the_range_reaches_annotator_and_key(tmp_path: Path) -> None:
    one = clip()
    plain = bench(tmp_path, one).controls(("canny",))
    torn = bench(tmp_path, one).controls(("canny",), "repo_wrapped")
    assert np.array_equal(plain["canny"][:, 0].numpy(), canny(one.frames))
    assert np.array_equal(torn["canny"][:, 2].numpy(), canny(wrapped(one.frames)))
    assert not torch.equal(plain["canny"], torn["canny"])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_maps_are_made_once(tmp_path: Path) -> None:
    asked: list[Any] = []
    one = clip()
    for _ in range(2):
        bench(tmp_path, one, asked).controls(("canny", "canny[50,150]"))
    assert [given[0] for given in asked] == ["canny", "canny[50,150]"]
    bench(tmp_path, clip(depth=noisy()), asked).controls(("canny",))
    assert len(asked) == 3, "maps from files make another clip"


def test_colours_are_kept_and_grey_is_one_channel(tmp_path: Path) -> None:
    drawn = noisy()
    grey = np.repeat(drawn[..., :1], 3, axis=-1)
    one = clip(pose=drawn, depth=grey)
    for _ in range(2):  # made, then read
        found = bench(tmp_path, one).controls(("pose", "depth"))
        for kind, maps in (("pose", drawn), ("depth", grey)):
            expected = torch.from_numpy(maps.astype(np.float32) / 255).permute(0, 3, 1, 2)
            torch.testing.assert_close(found[kind], expected)


@pytest.mark.parametrize("times", [1, 2])
def test_decoding_keeps_the_maps(tmp_path: Path, times: int) -> None:
    one = clip(depth=noisy())
    parts = replace(fake_parts(), load_clip=lambda request: one)
    card = ClipCard("dog", "dog", one.sha256, None, "a dog", {}, 8.0)
    spec = spec_of()
    for _ in range(times):
        found = decoded(card, spec, parts, StageCache(tmp_path))
    assert found.controls.keys() == {"depth"}
    assert np.array_equal(found.controls["depth"], one.controls["depth"])
    assert found.truth is None
    assert found.sha256 == one.sha256


def spec_of() -> Any:
    from ablations.spec import Spec

    return Spec.model_validate(
        {"name": "a", "method": "controlvideo", "clips": ("dog",), "metrics": ("psnr",)}
    )
