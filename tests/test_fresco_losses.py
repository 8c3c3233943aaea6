"""Losses and gradients of FRESCO: golden values, and every fast form against the plain one."""

import pytest
import torch
from fresco_golden import golden
from torch import Tensor

from methods.fresco.correspondence import Flows
from methods.fresco.gram import add_spatial_gradient, unit_tokens
from methods.fresco.losses import similarities, spatial_loss, temporal_loss
from methods.fresco.options import Losses
from methods.fresco.temporal import Temporal

CASES = ["consistency_losses_k4", "consistency_losses_k8"]


def level_of(case) -> Flows:
    given = case.input
    flows = Flows(*(given[k] for k in ("fwd_flow", "bwd_flow", "fwd_occ", "bwd_occ")))
    return flows.at(*given["sample"].shape[-2:])


def to_tokens(features: Tensor) -> Tensor:
    return features.flatten(2).mT.contiguous()


def fast_temporal(features: Tensor, level: Flows, options: Losses) -> tuple[Tensor, Tensor]:
    """Loss and gradient, shaped as the features."""
    tokens = to_tokens(features)
    out = torch.zeros_like(tokens)
    loss = Temporal.build(level, options).add_gradient(tokens, out, with_loss=True)
    return loss, out.mT.reshape(features.shape)


def fast_spatial(
    features: Tensor, reference: Tensor, options: Losses, blocks: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    tokens = to_tokens(features)
    out = torch.zeros_like(tokens)
    loss = add_spatial_gradient(
        tokens, unit_tokens(reference), out, options, blocks=blocks, with_loss=True
    )
    return loss, out.mT.reshape(features.shape)


def by_autograd(features: Tensor, loss) -> tuple[Tensor, Tensor]:
    features = features.clone().requires_grad_()
    value = loss(features)
    value.backward()
    return value.detach(), features.grad


def relative(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def random_flows(n: int, size: int, seed: int) -> Flows:
    generator = torch.Generator().manual_seed(seed)
    flow = 2 * torch.randn(2, n, 2, size, size, generator=generator)
    hidden = (torch.rand(2, n, size, size, generator=generator) < 0.3).float()
    return Flows(flow[0], flow[1], hidden[0], hidden[1])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["plain", "fast"])
def test_losses_and_gradients_are_the_released_ones(name, form):
    case, options = golden(name), Losses()
    sample, reference = case.input["sample"], case.input["reference_features"]
    level, gram = level_of(case), similarities(reference)
    case.check("gram", gram)
    if form == "plain":
        temporal = by_autograd(sample, lambda x: temporal_loss(x, level, options))
        spatial = by_autograd(sample, lambda x: spatial_loss(x, gram, options))
    else:
        temporal = fast_temporal(sample, level, options)
        spatial = fast_spatial(sample, reference, options)
    total = [one + other for one, other in zip(temporal, spatial, strict=True)]
    for kind, (loss, gradient) in {
        "temporal": temporal,
        "spatial": spatial,
        "total": total,
    }.items():
        case.check(f"loss_{kind}", loss.view(1))
        case.check(f"grad_{kind}", gradient)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("blocks", [None, (1, 1), (3, 60), (20, 800), (7, 300), (64, 10**6)])
def test_row_blocks_give_the_gradient_of_autograd(norm, reduction, blocks):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 8, 5, 4, generator=generator, dtype=torch.float64)
    reference = torch.randn(3, 6, 5, 4, generator=generator, dtype=torch.float64)
    options = Losses(spatial=7.0, spatial_norm=norm, reduction=reduction)
    unit = unit_tokens(reference)
    goal = unit @ unit.mT

    def plain(x):
        found = torch.nn.functional.normalize(x.flatten(2), dim=1)
        gap = found.mT @ found - goal
        size = gap.abs() if norm == "l1" else gap.square()
        return 7.0 * getattr(size, reduction)()

    loss, gradient = fast_spatial(features, reference, options, blocks)
    expected_loss, expected = by_autograd(features, plain)
    torch.testing.assert_close(loss, expected_loss)
    assert relative(gradient, expected) < 1e-12


def test_float32_gradients_are_autograds_to_1e_5():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(4, 32, 12, 12, generator=generator)
    reference = features + 0.5 * torch.randn(4, 32, 12, 12, generator=generator)
    options, level = Losses(), random_flows(2, 12, 2)
    goal = similarities(reference)
    for fast, plain in (
        (fast_spatial(features, reference, options), lambda x: spatial_loss(x, goal, options)),
        (fast_temporal(features, level, options), lambda x: temporal_loss(x, level, options)),
    ):
        loss, expected = by_autograd(features, plain)
        assert fast[0].item() == pytest.approx(loss.item(), rel=1e-5)
        assert relative(fast[1], expected) < 1e-5


@pytest.mark.parametrize("direction", ["both", "backward"])
@pytest.mark.parametrize("cyclic", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("n", [2, 3])
def test_every_temporal_form_has_its_gradient(direction, cyclic, reduction, n):
    options = Losses(temporal=3.0, direction=direction, cyclic=cyclic, reduction=reduction)
    features = torch.randn(2 * n, 4, 6, 6, generator=torch.Generator().manual_seed(n))
    level = random_flows(n, 6, n)
    loss, gradient = fast_temporal(features, level, options)
    expected_loss, expected = by_autograd(features, lambda x: temporal_loss(x, level, options))
    torch.testing.assert_close(loss, expected_loss)
    assert relative(gradient, expected) < 1e-5


def test_equal_similarities_pull_nowhere():
    features = torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(3))
    for blocks in (None, (20, 200)):
        loss, gradient = fast_spatial(features, features, Losses(), blocks)
        assert loss == 0
        assert not gradient.any()


def test_still_frames_pull_nowhere():
    frame = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(4))
    none = torch.zeros(3, 6, 6)
    still = Flows(torch.zeros(3, 2, 6, 6), torch.zeros(3, 2, 6, 6), none, none)
    loss, gradient = fast_temporal(frame.repeat(6, 1, 1, 1), still, Losses())
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("cyclic", [True, False])
def test_a_single_frame_has_no_temporal_loss(cyclic):
    none = torch.zeros(1, 4, 4)
    alone = Flows(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), none, none)
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    loss, gradient = fast_temporal(features, alone, Losses(cyclic=cyclic))
    assert loss == 0
    assert not gradient.any()


def test_bfloat16_is_near():
    generator = torch.Generator().manual_seed(6)
    features, reference = torch.randn(2, 2, 32, 8, 8, generator=generator)
    _, exact = fast_spatial(features, reference, Losses())
    loss, near = fast_spatial(features, reference, Losses(precision="bfloat16"), (16, 2000))
    assert 0 < relative(near, exact) < 0.15
    expected = spatial_loss(features, similarities(reference), Losses())
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
