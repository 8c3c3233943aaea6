"""Results of layers taken again in later steps, through a hook of diffusers.

What Pyramid Attention Broadcast does (arXiv 2408.12588), for a network that diffusers' own hook of
it does not fit: that one compares timesteps with a range that 0.25 ln sigma never meets, takes
temporal for spatial attention by its name patterns, counts calls in place of steps, and keeps its
states beyond a sample. Here the step is told, layers are chosen by exact names, and each window and
each batch shape has a result of its own, which a `with` block outlives by nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from crossframe.errors import Problem, UserError
from methods.svd.layers import choose_layers, depth_of, place_of
from methods.svd.options import Reuse, Where, within
from methods.svd.temporal import SPATIAL, TEMPORAL

_HOOK = "crossframe_reuse"
_CROSS = re.compile(r"transformer_blocks\.\d+\.attn2$")
_BLOCK = re.compile(r"^(down_blocks\.\d+|mid_block|up_blocks\.\d+)$")


class Clock:
    """Where the run is: told by the sampler, read by every layer that keeps results."""

    def __init__(self, options: Reuse) -> None:
        self._share = options.steps
        self._step: int | None = None
        self.part = 0
        self.takes_again = False

    def at(self, step: int, steps: int, part: int = 0) -> None:
        """Announce the next call of the UNet.

        step: 0 .. steps-1. part: which of several calls in this step, say the window's number.
        """
        self._step, self.part = step, part
        self.takes_again = within(self._share, step, steps)

    @property
    def step(self) -> int:
        """The step that was announced; RuntimeError before the first."""
        if self._step is None:
            raise RuntimeError("a UNet that keeps results was called before Clock.at(step, steps)")
        return self._step


class ReuseHook(ModelHook):
    """Computes a layer in every n-th step; keeps one result per part of a step and batch shape.

    A result is taken again while it is less than n steps old, so one from before a change of the
    batch (guidance that ends and begins again) is not.
    """

    def __init__(self, clock: Clock, every: int) -> None:
        super().__init__()
        self._clock, self._every = clock, every
        self._kept: dict[tuple[int, torch.Size], tuple[int, Any]] = {}

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, or return what it returned before."""
        x: Tensor = args[0] if args else kwargs["hidden_states"]
        key, now = (self._clock.part, x.shape), self._clock.step
        since, made = self._kept.get(key, (now - self._every, None))
        if self._clock.takes_again and now - since < self._every:
            return made
        made = self.fn_ref.original_forward(*args, **kwargs)
        self._kept[key] = (now, made)
        return made


class ConstantAttentionProcessor:
    """Cross-attention to one token: the softmax of one score is 1, so queries make no difference.

    Replaces `AttnProcessor2_0` on `attn2`; nothing is kept between calls.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention of hidden_states (b, d, c) to encoder_hidden_states (b, 1, n); (b, d, c).

        Raises ValueError for anything but one token without a mask.
        """
        if encoder_hidden_states is None or encoder_hidden_states.shape[1] != 1:
            raise ValueError("only cross-attention to a single token is a constant")
        if attention_mask is not None:
            raise ValueError("a single token cannot be masked")
        out: Tensor = attn.to_out[1](attn.to_out[0](attn.to_v(encoder_hidden_states)))
        return out.expand(-1, hidden_states.shape[1], -1)


@contextmanager
def cached(unet: nn.Module, options: Reuse) -> Iterator[Clock]:
    """Let a `UNetSpatioTemporalConditionModel` keep results, for one sample's `with` block.

    `clock.at(step, steps, part)` belongs before each call of the UNet where anything is kept over
    steps. On leaving, also by an exception, results and hooks are gone. What frame attention
    computes is kept as any other result.

    Raises UserError when the UNet has no blocks below the outermost, for `deep`.
    """
    clock = Clock(options)
    with ExitStack() as undo:
        for module, every in _kept(unet, options):
            _hook(module, ReuseHook(clock, every), undo)
        if options.cross:
            for attn in _named(unet, _CROSS, "cross"):
                undo.callback(attn.set_processor, attn.processor)
                attn.set_processor(ConstantAttentionProcessor())
        yield clock


def _kept(unet: nn.Module, options: Reuse) -> list[tuple[nn.Module, int]]:
    """Modules whose results are kept, with the distance in steps."""
    kept: list[tuple[nn.Module, int]] = []
    if options.spatial > 1:
        kept += [(attn, options.spatial) for attn in _named(unet, SPATIAL, "spatial")]
    if options.temporal > 1:
        kept += [(attn, options.temporal) for attn in _named(unet, TEMPORAL, "temporal")]
    if options.deep > 1:
        kept += [(block, options.deep) for block in _deep_blocks(unet)]
    return kept


def _named(unet: nn.Module, name: re.Pattern[str], option: str) -> list[Any]:
    return list(choose_layers(unet, Where(), name, f"cache.{option}").values())


def _deep_blocks(unet: nn.Module) -> list[nn.Module]:
    """All blocks but the first on the way down and the last on the way up."""
    depth = depth_of(unet)
    places = {
        name: place_of(f"{name}.", depth) for name, _ in unet.named_modules() if _BLOCK.match(name)
    }
    inner = [name for name, place in places.items() if place is not None and place.level > 0]
    if not inner:
        what = "a UNet of one level has no blocks below the outermost"
        raise UserError(Problem("cache.deep", what, "1"))
    return [unet.get_submodule(name) for name in inner]


def _hook(module: nn.Module, hook: ReuseHook, undo: ExitStack) -> None:
    """Register a hook and schedule its removal, down to the attributes that diffusers leaves."""
    added = {"forward", "_diffusers_hook"} - set(module.__dict__)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(hook, _HOOK)

    def remove() -> None:
        registry.remove_hook(_HOOK, recurse=False)
        for name in added:
            module.__dict__.pop(name, None)

    undo.callback(remove)
