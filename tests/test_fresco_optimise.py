"""Feature optimisation: golden losses over a run, Adam, and the hooks on a real UNet."""

import pytest
import torch
from fresco_golden import golden
from pydantic import ValidationError
from tiny_backbone import tiny_unet
from torch import Tensor

from methods.fresco.adain import adain
from methods.fresco.correspondence import Flows
from methods.fresco.gram import unit_tokens
from methods.fresco.hooks import optimised_inputs
from methods.fresco.optimise import Consistency, minimise, optimise
from methods.fresco.options import PAPER, Losses
from methods.fresco.smoothing import smooth_background
from methods.fresco.temporal import Temporal


def tokens_with(gram: Tensor) -> Tensor:
    """Unit tokens (B, d, d) whose cosines are the given ones."""
    values, vectors = torch.linalg.eigh(gram.double())
    return (vectors * values.clamp_min(0).sqrt()[:, None]).float()


def still(n: int, size: int) -> Flows:
    none = torch.zeros(n, size, size, dtype=torch.bool)
    return Flows(torch.zeros(n, 2, size, size), torch.zeros(n, 2, size, size), none, none)


def test_losses_over_a_run_are_the_released_ones():
    case = golden("optimisation_run")
    given, config = case.input, case.config
    flows = Flows(*(given[k] for k in ("fwd_flow", "bwd_flow", "fwd_occ", "bwd_occ")))
    options = Losses(
        spatial=config["intra_weight"], lr=config["lr"], iterations=config["iters"] - 1
    )
    level = flows.at(*given["sample"].shape[-2:])
    losses = Consistency(options, Temporal.build(level, options), tokens_with(given["gram"]))
    trace: list[float] = []
    optimise(given["sample"], losses, trace=trace)
    case.check("loss", torch.tensor(trace))


def test_steps_are_those_of_torchs_adam():
    """With squared differences and no ties the path is smooth, so the tokens can be compared."""
    generator = torch.Generator().manual_seed(0)
    features, reference = torch.randn(2, 2, 6, 3, 3, generator=generator)
    options = Losses(temporal=0, spatial_norm="l2", spatial=30, iterations=5, lr=0.05)
    losses = Consistency.build(options, still(1, 3), reference)
    found = minimise(features.flatten(2).mT.contiguous(), losses)
    parameter = torch.nn.Parameter(features.clone())
    adam = torch.optim.Adam([parameter], lr=0.05)
    unit = unit_tokens(reference)
    for _ in range(5):
        ours = torch.nn.functional.normalize(parameter.flatten(2), dim=1)
        loss = 30 * (ours.mT @ ours - unit @ unit.mT).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    torch.testing.assert_close(found, parameter.detach().flatten(2).mT, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("options", [{"spatial": 0}, {"temporal": 0}, {}, PAPER["loss"]])
def test_losses_fall(options):
    generator = torch.Generator().manual_seed(1)
    features, reference = torch.randn(2, 4, 8, 4, 4, generator=generator)
    losses = Consistency.build(Losses(**{**options, "lr": 0.02}), still(2, 4), reference)
    trace: list[float] = []
    optimise(features, losses, trace=trace)
    assert len(trace) == 21
    assert trace[-1] < 0.9 * trace[0]


def test_reduced_precision_ends_at_the_same_loss():
    generator = torch.Generator().manual_seed(2)
    features, reference = torch.randn(2, 2, 32, 8, 8, generator=generator)
    ends = {}
    for precision in ("float32", "bfloat16"):
        losses = Consistency.build(Losses(precision=precision), still(1, 8), reference)
        tokens = minimise(features.flatten(2).mT.contiguous(), losses)
        exact = Consistency.build(Losses(), still(1, 8), reference)
        ends[precision] = exact.gradient(tokens, torch.empty_like(tokens), with_loss=True).item()
    assert ends["bfloat16"] == pytest.approx(ends["float32"], rel=0.02)


def test_nothing_to_do_leaves_the_features():
    features = torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(3))
    for adain_mode, expected in (
        ("none", features),
        ("fixed", features),
        ("repo", adain(features, features)),
    ):
        options = Losses(iterations=0, adain=adain_mode)
        found = optimise(features, Consistency.build(options, still(2, 4), features))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_types_are_kept_and_autograd_is_not_needed():
    features = torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(4)).half()
    with torch.inference_mode():
        found = optimise(features, Consistency.build(Losses(), still(2, 4), features))
    assert found.dtype == torch.float16
    assert found.isfinite().all()


