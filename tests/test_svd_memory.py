"""Less memory, same result: feed-forward chunks are exact, and one network is on the device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossframe.errors import UserError
from methods.svd.memory import spare
from methods.svd.options import Memory
from tests.tiny_svd import run, tiny_unet, unet_inputs

FRAMES = 4


@pytest.fixture(scope="module")
def backbone() -> Any:
    parts = {"vae": nn.Identity(), "image_encoder": nn.Identity(), "device": torch.device("cpu")}
    return SimpleNamespace(unet=tiny_unet(), **parts)


def chunking(unet: Any) -> list[tuple[Any, Any]]:
    blocks = [m for m in unet.modules() if hasattr(m, "set_chunk_feed_forward")]
    assert blocks
    return [(block._chunk_size, block._chunk_dim) for block in blocks]


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_feed_forward_in_chunks_is_exact(chunk: int, backbone: Any) -> None:
    before, inputs = chunking(backbone.unet), unet_inputs(FRAMES, rows=2)
    stock = run(backbone.unet, inputs)
    with spare(backbone, Memory(forward_chunk=chunk), FRAMES):
        assert {size for size, _ in chunking(backbone.unet)} == {chunk}
        assert torch.allclose(run(backbone.unet, inputs), stock, atol=1e-6)
    assert chunking(backbone.unet) == before


def test_restored_after_an_exception(backbone: Any) -> None:
    before = chunking(backbone.unet)
    with (
        pytest.raises(RuntimeError, match="stop"),
        spare(backbone, Memory(forward_chunk=2, offload=True), FRAMES),
    ):
        raise RuntimeError("stop")
    assert chunking(backbone.unet) == before
    assert not backbone.unet._forward_pre_hooks


def test_a_chunk_that_does_not_divide_the_frames(backbone: Any) -> None:
    with (
        pytest.raises(UserError, match=r"no multiple of 3 \(allowed: 1, 2, 4\)"),
        spare(backbone, Memory(forward_chunk=3), FRAMES),
    ):
        pass


class Network(nn.Module):
    """Notes where it is sent."""

    def __init__(self, name: str, where: dict[str, str], *halves: str) -> None:
        super().__init__()
        self.name, self.where = name, where
        for half in halves:
            self.add_module(half, nn.Identity())

    def to(self, device: Any, *args: Any, **kwargs: Any) -> Network:
        self.where[self.name] = str(device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        assert self.where[self.name] == "meta"
        return x


def test_one_network_at_a_time_is_on_the_device() -> None:
    where: dict[str, str] = {}
    unet, encoder = Network("unet", where), Network("image_encoder", where)
    vae = Network("vae", where, "encoder", "decoder")
    backbone = SimpleNamespace(
        unet=unet, vae=vae, image_encoder=encoder, device=torch.device("meta")
    )
    with spare(backbone, Memory(offload=True), FRAMES):
        assert set(where.values()) == {"cpu"}
        for name, call in (
            ("image_encoder", encoder),
            ("vae", vae.get_submodule("encoder")),
            ("unet", unet),
            ("unet", unet),
            ("vae", vae.get_submodule("decoder")),
        ):
            call(torch.zeros(1))
            assert [n for n, device in where.items() if device == "meta"] == [name]
    assert set(where.values()) == {"meta"}
    unet(torch.zeros(1))
    assert where["vae"] == "meta"
