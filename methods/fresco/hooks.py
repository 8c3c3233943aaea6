"""What enters the up blocks of a UNet, optimised and smoothed on the way.

Shapes: inputs (b n, c, h, w), guidance halves b outermost, n frames.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from methods.fresco.correspondence import Flows
from methods.fresco.optimise import Consistency, optimise
from methods.fresco.options import Losses
from methods.fresco.smoothing import smooth_background

Edit = Callable[[Tensor], Tensor]


@contextmanager
def optimised_inputs(
    unet: nn.Module,
    flows: Flows,
    losses: Losses,
    references: Mapping[int, Tensor],
    background: Tensor | None = None,
) -> Iterator[None]:
    """Optimise what enters the up blocks `losses.layers` during calls of `unet` in the block.

    Calls at timesteps outside of `losses.timesteps` are left alone, and all are when no term is
    active and nothing is smoothed.

    Args:
        flows: of n cyclic pairs, at the size of the frames, on any device.
        references: by layer, what entered it in the single step near t = 1, (b n, c, h, w);
            needed when the spatial term is on. A call with the conditional half alone uses the
            last rows.
        background: (n, 1, any h, any w), to be smoothed after each optimisation; None: not.
    """
    timestep: list[float] = []
    prepared: dict[tuple[int, int], Consistency] = {}
    signature = inspect.signature(unet.forward)

    def note(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = signature.bind_partial(*args, **kwargs).arguments
        timestep[:] = [float(arguments["timestep"])]

    def consistency(layer: int, hidden: Tensor) -> Consistency:
        """What features of a layer are held against, prepared once by size."""
        key = (layer, len(hidden))
        if key not in prepared:
            reference = references[layer][-len(hidden) :] if losses.spatial else None
            level = flows.to(hidden.device).at(*hidden.shape[-2:])
            prepared[key] = Consistency.build(losses, level, reference)
        return prepared[key]

    def edit(layer: int, hidden: Tensor) -> Tensor:
        """Features (b f, c, h, w) as they go on, at the timestep that runs."""
        if not _is_active(losses, timestep[0]):
            return hidden
        if losses.active:
            hidden = optimise(hidden, consistency(layer, hidden))
        if background is None:
            return hidden
        return smooth_background(hidden, flows.to(hidden.device), background.to(hidden.device))

    with ExitStack() as undo:
        undo.callback(unet.register_forward_pre_hook(note, with_kwargs=True).remove)
        places = ((up_block(unet, layer), partial(edit, layer)) for layer in losses.layers)
        undo.enter_context(edited_inputs(places))
        yield


def up_block(unet: nn.Module, layer: int) -> nn.Module:
    """Return the up block of that number, 0 = deepest; AttributeError where there is none."""
    return unet.get_submodule(f"up_blocks.{layer}")


def _is_active(losses: Losses, timestep: float) -> bool:
    return losses.timesteps is None or losses.timesteps[0] <= timestep <= losses.timesteps[1]


@contextmanager
def edited_inputs(edits: Iterable[tuple[nn.Module, Edit]]) -> Iterator[None]:
    """Pass the hidden states that enter each of the modules through its edit, inside the block."""
    with ExitStack() as undo:
        for module, edit in edits:
            hook = partial(_replace_hidden, edit=edit)
            undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _replace_hidden(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    edit: Edit,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "hidden_states" in kwargs:
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}
    return (edit(args[0]), *args[1:]), kwargs
