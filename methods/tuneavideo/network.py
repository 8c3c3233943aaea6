"""Tune-A-Video's network: a plain diffusers UNet that also attends over time, for a `with` block.

A tuned network is the backbone's UNet and a mapping of tensors by their released names. A name is
`<block>.<leaf>`, the block as in `UNet2DConditionModel.state_dict()`, for example
`down_blocks.0.attentions.0.transformer_blocks.0`; the leaves of each block are

    attn1.to_q.weight, attn2.to_q.weight                          stand in for the UNet's own
    attn_temp.{to_q,to_k,to_v,to_out.0}.weight, attn_temp.to_out.0.bias     added, last in the block
    norm_temp.weight, norm_temp.bias                              added, before attn_temp

Any other parameter of the UNet may be in the mapping too, and stands in for the UNet's own.
`initial_tensors` makes a mapping before tuning, `tuning.tune` a tuned one, and `inflate_tuned` runs
either; while it lasts, `unet.state_dict()` has all of these keys beside the UNet's own:

    with inflate_tuned(unet, plan, tensors) as inflated:
        with inflated.frames(f, timestep=t):
            noise = unet(latents, t, text).sample          # latents (b f, 4, h, w), b outer

Nothing is written to the UNet's own parameters: others take their places, and leave them again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods.attention import unfold_frames
from methods.inflation import FrameAttentionPlan, InflatedNet, inflate

TEMPORAL_LEAVES = (
    "attn_temp.to_q.weight",
    "attn_temp.to_k.weight",
    "attn_temp.to_v.weight",
    "attn_temp.to_out.0.weight",
    "attn_temp.to_out.0.bias",
    "norm_temp.weight",
    "norm_temp.bias",
)
_LAST_LAYER = ("attn_temp.to_out.0.weight", "attn_temp.to_out.0.bias")
# Rows of one call of the temporal attention; CUDA kernels take at most 65,535.
_ROWS = 32_768
_BLOCK = re.compile(r"(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\..*transformer_blocks\.\d+$")
_QUERIES = ("attn1.to_q.", "attn2.to_q.")
_EVERYWHERE = ("down_blocks.", "mid_block.", "up_blocks.")
# set -> (parts of the network, what is tuned in each block)
_TRAINED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "all": (_EVERYWHERE, (*_QUERIES, "attn_temp.")),
    "mid_up": (("mid_block.", "up_blocks."), (*_QUERIES, "attn_temp.")),
    "attention": (_EVERYWHERE, _QUERIES),
    "temporal": (_EVERYWHERE, ("attn_temp.",)),
}


def blocks_of(unet: nn.Module) -> dict[str, Any]:
    """Return the transformer blocks of a UNet by name: 16 in Stable Diffusion 1.x."""
    return {name: block for name, block in unet.named_modules() if _BLOCK.fullmatch(name)}


def is_temporal(name: str) -> bool:
    """Tell whether a tensor is one of those that Tune-A-Video adds to the UNet."""
    return name.endswith(TEMPORAL_LEAVES)


def initial_tensors(unet: nn.Module, init: str, seed: int) -> dict[str, Tensor]:
    """Return the added tensors before tuning, float32 on the CPU: seven for each block.

    init: `released` zeroes the weight of `to_out` but not its bias, which stays uniform in
        +-1/sqrt(c) as torch draws it, so that the inflated network is not the image network;
        `identity` zeroes the bias too.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, block in blocks_of(unet).items():
        drawn = _initial_block(block.attn1.inner_dim, generator)
        if init == "identity":
            drawn["attn_temp.to_out.0.bias"].zero_()
        tensors |= {f"{name}.{leaf}": tensor for leaf, tensor in drawn.items()}
    return tensors


def trainable_names(names: Iterable[str], which: str) -> tuple[str, ...]:
    """Return those of a network's parameter names that a set of `tuning.train` tunes.

    which: `all` (112 of the 798 tensors of Stable Diffusion 1.x), `mid_up` (70 of them: what the
        released code really tuned, because reentrant checkpointing cuts the down blocks off),
        `attention` or `temporal`; `lora` adapts the matrices of `all`. `norm_temp` is in none.
    """
    if which == "lora":
        return tuple(n for n in trainable_names(names, "all") if n.endswith(".weight"))
    parts, leaves = _TRAINED[which]
    return tuple(
        name
        for name in names
        if name.startswith(parts) and any(f".{leaf}" in name for leaf in leaves)
    )


