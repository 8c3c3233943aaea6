"""Hallo's checkpoints: names and shapes as published, both ways; round trips; clear refusals."""

from __future__ import annotations

import gzip
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hallo_golden import GOLDEN
from hallo_sizes import NANO

from crossframe.errors import UserError
from methods.hallo.checkpoints import (
    load_net,
    nets_of,
    published_shapes,
    published_tensors,
    write_net,
)
from methods.hallo.keys import own_name, published_names, to_own, to_published
from methods.hallo.motion import TimeSlot
from methods.hallo.networks import HalloNets, stage_parameters
from methods.hallo.sizes import Sizes, places, read_sizes
from methods.named_tensors import shapes_of


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    with gzip.open(GOLDEN / "hallo" / "net_keys.json.gz") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def nano() -> HalloNets:
    torch.manual_seed(0)
    return HalloNets(NANO)


def test_published_weights_load_strictly(table: dict[str, Any]) -> None:
    tensors = {name: torch.empty(shape, device="meta") for name, shape in table["keys"].items()}
    nets = nets_of(tensors, Sizes())
    found = shapes_of(to_published(nets.state_dict()))
    assert len(found) == table["n_keys"] == 2656
    assert found == {name: tuple(shape) for name, shape in table["keys"].items()}
    assert sum(math.prod(shape) for shape in found.values()) == table["n_values"]
    dead = {
        published_names(f"{name}.motion.proj_in.weight")[0].removesuffix(
            ".temporal_transformer.proj_in.weight"
        )
        for name, module in nets.named_modules()
        if isinstance(module, TimeSlot) and module.dead
    }
    assert dead == set(table["never_executed"])
    counts = [sum(p.numel() for p in stage_parameters(nets, s).values()) for s in (1, 2)]
    assert counts[1] == 702_472_512 - 180_358_400
    assert counts[0] == 859_508_800 + 859_520_964 + 514_896 + 1_577_472


def test_names_go_both_ways(table: dict[str, Any]) -> None:
    names = dict.fromkeys(table["keys"], 0)
    own = to_own(names)
    assert len(own) == 2656 - 21
    assert to_published(own) == names
    for name in names:
        found = own_name(name)
        assert found is not None
        assert name in published_names(found)
    assert own_name("vae.conv.weight") is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_round_trip(tmp_path: Path, nano: HalloNets, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    write_net(path, nano)
    again = load_net(path)
    assert again.sizes == NANO
    expected, found = nano.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not any(p.is_meta for p in [*again.parameters(), *again.buffers()])


def test_other_tensors_are_refused(tmp_path: Path, nano: HalloNets) -> None:
    tensors = published_tensors(nano)
    first = next(iter(tensors))
    broken = {name: t for name, t in tensors.items() if name != first} | {"vae.x": torch.ones(1)}
    with pytest.raises(UserError, match=r"1 of \d+ tensors are missing, .*; 1 are unknown"):
        nets_of(broken, NANO)
    with pytest.raises(UserError, match="another shape"):
        nets_of(tensors | {first: torch.ones(2)}, NANO)
    path = tmp_path / "net.pth"
    path.write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(UserError, match=r"net\.pth"):
        load_net(path)


def test_single_audio_attention_has_other_names() -> None:
    single = Sizes(**(NANO.plain() | {"widths": NANO.widths, "masked_blocks": ("down",)}))
    names = published_shapes(single)
    assert (
        "denoising_unet.mid_block.audio_modules.0.transformer_blocks.0.attn2.to_q.weight" in names
    )
    masked = "denoising_unet.down_blocks.0.audio_modules.0.transformer_blocks.0.attn2_2.to_q.weight"
    assert masked in names


def test_sizes_go_through_json_and_impossible_ones_are_refused() -> None:
    assert read_sizes(json.loads(json.dumps(NANO.plain()))) == NANO
    with pytest.raises(UserError, match="no multiples of 32"):
        Sizes(widths=(48, 64, 64, 64), groups=16, heads=2, motion_heads=2)
    with pytest.raises(UserError, match=r"unknown size 'width'.*did you mean 'widths'"):
        read_sizes({"width": [32]})
    with pytest.raises(UserError, match="wrong kind"):
        read_sizes({"layers": "2"})


def test_audio_modules_are_as_wide_as_what_enters() -> None:
    widths = {place.name: place.audio_widths for place in places(Sizes())}
    assert widths == {
        "down_blocks.0": (320, 320),
        "down_blocks.1": (320, 640),
        "down_blocks.2": (640, 1280),
        "down_blocks.3": (),
        "mid_block": (1280,),
        "up_blocks.0": (),
        "up_blocks.1": (640, 640, 640),
        "up_blocks.2": (320, 320, 320),
        "up_blocks.3": (320, 320, 320),
    }
