"""Hallo's blocks and whole networks against the released code's numbers; what can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from diffusers.models.unets.unet_motion_model import (
    CrossAttnDownBlockMotion,
    CrossAttnUpBlockMotion,
)
from hallo_golden import Case, fill
from hallo_sizes import NANO
from torch import Tensor, nn

from methods.ddim import ddim_step
from methods.guidance import guide
from methods.hallo.calls import HalloCall, Slot
from methods.hallo.checkpoints import nets_of, published_tensors
from methods.hallo.networks import HalloNets, equip_block, stage_parameters
from methods.hallo.options import Scales
from methods.hallo.schedule import sampling_schedule
from methods.hallo.sizes import Place, Sizes
from methods.patterns import parse_pattern

BLOCK = Sizes(heads=4, motion_heads=2, groups=8, audio_width=20, token_width=24)
SHARED: dict[str, Any] = {
    "temb_channels": 48,
    "num_layers": 1,
    "resnet_groups": 8,
    "resnet_eps": 1e-5,
    "num_attention_heads": 4,
    "cross_attention_dim": 24,
    "temporal_num_attention_heads": 2,
}
SCALES = Scales(pose=0.7, face=1.3, lip=2.0)


def folded(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)


def block_call(case: Case, place: Place, f: int, side: int) -> HalloCall:
    bank = {f"{place.name}.attentions.0": case.input["bank.0"].unflatten(0, (2, 3))}
    masks = (case.masks((2, f, side, side)),) * 4
    return HalloCall(f, bank, 1, case.input["audio_embedding"], masks, SCALES)


def check_block(case: Case, block: Any, place: Place, f: int, side: int, **given: Any) -> None:
    slot: Slot[HalloCall] = Slot()
    equip_block(block, place, BLOCK, slot)
    fill(block, case.weights, f"{place.name}.")
    given["temb"] = case.input["temb"].repeat_interleave(f, 0)
    given["encoder_hidden_states"] = case.input["encoder_hidden_states"].repeat_interleave(f, 0)
    call = block_call(case, place, f, side)
    outs = {}
    for name, told in (
        ("sample", call),
        ("empty_bank/sample", replace(call, bank=None)),
        ("wrong/eval_branch/sample", replace(call, evaluation=True)),
    ):
        with torch.no_grad(), slot.holding(told):
            out = block(folded(case.input["sample"]), num_frames=f, **given)
        hidden = out[0] if isinstance(out, tuple) else out
        outs[name] = hidden.unflatten(0, (2, f)).transpose(1, 2)
        if isinstance(out, tuple) and name == "sample":
            for i, x in enumerate(out[1]):
                case.check(f"res.{i}", x.unflatten(0, (2, f)).transpose(1, 2))
    case.check("sample", outs["sample"])
    case.check("empty_bank/sample", outs["empty_bank/sample"])
    wrong = case.aside["wrong/eval_branch/sample"]
    assert (outs["wrong/eval_branch/sample"] - wrong).abs().max() <= case.tolerance


def test_the_down_block_is_published() -> None:
    case = Case("down_block")
    place = Place("down_blocks.1", "down", 1, (32,))
    check_block(case, CrossAttnDownBlockMotion(32, 64, **SHARED), place, 2, 6)


def test_the_up_block_is_published() -> None:
    case = Case("up_block")
    place = Place("up_blocks.1", "up", 2, (64,))
    block = CrossAttnUpBlockMotion(64, 32, 32, **SHARED)
    skip = (folded(case.input["skip"]),)
    check_block(case, block, place, 3, 4, res_hidden_states_tuple=skip)


FULL = Sizes(
    widths=(32,) * 4,
    layers=1,
    heads=4,
    groups=8,
    token_width=24,
    motion_heads=2,
    audio_width=20,
    face_width=12,
    audio_blocks=2,
    audio_channels=6,
    audio_hidden=16,
    audio_tokens=3,
    locator_widths=(4, 8, 8, 16),
)


@pytest.fixture(scope="module")
def full() -> tuple[Case, HalloNets]:
    case = Case("unet_full")
    return case, nets_of(case.weights, FULL).requires_grad_(False)


def full_call(case: Case, nets: HalloNets, **options: Any) -> tuple[Tensor, HalloCall]:
    """Identity tokens and the call of both guidance halves, unconditional first."""
    embedding = torch.cat([torch.zeros(1, 12), case.input["face_emb"]])
    tokens = nets.image_proj(embedding)
    images = case.input["reference_latents"].expand(2, -1, -1, -1, -1)
    bank = nets.reference_unet(images, tokens, half=options.pop("half", False))
    audio = nets.audio_proj(case.input["audio_windows"])
    located = nets.face_locator(
        case.input["face_region_mask"][:, :, None].expand(-1, -1, 4, -1, -1)
    )
    call = HalloCall(
        frames=4,
        bank=bank,
        unconditional=1,
        audio=torch.cat([torch.zeros_like(audio), audio]),
        masks=case.pyramid((16, 8, 4, 2)),
        scales=SCALES,
        locator=torch.cat([torch.zeros_like(located), located]),
        **options,
    )
    return tokens, call


def two_steps(
    case: Case, nets: HalloNets, tokens: Tensor, call: HalloCall
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Timestep, prediction of both halves and latents after it, of each of two steps."""
    schedule, latents = sampling_schedule(2), case.input["latents"]
    assert list(schedule.timesteps) == [999, 499]
    for index, t in enumerate(schedule.timesteps):
        output = nets.denoising_unet(latents.expand(2, -1, -1, -1, -1), t, tokens, call)
        latents = ddim_step(schedule, index, latents, guide(output, 3.5, 2))
        yield t, output, latents


