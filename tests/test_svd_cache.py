"""Results that are kept: the constant one is exact, the others come in the right steps and end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from methods.svd.cache import ConstantAttentionProcessor, cached
from methods.svd.options import FrameAttention, Reuse, SpatialAttention
from methods.svd.temporal import attending
from tests.tiny_svd import run, tiny_unet, unet_inputs

FRAMES, STEPS = 3, 4
SPATIAL = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEMPORAL = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1"
CALLED = (SPATIAL, TEMPORAL, "mid_block")


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_unet()


def inputs(seed: int = 1, rows: int = 1) -> dict[str, Tensor]:
    return unet_inputs(FRAMES, rows, size=4, seed=seed)


def traces(unet: Any) -> list[str]:
    """Modules with anything that does not belong to them."""
    return [
        name
        for name, module in unet.named_modules()
        if {"forward", "_diffusers_hook"} & set(module.__dict__)
    ]


class Calls:
    """Counts how often the inner part of some modules really runs."""

    def __init__(self, unet: Any) -> None:
        self.steps: dict[str, list[int]] = {name: [] for name in CALLED}
        self.step = 0
        self._hooks = [
            unet.get_submodule(f"{name}.{inner}").register_forward_hook(self._note(name))
            for name, inner in zip(CALLED, ("to_q", "to_q", "resnets.0"), strict=True)
        ]

    def _note(self, name: str) -> Any:
        return lambda module, given, made: self.steps[name].append(self.step)

    def end(self) -> dict[str, list[int]]:
        for hook in self._hooks:
            hook.remove()
        return self.steps


def computed_in(unet: Any, options: Reuse, steps: int = STEPS) -> dict[str, list[int]]:
    calls = Calls(unet)
    with cached(unet, options) as clock:
        for calls.step in range(steps):
            clock.at(calls.step, steps)
            run(unet, inputs(seed=calls.step))
    return calls.end()


def test_the_constant_of_cross_attention(unet: Any) -> None:
    before = dict(unet.attn_processors)
    first, second = run(unet, inputs(1, rows=2)), run(unet, inputs(2, rows=2))
    with cached(unet, Reuse(cross=True)):
        kinds = [type(p) for p in unet.attn_processors.values()]
        assert kinds.count(ConstantAttentionProcessor) == len(kinds) // 2
        assert torch.allclose(run(unet, inputs(1, rows=2)), first, atol=1e-6)
        assert torch.allclose(run(unet, inputs(2, rows=2)), second, atol=1e-6)
    assert dict(unet.attn_processors) == before


def test_only_one_token_is_a_constant(unet: Any) -> None:
    attn = unet.get_submodule(SPATIAL.replace("attn1", "attn2"))
    with cached(unet, Reuse(cross=True)), pytest.raises(ValueError, match="single token"):
        attn(torch.randn(1, 4, 32), encoder_hidden_states=torch.randn(1, 2, 32))


def test_computed_in_every_nth_step(unet: Any) -> None:
    always = list(range(STEPS))
    spatial, temporal, middle = computed_in(unet, Reuse(spatial=2, temporal=3)).values()
    assert (spatial, temporal, middle) == ([0, 2], [0, 3], always)
    spatial, temporal, middle = computed_in(unet, Reuse(deep=3)).values()
    assert (spatial, temporal, middle) == (always, always, [0, 3])


def test_computed_in_every_step_outside_of_the_part(unet: Any) -> None:
    spatial, _, _ = computed_in(unet, Reuse(spatial=6, steps=(0.5, 1))).values()
    assert spatial == [0, 1]


def test_a_result_from_before_guidance_ended_is_not_taken_again(unet: Any) -> None:
    """One row in steps 0, 1, 4 and 5, two between: age counts, not how often a shape came."""
    rows = [1, 1, 2, 2, 1, 1]
    for every, wanted in ((2, [0, 2, 4]), (4, [0, 2, 4]), (5, [0, 2, 5])):
        calls = Calls(unet)
        with cached(unet, Reuse(spatial=every)) as clock:
            for calls.step, count in enumerate(rows):
                clock.at(calls.step, len(rows))
                run(unet, inputs(seed=calls.step, rows=count))
        assert calls.end()[SPATIAL] == wanted


def test_an_old_result_of_the_same_shape_is_computed_anew(unet: Any) -> None:
    with cached(unet, Reuse(spatial=2)) as clock:
        clock.at(4, 25)
        run(unet, inputs(1))
        clock.at(15, 25)
        made = run(unet, inputs(2))
    assert torch.equal(made, run(unet, inputs(2)))


@pytest.mark.parametrize("options", [{"spatial": 2}, {"temporal": 2}, {"deep": 2}])
def test_the_same_call_again_is_exact_and_another_is_not(
    options: dict[str, int], unet: Any
) -> None:
    stock, other = run(unet, inputs(1)), run(unet, inputs(2))
    with cached(unet, Reuse(**options)) as clock:
        clock.at(0, STEPS)
        assert torch.equal(run(unet, inputs(1)), stock)
        clock.at(1, STEPS)
        assert torch.equal(run(unet, inputs(1)), stock)
        assert not torch.allclose(run(unet, inputs(2)), other, atol=1e-3)
        clock.at(2, STEPS)
        assert torch.equal(run(unet, inputs(2)), other)


def test_windows_and_batch_sizes_do_not_share_results(unet: Any) -> None:
    with cached(unet, Reuse(spatial=2, deep=2)) as clock:
        clock.at(0, STEPS, part=0)
        run(unet, inputs(1))
        clock.at(1, STEPS, part=1)
        assert torch.equal(run(unet, inputs(2)), run(unet, inputs(2)))
        other = run(unet, inputs(2))
        clock.at(1, STEPS, part=0)
        wide = run(unet, inputs(3, rows=2))
    assert torch.equal(other, run(unet, inputs(2)))
    assert torch.equal(wide, run(unet, inputs(3, rows=2)))


def test_nothing_is_left_for_the_next_sample(unet: Any) -> None:
    stock = run(unet, inputs(2))
    with (
        pytest.raises(RuntimeError, match="stop"),
        cached(unet, Reuse(spatial=2, temporal=2, deep=2)) as clock,
    ):
        clock.at(0, STEPS)
        run(unet, inputs(1))
        assert traces(unet)
        raise RuntimeError("stop")
    assert not traces(unet)
    assert torch.equal(run(unet, inputs(2)), stock)
    with cached(unet, Reuse(spatial=2, temporal=2, deep=2)) as clock:
        clock.at(1, STEPS)
        assert torch.equal(run(unet, inputs(2)), stock)


def test_what_frame_attention_computes_is_kept(unet: Any) -> None:
    before = dict(unet.attn_processors)
    first = FrameAttention(spatial=SpatialAttention(pattern="first"))
    with attending(unet, first, FRAMES), cached(unet, Reuse(spatial=2)) as clock:
        clock.at(0, STEPS)
        made = run(unet, inputs(1))
        clock.at(1, STEPS)
        assert torch.equal(run(unet, inputs(1)), made)
    with attending(unet, first, FRAMES):
        assert torch.equal(run(unet, inputs(1)), made)
    assert not torch.allclose(run(unet, inputs(1)), made, atol=1e-3)
    assert dict(unet.attn_processors) == before
    assert not traces(unet)


def test_a_run_that_does_not_tell_its_steps(unet: Any) -> None:
    with cached(unet, Reuse(deep=2)), pytest.raises(RuntimeError, match=r"Clock\.at"):
        run(unet, inputs())