def test_the_spatial_term_needs_a_reference():
    with pytest.raises(ValueError, match="reference"):
        Consistency.build(Losses(), still(2, 4), None)
    assert Consistency.build(Losses(spatial=0), still(2, 4), None).reference is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"timesteps": [9, 3]}, "lowest"), ({"layers": [1, 1]}, "twice"), ({"lr": 0}, "greater")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Losses(**options)


def run_unet(unet, latents: Tensor, timestep: int = 500) -> tuple[Tensor, dict[int, Tensor]]:
    """The output, and what each up block got after all other hooks."""
    seen: dict[int, Tensor] = {}

    def keep(layer):
        return lambda block, args, kwargs: seen.update({layer: kwargs["hidden_states"]})

    handles = [
        block.register_forward_pre_hook(keep(i), with_kwargs=True)
        for i, block in enumerate(unet.up_blocks)
    ]
    text = torch.zeros(len(latents), 3, 8)
    with torch.no_grad():
        out = unet(latents, timestep, text).sample
    for handle in handles:
        handle.remove()
    return out, seen


LATENTS = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(5))
FEATURES = {"layers": (0, 1), "iterations": 3}


def test_hooks_optimise_what_enters_the_blocks():
    unet, flows, options = tiny_unet(), still(3, 64), Losses(**FEATURES)
    _, before = run_unet(unet, LATENTS)
    references = {i: torch.randn_like(x) for i, x in before.items()}
    with optimised_inputs(unet, flows, options, references):
        _, during = run_unet(unet, LATENTS)
    level = flows.at(*before[0].shape[-2:])
    expected = optimise(before[0], Consistency.build(options, level, references[0]))
    assert torch.equal(during[0], expected)
    assert not torch.equal(during[1], before[1])
    _, after = run_unet(unet, LATENTS)
    assert torch.equal(after[0], before[0])
    assert not unet._forward_pre_hooks


@pytest.mark.parametrize(
    ("options", "background"),
    [
        ({"timesteps": [600, 1000]}, torch.ones(3, 1, 8, 8)),
        ({"spatial": 0, "temporal": 0}, None),
        ({"iterations": 0}, None),
        ({"layers": ()}, torch.ones(3, 1, 8, 8)),
    ],
)
def test_hooks_that_are_not_active_change_nothing(options, background):
    unet = tiny_unet()
    expected, _ = run_unet(unet, LATENTS)
    with optimised_inputs(unet, still(3, 64), Losses(**{**FEATURES, **options}), {}, background):
        found, _ = run_unet(unet, LATENTS)
    assert torch.equal(found, expected)


def test_hooks_smooth_the_background_without_losses_too():
    unet, flows = tiny_unet(), still(3, 64)
    background = torch.ones(3, 1, 64, 64)
    _, before = run_unet(unet, LATENTS)
    options = Losses(**FEATURES, spatial=0, temporal=0)
    with optimised_inputs(unet, flows, options, {}, background):
        _, during = run_unet(unet, LATENTS)
    assert torch.equal(during[0], smooth_background(before[0], flows, background))
    frames = during[0].unflatten(0, (2, 3))
    torch.testing.assert_close(frames[:, 1], frames[:, 0])  # nothing moves, all is background


def test_the_conditional_half_alone_has_its_own_reference():
    unet, flows = tiny_unet(), still(3, 64)
    options = Losses(**FEATURES, temporal=0)
    _, before = run_unet(unet, LATENTS)
    references = {i: torch.randn_like(x) for i, x in before.items()}
    with optimised_inputs(unet, flows, options, references):
        _, half = run_unet(unet, LATENTS[3:])
    with optimised_inputs(unet, flows, options, {i: x[3:] for i, x in references.items()}):
        _, expected = run_unet(unet, LATENTS[3:])
    assert torch.equal(half[1], expected[1])