def at_full_weight(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return tensors that do at `alpha` = 1 what `tensors` do at this `alpha` in `inflate_tuned`.

    What temporal attention adds is linear in the weight and the bias of its last layer, so that
    only rounding differs, and nothing where `alpha` is a power of two.
    """
    return {
        name: tensor * alpha if name.endswith(_LAST_LAYER) else tensor
        for name, tensor in tensors.items()
    }


@contextmanager
def inflate_tuned(
    unet: nn.Module, plan: FrameAttentionPlan, tensors: Mapping[str, Tensor], alpha: float = 1.0
) -> Iterator[InflatedNet]:
    """Inflate a UNet by `plan` and give it the tensors of a tuned network; undone on leaving.

    tensors: see the head of this module; cast to the UNet's dtype and device.
    alpha: weight of the temporal attention in the residual stream. 0 leaves it out, and tensors
        that belong to it are not used.

    Raises ValueError for tensors that do not fit, and as `inflate` does.
    """
    with ExitStack() as undo:
        inflated = undo.enter_context(inflate(unet, plan))
        if alpha > 0:
            for name, block in blocks_of(unet).items():
                _add_temporal(undo, inflated, block, _leaves(tensors, name), alpha)
        own = {name: tensor for name, tensor in tensors.items() if not is_temporal(name)}
        undo.enter_context(standing_in(unet, own))
        yield inflated


@contextmanager
def standing_in(net: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let tensors take the places of a network's parameters of the same names, for a block.

    A `Parameter` stands in as it is, in its own dtype, so that it can be trained; any other tensor
    is cast to what it replaces. Raises ValueError for an unknown name or another shape.
    """
    with ExitStack() as undo:
        for name, tensor in tensors.items():
            owner, leaf = _owner(net, name)
            own = getattr(owner, leaf)
            if own.shape != tensor.shape:
                raise ValueError(f"{name}: {tuple(tensor.shape)} instead of {tuple(own.shape)}")
            undo.callback(setattr, owner, leaf, own)
            setattr(
                owner, leaf, tensor if isinstance(tensor, nn.Parameter) else _frozen(tensor, own)
            )
        yield


def _initial_block(c: int, generator: torch.Generator) -> dict[str, Tensor]:
    bound = c**-0.5

    def uniform(*shape: int) -> Tensor:
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)

    values = [uniform(c, c) for _ in range(3)]
    values += [torch.zeros(c, c), uniform(c), torch.ones(c), torch.zeros(c)]
    return dict(zip(TEMPORAL_LEAVES, values, strict=True))


def _leaves(tensors: Mapping[str, Tensor], block: str) -> dict[str, Tensor]:
    missing = [leaf for leaf in TEMPORAL_LEAVES if f"{block}.{leaf}" not in tensors]
    if missing:
        raise ValueError(f"{block} lacks {', '.join(missing)}")
    return {leaf: tensors[f"{block}.{leaf}"] for leaf in TEMPORAL_LEAVES}


def _add_temporal(
    undo: ExitStack, inflated: InflatedNet, block: Any, leaves: Mapping[str, Tensor], alpha: float
) -> None:
    """Add `attn_temp` and `norm_temp` to a block, and a hook that runs them after all else."""
    from diffusers.models.attention_processor import Attention

    c, like = block.attn1.inner_dim, block.attn1.to_q.weight
    with torch.device("meta"):
        heads = block.attn1.heads
        added = {
            "attn_temp": Attention(c, heads=heads, dim_head=c // heads),
            "norm_temp": nn.LayerNorm(c),
        }
    for name, module in added.items():
        own = {
            leaf.removeprefix(f"{name}."): tensor.to(like.device, like.dtype)
            for leaf, tensor in leaves.items()
            if leaf.startswith(name)
        }
        try:
            module.load_state_dict(own, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{name} does not fit a block of {c} channels") from error
        undo.callback(block._modules.pop, name)
        block.add_module(name, module.requires_grad_(False).train(block.training))

    def attend(block: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
        return out + alpha * _over_frames(block, out, inflated.call.frames)

    undo.callback(block.register_forward_hook(attend).remove)


def _over_frames(block: Any, x: Tensor, frames: int) -> Tensor:
    """Self-attention of every token position over the frames; (b f, d, c) in and out."""
    x_bdfc = unfold_frames(block.norm_temp(x), frames).transpose(1, 2)
    rows = x_bdfc.flatten(0, 1).split(_ROWS)
    mixed = torch.cat([block.attn_temp(part) for part in rows])
    return mixed.unflatten(0, x_bdfc.shape[:2]).transpose(1, 2).flatten(0, 1)


def _owner(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        net.get_parameter(name)
    except AttributeError:
        raise ValueError(f"the network has no parameter {name}") from None
    return net.get_submodule(path), leaf


def _frozen(tensor: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.to(like.device, like.dtype), requires_grad=False)
