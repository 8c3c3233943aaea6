"""Memory of Stable Video Diffusion at full size, with and without what saves it: `make bench`.

full size   25 frames of 1024x576 in float16, tensors without contents: what would be held at
            once beyond the weights, counted by the storages that are alive; kernels' scratch
            space is not in it; with offload, weights of the largest network alone
check       the same count against the allocator's own records, on the full-size decoder with
            random weights in float32 at 64x64 pixels
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.measure import MIB, peak_bytes
from methods.svd.cache import cached
from methods.svd.memory import spare
from methods.svd.options import Memory, Reuse

FRAMES, HEIGHT, WIDTH = 25, 72, 128  # of latents


class Held(TorchDispatchMode):
    """Counts the bytes of storages that are made inside and alive at once; `peak` is the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet[Any]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if is_tensor(x)}
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if is_tensor(x) and id(x.untyped_storage()) not in given:
                self._count(x.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.now -= size


def is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def held(call: Callable[[], Any]) -> int:
    """Bytes held at once during a call, its result included, its inputs not."""
    with torch.no_grad(), Held() as count:
        call()
    return count.peak


def full_vae() -> AutoencoderKLTemporalDecoder:
    return AutoencoderKLTemporalDecoder(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        layers_per_block=2,
    ).eval()


def full_image_encoder() -> CLIPVisionModelWithProjection:
    """The image half of OpenCLIP's ViT-H/14."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=1280,
            intermediate_size=5120,
            projection_dim=1024,
            num_hidden_layers=32,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
        )
    )


def weight_bytes(net: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in net.parameters())


@contextmanager
def without_contents() -> Iterator[None]:
    """Tensors in the block have shapes and no memory; new ones are float16."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def rows() -> Iterator[list[str]]:
    """Collects the rows and prints them as one table at the end."""
    collected: list[str] = []
    yield collected
    print("\n\n" + "\n".join([f"{'':<52}{'MiB':>9}", *collected]))


def row(name: str, size: int) -> str:
    return f"{name:<52}{size / MIB:>9.0f}"


@pytest.mark.bench
def test_decoder_at_full_size(rows: list[str]) -> None:
    """Memory of the decoder by chunk."""
    sizes = {}
    with without_contents():
        vae = full_vae()
        for chunk in (25, 14, 8, 4, 2, 1):
            latents = torch.zeros(chunk, 4, HEIGHT, WIDTH)
            sizes[chunk] = held(lambda x=latents, n=chunk: vae.decode(x, num_frames=n).sample)
            rows.append(row(f"decoder, {chunk} frames at once", sizes[chunk]))
        rows.append(row("autoencoder, weights", weight_bytes(vae)))
    assert sizes[25] > 10 * sizes[2] > 10 * sizes[1]


def unet_call(unet: Any) -> Callable[[], Any]:
    """Both guidance rows of all frames in one call."""
    sample = torch.zeros(2, FRAMES, 8, HEIGHT, WIDTH)
    image, ids = torch.zeros(2, 1, 1024), torch.zeros(2, 3)
    return lambda: unet(sample, torch.tensor(0.5), image, ids).sample


WAYS: dict[str, tuple[Memory, Reuse]] = {
    "as it is": (Memory(), Reuse()),
    "forward_chunk 5": (Memory(forward_chunk=5), Reuse()),
    "forward_chunk 1": (Memory(forward_chunk=1), Reuse()),
    "cross-attention as a constant": (Memory(), Reuse(cross=True)),
    "results kept: spatial attention": (Memory(), Reuse(spatial=2)),
    "results kept: temporal attention": (Memory(), Reuse(temporal=2)),
    "results kept: deep blocks": (Memory(), Reuse(deep=2)),
}


@pytest.mark.bench
def test_unet_at_full_size(rows: list[str]) -> None:
    """Memory of the UNet by what spares it."""
    sizes = {}
    with without_contents():
        unet = UNetSpatioTemporalConditionModel().eval()
        call = unet_call(unet)
        backbone: Any = SimpleNamespace(unet=unet)
        for name, (memory, reuse) in WAYS.items():
            with ExitStack() as ways:
                ways.enter_context(spare(backbone, memory, FRAMES))
                ways.enter_context(cached(unet, reuse)).at(0, 2)
                sizes[name] = held(call)
            rows.append(row(f"UNet, both rows of {FRAMES} frames: {name}", sizes[name]))
        rows.append(row("UNet, weights", weight_bytes(unet)))
    assert sizes["forward_chunk 1"] <= sizes["forward_chunk 5"] < 0.7 * sizes["as it is"]
    assert sizes["results kept: deep blocks"] > sizes["as it is"]


@pytest.mark.bench
def test_weights_with_and_without_offload(rows: list[str]) -> None:
    """Weights on the device at once: all networks, or the largest alone."""
    with without_contents():
        nets = (UNetSpatioTemporalConditionModel(), full_image_encoder(), full_vae())
        sizes = [weight_bytes(net) for net in nets]
    rows.append(row("weights of all networks", sum(sizes)))
    rows.append(row("weights with offload, the largest network", max(sizes)))
    assert max(sizes) < 0.7 * sum(sizes)


@pytest.mark.bench
def test_the_count_against_the_allocator(rows: list[str], tmp_path: Path) -> None:
    """Counted memory against what the allocator records."""
    torch.manual_seed(0)
    vae, sizes = full_vae(), {}
    for chunk in (8, 2):
        latents = torch.randn(chunk, 4, 8, 8)

        def decode(x: Tensor = latents, n: int = chunk) -> Tensor:
            with torch.no_grad():
                return vae.decode(x, num_frames=n).sample

        sizes[chunk] = held(decode), peak_bytes(decode, tmp_path / str(chunk))
        name = f"decoder, float32, {chunk} frames of 64x64: "
        rows.append(row(f"{name}counted", sizes[chunk][0]))
        rows.append(row(f"{name}by the allocator", sizes[chunk][1]))
    for counted, allocated in sizes.values():
        assert 0.7 <= counted / allocated <= 1.05
