"""Inflation: a plain diffusers UNet or ControlNet that sees a clip instead of single images.

No weight is added, copied or renamed. Frames are folded into the batch, (b f) with b outer. For the
length of a `with inflate(net, plan) as inflated` block the chosen self-attention layers get a
`FrameAttentionProcessor` and ResNet group norms may pool over frames; then all is put back.
The frame count belongs to a call, not to the network:

    with inflate(unet, plan) as inflated:
        with inflated.frames(f, timestep=t):
            noise = unet(latents, t, text).sample        # latents (b f, 4, h, w)

A backward pass with gradient checkpointing recomputes the forward pass, so it belongs inside the
`frames` block too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crossframe.errors import Problem, UserError
from methods.attention import (
    CallSlot,
    FrameAttentionProcessor,
    FrameCall,
    KeyValue,
    TokenGuide,
    unfold_frames,
)
from methods.patterns import INDIVIDUAL, Pattern
from methods.text_attention import TextAttentionProcessor, select_text_attentions

_BLOCKS = ("down", "mid", "up")
_SELF_ATTENTION = re.compile(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?.*\battn1$")
_POOLED_NORM = re.compile(r"(.*\.resnets\.\d+\.norm[12]|conv_norm_out)$")


@dataclass(frozen=True)
class FrameAttentionPlan:
    """What is installed into a network.

    Attributes:
        pattern: which frames feed which.
        alpha: 0..1, weight of the cross-frame result against the frame's own self-attention.
        levels: spatial levels that take part; 0 is the full latent resolution, the middle block
            belongs to the deepest. None means all.
        blocks: any of "down", "mid", "up".
        timesteps: (lo, hi), inclusive; outside of it every frame attends to itself. None: always.
        group_norm: "pooled" takes the statistics of ResNet and output norms over all frames of a
            clip, as the released code of ControlVideo and Tune-A-Video does on 5-D tensors;
            "per_frame" is plain diffusers. Norms of the spatial transformers are per frame in both.
        residuals_in_place: UNet only: the last ControlNet down residual also enters the middle
            block. diffusers up to 0.14 added residuals in place and the last skip tensor was the
            middle block's input; diffusers pull request 3234 ended that.
        text_once: text may be given per guidance row, (b, n, c), and its keys and values are
            projected once for as long as the same tensor is given: for sampling, where weights
            stay as they are. Results differ by rounding only.

    Raises UserError for values outside of these.
    """

    pattern: Pattern
    alpha: float = 1.0
    levels: tuple[int, ...] | None = None
    blocks: tuple[str, ...] = _BLOCKS
    timesteps: tuple[int, int] | None = None
    group_norm: Literal["pooled", "per_frame"] = "per_frame"
    residuals_in_place: bool = False
    text_once: bool = False

    def __post_init__(self) -> None:
        checks = [
            (0 <= self.alpha <= 1, "alpha", self.alpha, "0..1"),
            (set(self.blocks) <= set(_BLOCKS), "blocks", self.blocks, ", ".join(_BLOCKS)),
            (
                self.timesteps is None or self.timesteps[0] <= self.timesteps[1],
                "timesteps",
                self.timesteps,
                "[lowest, highest]",
            ),
            (
                self.group_norm in ("pooled", "per_frame"),
                "group_norm",
                self.group_norm,
                "pooled, per_frame",
            ),
        ]
        problems = [
            Problem(f"attention plan: {name}", f"{value!r} is not possible", allowed)
            for possible, name, value, allowed in checks
            if not possible
        ]
        if problems:
            raise UserError(problems)


class InflatedNet:
    """Handle of an inflated network, made by `inflate`; `net` is the diffusers model itself."""

    def __init__(self, net: nn.Module, plan: FrameAttentionPlan) -> None:
        self.net = net
        self.plan = plan
        self._slot = CallSlot()
        self._attentions = _select_attentions(net, plan)
        self._processors = {
            name: FrameAttentionProcessor(self._slot, name) for name in self._attentions
        }
        self._texts = select_text_attentions(net) if plan.text_once else {}
        self._text_processors = {
            name: TextAttentionProcessor(self._slot, name) for name in self._texts
        }
        self._norms = _select_norms(net) if plan.group_norm == "pooled" else {}
        self._signature = inspect.signature(net.forward)
        self._hooks: dict[str, list[RemovableHandle]] = {}
        self._last_residual: Tensor | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the self-attention layers that take part: the keys of a reference bank."""
        return tuple(self._attentions)

    def level(self, layer: str) -> int:
        """Return the spatial level of one of `layers`, 0 = full latent resolution."""
        match = _SELF_ATTENTION.match(layer)
        if match is None or layer not in self._attentions:
            raise ValueError(f"{layer} is not a layer that takes part")
        depth = len(list(self.net.get_submodule("down_blocks").children()))
        return _level(match[1], match[2], depth)

    def text_of(self, text: Tensor, f: int) -> Tensor:
        """Return a text per guidance row, (b, n, c), as the network takes it for `f` frames.

        The same tensor where text is projected once per row, otherwise repeated, (b f, n, c).
        """
        return text if self._texts else text.repeat_interleave(f, dim=0)

    @property
    def call(self) -> FrameCall:
        """The current call, for modules added to the network; RuntimeError outside of `frames`."""
        return self._slot.read()

    @contextmanager
    def frames(
        self,
        f: int,
        *,
        timestep: int | float | Tensor | None = None,
        bank: Mapping[str, Tensor | KeyValue] | None = None,
        pattern: Pattern | None = None,
        guides: Mapping[str, TokenGuide] | None = None,
        record: dict[str, KeyValue] | None = None,
    ) -> Iterator[None]:
        """Calls of the network inside the block see batches of (b f) with `f` frames.

        Args:
            f: frames per guidance row, at least 1.
            timestep: diffusion timestep of the calls; needed when the plan limits timesteps.
            bank: for patterns with `reference`: per layer of `layers`, hidden states (b, n, c), or
                keys and values of an earlier call, (b, n, h, e).
            pattern: replaces the plan's pattern for these calls (key pass and clip passes of
                hierarchical sampling differ).
            guides: per layer of `layers`, what it does beyond attending to whole frames; layers
                that are not named do nothing more. Where the plan's timesteps exclude a call,
                its guides are idle too.
            record: receives, per layer of `layers`, the keys and values of all `f` frames,
                (b, f, d, h, e): what a later call's bank can be made of.

        Raises:
            UserError: when the pattern names key frames that a clip of `f` frames lacks.
            ValueError: when the timestep or the bank is missing, or a bank is not asked for.
        """
        before = self._slot.current
        if record is not None and guides:
            raise ValueError("layers with guides record nothing")
        call = self._make_call(f, timestep, bank, pattern or self.plan.pattern, guides or {})
        self._slot.current = replace(call, record=record)
        try:
            yield
        finally:
            self._slot.current = before

    def _make_call(
        self,
        f: int,
        timestep: int | float | Tensor | None,
        bank: Mapping[str, Tensor | KeyValue] | None,
        pattern: Pattern,
        guides: Mapping[str, TokenGuide],
    ) -> FrameCall:
        table = pattern.table(f)
        missing = set(self.layers) - set(bank or {}) if pattern.needs_bank else set()
        if missing:
            raise ValueError(f"pattern {pattern} needs a bank for {sorted(missing)}")
        if bank and not pattern.needs_bank:
            raise ValueError(f"pattern {pattern} takes no bank; add `reference` to it")
        if unknown := set(guides) - set(self.layers):
            raise ValueError(f"guides for {sorted(unknown)}, which do not take part")
        if not self._is_active(timestep):
            return FrameCall(f, INDIVIDUAL.table(f))
        return FrameCall(f, table, self.plan.alpha, bank or {}, guides)

    def _is_active(self, timestep: int | float | Tensor | None) -> bool:
        if self.plan.timesteps is None:
            return True
        if timestep is None:
            raise ValueError("the plan limits timesteps: call frames(f, timestep=...)")
        lowest, highest = self.plan.timesteps
        return lowest <= float(timestep) <= highest

    def _install(self, undo: ExitStack) -> None:
        for name, attn in self._attentions.items():
            undo.callback(attn.set_processor, attn.processor)
            attn.set_processor(self._processors[name])
        for name, attn in self._texts.items():
            undo.callback(attn.set_processor, attn.processor)
            undo.callback(self._text_processors[name].forget)
            attn.set_processor(self._text_processors[name])
        for name, norm in self._norms.items():
            self._hooks[name] = [
                norm.register_forward_pre_hook(self._pool),
                norm.register_forward_hook(self._unpool),
            ]
            for hook in self._hooks[name]:
                undo.callback(hook.remove)
        undo.callback(self.net.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        if self.plan.residuals_in_place:
            middle = _middle_block(self.net)
            undo.callback(middle.register_forward_pre_hook(self._add_last_residual).remove)

    def _before(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Runs before every call of the network: the call is announced and nothing was replaced."""
        call = self._slot.read()
        self._assert_installed()
        arguments = self._signature.bind_partial(*args, **kwargs).arguments
        unfold_frames(arguments["sample"], call.frames)
        residuals = arguments.get("down_block_additional_residuals")
        with_controlnet = arguments.get("mid_block_additional_residual") is not None
        self._last_residual = residuals[-1] if residuals and with_controlnet else None

    def _assert_installed(self) -> None:
        for name, attn in self._attentions.items():
            found = self.net.get_submodule(name)
            processor = getattr(found, "processor", None)
            if found is not attn or processor is not self._processors[name]:
                raise RuntimeError(
                    f"{name}: the frame-attention processor was replaced by "
                    f"{type(processor).__name__}, so frames would no longer see each other; "
                    "attention slicing and xformers cannot be enabled on an inflated network"
                )
        for name, attn in self._texts.items():
            if attn.processor is not self._text_processors[name]:
                raise RuntimeError(
                    f"{name}: the text-attention processor was replaced by "
                    f"{type(attn.processor).__name__}"
                )
        for name, norm in self._norms.items():
            if self.net.get_submodule(name) is not norm or not _attached(self._hooks[name]):
                raise RuntimeError(f"{name}: the pooled group norm was replaced")

    def _pool(self, norm: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        """(b f, c, h, w) -> (b, c, f h, w): one set of statistics for all frames of a clip."""
        return unfold_frames(args[0], self._slot.read().frames).transpose(1, 2).flatten(2, 3)

    def _unpool(self, norm: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """(b, c, f h, w) -> (b f, c, h, w)."""
        f = self._slot.read().frames
        return out.unflatten(2, (f, -1)).transpose(1, 2).flatten(0, 1)

    def _add_last_residual(self, middle: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        residual, self._last_residual = self._last_residual, None
        return args if residual is None else (args[0] + residual, *args[1:])


@contextmanager
def inflate(net: nn.Module, plan: FrameAttentionPlan) -> Iterator[InflatedNet]:
    """Install `plan` into a diffusers UNet2DConditionModel or ControlNetModel for a `with` block.

    Several networks may be inflated at once, each with its own plan; one network only once.
    On leaving, also by an exception, the network has its own processors and no hooks again.

    Raises:
        UserError: when the network lacks the plan's levels, or has no self-attention there.
        RuntimeError: when the network is already inflated.
        ValueError: when a layer is no plain self-attention, or for `residuals_in_place` on a
            ControlNet.
    """
    inflated = InflatedNet(net, plan)
    with ExitStack() as undo:
        inflated._install(undo)
        yield inflated


def _select_attentions(net: nn.Module, plan: FrameAttentionPlan) -> dict[str, Any]:
    depth = len(list(net.get_submodule("down_blocks").children()))
    _check_levels(plan.levels, depth)
    selected = {}
    for name, module in net.named_modules():
        match = _SELF_ATTENTION.match(name)
        if match is None:
            continue
        _check_attention(name, module)
        block, level = match[1], _level(match[1], match[2], depth)
        if block in plan.blocks and (plan.levels is None or level in plan.levels):
            selected[name] = module
    if not selected:
        where = f"levels {plan.levels}, blocks {plan.blocks}"
        raise UserError(Problem("attention plan", f"{where}: no self-attention layer is there"))
    return selected


def _level(block: str, index: str | None, depth: int) -> int:
    """Spatial level of a block: 0 has the full latent resolution, each next one halves it."""
    return {"down": int(index or 0), "mid": depth - 1, "up": depth - 1 - int(index or 0)}[block]


def _check_levels(levels: tuple[int, ...] | None, depth: int) -> None:
    outside = [level for level in levels or () if not 0 <= level < depth]
    if outside:
        raise UserError(
            Problem(
                "attention plan: levels",
                f"the network has no level {', '.join(map(str, outside))}",
                f"0..{depth - 1}, 0 = full latent resolution",
            )
        )


def _check_attention(name: str, attn: Any) -> None:
    if isinstance(attn.processor, FrameAttentionProcessor):
        raise RuntimeError(f"{name}: the network is already inflated; leave that block first")
    plain = not attn.is_cross_attention and attn.added_kv_proj_dim is None
    extras = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k)
    if not plain or any(extra is not None for extra in extras) or attn.residual_connection:
        raise ValueError(f"{name}: only plain self-attention layers can be inflated")


def _attached(hooks: list[RemovableHandle]) -> bool:
    return all(hook.id in (hook.hooks_dict_ref() or {}) for hook in hooks)


def _select_norms(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if _POOLED_NORM.match(name)}


def _middle_block(net: nn.Module) -> nn.Module:
    if "down_block_additional_residuals" not in inspect.signature(net.forward).parameters:
        raise ValueError("residuals_in_place: only a UNet receives ControlNet residuals")
    return net.get_submodule("mid_block")
