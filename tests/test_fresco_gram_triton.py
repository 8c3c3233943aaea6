"""The fused kernel of the spatial loss against the plain form; on a GPU, or TRITON_INTERPRET=1."""

import os

import pytest
import torch

from methods.fresco.gram import add_spatial_gradient, unit_tokens
from methods.fresco.options import Losses

pytest.importorskip("triton", reason="the fused kernel needs triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (torch.cuda.is_available() or INTERPRETED):
    pytest.skip("the fused kernel needs a GPU", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"


def tokens(count: int, d: int, channels: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return unit_tokens(torch.randn(count, channels, d, 1, generator=generator)).to(DEVICE)


@pytest.mark.parametrize(("start", "stop"), [(0, 150), (0, 128), (128, 150), (37, 64)])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 2e-6), (torch.float16, 1e-3)])
def test_blocks_are_the_plain_differences(start, stop, dtype, allowed):
    from methods.fresco.gram_triton import differences

    unit, reference = (tokens(2, 150, c, c).to(dtype) for c in (40, 70))
    found = differences(unit, reference, start, stop)
    unit, reference = unit.double(), reference.double()
    expected = unit[:, start:stop] @ unit[:, start:].mT
    expected -= reference[:, start:stop] @ reference[:, start:].mT
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= allowed


def test_equal_tokens_cancel_exactly():
    from methods.fresco.gram_triton import differences

    unit = tokens(2, 150, 40, 0)
    assert not differences(unit, unit.clone(), 0, 150).any()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_gradients_of_the_kernel_are_near_those_of_float32(precision):
    unit, reference = tokens(2, 300, 64, 1), tokens(2, 300, 64, 2)
    gradients = {}
    for name in ("float32", precision):
        gradients[name] = torch.zeros_like(unit)
        add_spatial_gradient(unit, reference, gradients[name], Losses(precision=name))
    difference = gradients[precision] - gradients["float32"]
    assert difference.norm() <= 0.15 * gradients["float32"].norm()