@contextmanager
def watched(nets: HalloNets, block: str) -> Iterator[list[Tensor]]:
    """What a block of the denoising network returns first, call by call."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, out: Any) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)

    handle = nets.denoising_unet.unet.get_submodule(block).register_forward_hook(keep)
    yield seen
    handle.remove()


def test_the_whole_is_published(full: tuple[Case, HalloNets]) -> None:
    case, nets = full
    tokens, call = full_call(case, nets)
    assert call.audio is not None
    assert call.locator is not None
    assert call.bank is not None
    case.check("identity_tokens", tokens)
    case.check("audio_tokens", call.audio[1:])
    case.check("face_features", call.locator[1:])
    for name in ("down_blocks.2", "mid_block", "up_blocks.1"):
        case.check(f"bank.{name}.attentions.0", call.bank[f"{name}.attentions.0"].flatten(0, 1))
    blocks = ("down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0")
    with ExitStack() as stack:
        seen = {name: stack.enter_context(watched(nets, name)) for name in blocks}
        steps = list(two_steps(case, nets, tokens, call))
    for name in blocks:
        case.check(f"probe.{name}", seen[name][0].unflatten(0, (2, 4)).transpose(1, 2))
    for index, (t, output, latents) in enumerate(steps):
        case.check(f"noise_pred.{t}", output)
        case.check(f"latents.{index}", latents)
    again = published_tensors(nets)
    assert again.keys() == case.weights.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in case.weights.items())


def test_rounded_banks_and_the_evaluation_branch_are_published(
    full: tuple[Case, HalloNets],
) -> None:
    case, nets = full
    for options, name, tolerance in (
        ({"half": True}, "variant/fp16_banks", float(case.header["tolerance_variant"])),
        ({"evaluation": True}, "wrong/eval_branch", case.tolerance),
    ):
        steps = two_steps(case, nets, *full_call(case, nets, **options))
        found = {f"{name}/noise_pred.{t}": output for t, output, _ in steps}
        wanted = {key: value for key, value in case.aside.items() if key.startswith(name)}
        assert wanted
        for key, value in wanted.items():
            off = (found[key] - value).abs().max().item()
            print(f"{key}: off by {off:.1e}, allowed {tolerance:g}")
            assert off <= tolerance


@pytest.fixture
def nano() -> HalloNets:
    """Nano networks in which nothing is 0, so that every part can be seen."""
    torch.manual_seed(0)
    nets = HalloNets(replace(NANO, groups=8))
    with torch.no_grad():
        for parameter in nets.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return nets


def nano_call(nets: HalloNets, b: int, f: int, stage: Literal[1, 2]) -> tuple[Tensor, HalloCall]:
    torch.manual_seed(1)
    tokens = nets.image_proj(torch.randn(b, 16))
    n = 2 if stage == 2 else 0
    bank = nets.reference_unet(torch.randn(b, 1 + n, 4, 8, 8), tokens, order="fixed")
    located = nets.face_locator(torch.rand(b, 3, f, 64, 64))
    call = HalloCall(f, bank, locator=located, order="fixed", motion=stage == 2)
    if stage == 2:
        masks = tuple(torch.rand(b, 1, 3, s, s) for s in (8, 4, 2, 1))
        audio = nets.audio_proj(torch.randn(b, f, 5, 1, 8))
        call = replace(call, audio=audio, masks=masks)
    return tokens, call


@pytest.mark.parametrize(("stage", "f"), [(1, 1), (2, 2)])
def test_every_trained_parameter_gets_a_gradient(
    nano: HalloNets, stage: Literal[1, 2], f: int
) -> None:
    trained = stage_parameters(nano, stage)
    nano.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    tokens, call = nano_call(nano, 2, f, stage)
    latents = torch.randn(2, 4, f, 8, 8)
    out = nano.denoising_unet(latents, torch.tensor([10, 900]), tokens, call)
    assert out.shape == latents.shape
    out.square().mean().backward()
    without = {name for name, p in trained.items() if p.grad is None or not p.grad.any()}
    # What the reference network computes after the last layer that is read is never used.
    unread = "reference_unet.unet.up_blocks.3.attentions.1."
    assert without == {name for name in trained if stage == 1 and _unread(name, unread)}


def _unread(name: str, last: str) -> bool:
    used = (f"{last}norm.", f"{last}proj_in.", f"{last}transformer_blocks.0.norm1.")
    return name.startswith(last) and not name.startswith(used)


def test_scales_masks_motion_frames_and_switches_matter(nano: HalloNets) -> None:
    tokens, call = nano_call(nano.requires_grad_(False), 2, 2, 2)
    assert call.bank is not None
    assert call.masks is not None
    latents = torch.randn(2, 4, 2, 8, 8)

    def drawn(told: HalloCall) -> Tensor:
        return nano.denoising_unet(latents, 500, tokens, told)

    base = drawn(call)
    assert torch.equal(base, drawn(call))
    silent = {layer: x[:, :1] for layer, x in call.bank.items()}
    for changed in (
        replace(call, scales=Scales(lip=0)),
        replace(call, masks=None),
        replace(call, locator=None),
        replace(call, bank=silent),
        replace(call, reference_levels=(3,)),
        replace(call, order="parity"),
        replace(call, motion_norm="pooled"),
        replace(call, dead_modules=True),
        replace(call, unconditional=1),
    ):
        assert (drawn(changed) - base).abs().max() > 1e-5
    alone = drawn(replace(call, pattern=parse_pattern("individual")))
    torch.testing.assert_close(alone, drawn(replace(call, reference_levels=())))
    with pytest.raises(ValueError, match="latents of 2 frames in a call of 3"):
        drawn(replace(call, frames=3))


def test_half_precision_takes_masks_as_they_are_made_of_any_shape(nano: HalloNets) -> None:
    nets = nano.requires_grad_(False).to(torch.bfloat16)
    half = torch.bfloat16
    tokens = nets.image_proj(torch.randn(1, 16, dtype=half))
    bank = nets.reference_unet(torch.randn(1, 3, 4, 8, 16, dtype=half), tokens)
    audio = nets.audio_proj(torch.randn(1, 2, 5, 1, 8, dtype=half))
    masks = tuple(torch.rand(1, 1, 3, s, 2 * s) for s in (8, 4, 2, 1))
    call = HalloCall(2, bank, audio=audio, masks=masks)
    latents = torch.randn(1, 4, 2, 8, 16, dtype=half)
    out = nets.denoising_unet(latents, 500, tokens, call)
    assert (out.dtype, out.shape) == (half, latents.shape)
    assert out.isfinite().all()


def test_clips_of_a_batch_do_not_see_each_other_in_the_fixed_order(nano: HalloNets) -> None:
    tokens, call = nano_call(nano.requires_grad_(False), 2, 2, 2)
    assert call.bank is not None
    assert call.audio is not None
    assert call.masks is not None
    assert call.locator is not None
    latents = torch.randn(2, 4, 2, 8, 8)
    both = nano.denoising_unet(latents, 500, tokens, call)
    for i in (slice(0, 1), slice(1, 2)):
        one = replace(
            call,
            bank={layer: x[i] for layer, x in call.bank.items()},
            audio=call.audio[i],
            masks=tuple(mask[i] for mask in call.masks),
            locator=call.locator[i],
        )
        alone = nano.denoising_unet(latents[i], 500, tokens[i], one)
        torch.testing.assert_close(both[i], alone, atol=1e-4, rtol=1e-4)
