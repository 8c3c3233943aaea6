"""Results of layers taken again in later steps, through diffusers' attention-broadcast hook.

Three traps of that hook in this network, and what is done here: its states outlive a sample, as
this UNet has nothing that resets them (here a `with` block has its own); it compares timesteps with
a range that 0.25 ln sigma never meets (here the part of the run decides); and its name patterns
take temporal for spatial attention (here layers are chosen by exact names). It also counts calls,
not steps; here each window and each batch size has its own results, and the step is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers.hooks import HookRegistry
from diffusers.hooks.pyramid_attention_broadcast import (
    PyramidAttentionBroadcastHook,
    PyramidAttentionBroadcastState,
)
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
        self._told = False
        self.step = 0
        self.part = 0
        self.takes_again = False

    def at(self, step: int, steps: int, part: int = 0) -> None:
        """Announce the next call of the UNet.

        step: 0 .. steps-1. part: which of several calls in this step, say the window's number.
        """
        self.step, self.part, self._told = step, part, True
        self.takes_again = within(self._share, step, steps)

    def read(self) -> int:
        """1 where results may be taken again, else 0; RuntimeError before the first `at`."""
        if not self._told:
            raise RuntimeError("a UNet that keeps results was called before Clock.at(step, steps)")
        return int(self.takes_again)


class ReuseHook(PyramidAttentionBroadcastHook):
    """Computes a layer in every n-th step; keeps one result per part of a step and batch shape."""

    def __init__(self, clock: Clock, every: int) -> None:
        # The hook compares a timestep with a range, ends excluded: 1 lies in it and 0 does not.
        super().__init__((0, 2), every, clock.read)
        self._clock = clock
        self._states: dict[Any, PyramidAttentionBroadcastState] = {}

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, or return what it returned before."""
        x: Tensor = args[0] if args else kwargs["hidden_states"]
        key = (self._clock.part, x.shape)
        self.state = self._states.setdefault(key, PyramidAttentionBroadcastState())
        self.state.iteration = self._clock.step
        return super().new_forward(module, *args, **kwargs)

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Forget all results."""
        self._states.clear()
        return module


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
            for attn in _named(unet, _CROSS, "cross-attention"):
                undo.callback(attn.set_processor, attn.processor)
                attn.set_processor(ConstantAttentionProcessor())
        yield clock


def _kept(unet: nn.Module, options: Reuse) -> list[tuple[nn.Module, int]]:
    """Modules whose results are kept, with the distance in steps."""
    kept: list[tuple[nn.Module, int]] = []
    if options.spatial > 1:
        kept += [(attn, options.spatial) for attn in _named(unet, SPATIAL, "spatial attention")]
    if options.temporal > 1:
        kept += [(attn, options.temporal) for attn in _named(unet, TEMPORAL, "temporal attention")]
    if options.deep > 1:
        kept += [(block, options.deep) for block in _deep_blocks(unet)]
    return kept


def _named(unet: nn.Module, name: re.Pattern[str], what: str) -> list[Any]:
    return list(choose_layers(unet, Where(), name, f"reuse of {what}").values())


def _deep_blocks(unet: nn.Module) -> list[nn.Module]:
    """All blocks but the first on the way down and the last on the way up."""
    depth = depth_of(unet)
    places = {
        name: place_of(f"{name}.", depth) for name, _ in unet.named_modules() if _BLOCK.match(name)
    }
    inner = [name for name, place in places.items() if place is not None and place.level > 0]
    if not inner:
        what = "a UNet of one level has no blocks below the outermost"
        raise UserError(Problem("reuse: deep", what, "1"))
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
