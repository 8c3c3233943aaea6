"""LoRA (Hu et al., arXiv 2106.09685): low-rank changes added to the weights of loaded networks.

W' = W + scale (alpha / r) B A, with A (r, in) and B (out, r); for convolutions A carries the kernel
and B is 1x1. The networks stay plain modules, so attention is inflated as ever, and nothing is
slower. Files of diffusers (old and new names), of peft and of kohya's scripts are read: a tensor is
matched to the module whose dotted name it spells, with dots or with underscores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from crossframe.checkpoints import SAFETENSORS
from crossframe.errors import Problem, UserError, did_you_mean
from methods.single_file import State, read_state

# What a file's names begin with, by the network that they speak of; the first that fits counts.
_NETWORKS: Mapping[str, tuple[str, ...]] = {
    "unet": ("base_model_model_unet_", "lora_unet_", "unet_"),
    "text_encoder": ("lora_te1_", "lora_te_", "text_encoder_"),
}
_ROLES = {
    "down": "down", "linear_layer_down": "down", "A": "down", "A_default": "down",
    "up": "up", "linear_layer_up": "up", "B": "up", "B_default": "up",
}  # fmt: skip
_TAIL = re.compile(
    r"[._]lora[._]((?:linear_layer[._])?(?:down|up)|[AB](?:[._]default)?)[._]weight$"
)
# Settings of peft that change more than the weight of a pair.
_UNREAD = ("alpha_pattern", "use_dora", "use_rslora")
_ALPHA = re.compile(r"[._]alpha$")


@dataclass
class Change:
    """The change to one module. down: (r, in, ...). up: (out, r, ...). alpha: r where not given."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: Tensor | None = None

    def delta(self) -> Tensor:
        """Return (alpha / r) up down in the shape of the module's weight, float32."""
        if self.down is None or self.up is None:
            raise ValueError("half of the pair is missing")
        down, up = self.down.float(), self.up.float()
        rank = down.shape[0]
        product = (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])
        return product * (1.0 if self.alpha is None else float(self.alpha) / rank)


def add_lora(networks: Mapping[str, Any], path: Path, scale: float, where: str) -> None:
    """Add the LoRA in a file to the networks `unet` and `text_encoder`, in place.

    scale: weight of the change; 0 changes nothing.

    Raises UserError, located at `where`, for a file that is damaged or asks for code, that changes
    modules these networks do not have, or that holds another kind of change (LoHa, LoKr, DoRA).
    """
    changes = read_changes(read_state(path, where), where, path)
    targets = {family: _modules(family, networks[family]) for family in _NETWORKS}
    problems = []
    for (family, name), change in changes.items():
        problem = _apply(targets[family], name, change, scale)
        if problem:
            problems.append(Problem(where, f"{str(path)!r}: {family}: {problem}"))
    if problems:
        more = [Problem(where, f"and {len(problems) - 4} more")] if len(problems) > 4 else []
        raise UserError([*problems[:4], *more])


def read_changes(state: State, where: str, path: Path) -> dict[tuple[str, str], Change]:
    """Return changes by (network, module's name with underscores for dots).

    Raises UserError for tensors that belong to no LoRA of a UNet or text encoder, and for none.
    """
    changes: dict[tuple[str, str], Change] = {}
    strange = []
    for name, tensor in state.items():
        found = _read_name(name)
        if found is None:
            strange.append(name)
            continue
        family, module, role = found
        setattr(changes.setdefault((family, module), Change()), role, tensor)
    if strange or not changes:
        told = f": {len(strange)} tensors are not, among them {strange[0]}" if strange else ""
        what = f"{str(path)!r} is not a plain LoRA of a UNet or text encoder{told}"
        raise UserError(
            Problem(where, what, fix="LoHa, LoKr and DoRA are not read; merge it first")
        )
    _with_alphas(changes, path, where)
    return changes


def _read_name(name: str) -> tuple[str, str, str] | None:
    """Split a tensor's name into network, module and role, or return None."""
    tail = _TAIL.search(name)
    alpha = None if tail else _ALPHA.search(name)
    if tail:
        role, stem = _ROLES[tail[1].replace(".", "_")], name[: tail.start()]
    elif alpha:
        role, stem = "alpha", name[: alpha.start()]
    else:
        return None
    flat = stem.replace(".", "_").replace("_processor", "")
    for family, prefixes in _NETWORKS.items():
        for prefix in prefixes:
            if flat.startswith(prefix):
                return family, flat.removeprefix(prefix), role
    # Early files of diffusers, which speak of a UNet only, name no network.
    return ("unet", flat, role) if flat.startswith(("down_", "mid_", "up_")) else None


def _with_alphas(changes: dict[tuple[str, str], Change], path: Path, where: str) -> None:
    """Give changes without an alpha the one in peft's settings, where the file carries them."""
    settings = _settings(path)
    odd = [name for name, value in settings.items() if value and name.endswith(_UNREAD)]
    if odd:
        what = f"{str(path)!r} was trained with {odd[0]}, which is not read"
        raise UserError(Problem(where, what, fix="merge it first"))
    for (family, _), change in changes.items():
        alpha = settings.get(f"{family}.lora_alpha")
        if change.alpha is None and isinstance(alpha, int | float):
            change.alpha = torch.tensor(float(alpha))


def _settings(path: Path) -> Mapping[str, Any]:
    """Return peft's settings in the head of a safetensors file; {} where there are none."""
    if path.suffix != SAFETENSORS:
        return {}
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # written by another program, for itself
        return {}
    return found if isinstance(found, dict) else {}


def _modules(family: str, net: nn.Module) -> dict[str, nn.Module]:
    """Linear and convolution modules by all the names that files give them."""
    return {
        alias: module
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for alias in _aliases(family, name)
    }


def _aliases(family: str, name: str) -> Iterator[str]:
    """Yield a module's names, dots as underscores: its own, and those of older libraries."""
    flat = name.replace(".", "_")
    yield flat
    if family == "unet":
        yield re.sub(r"_to_out_0$", "_to_out", flat)
        return
    plain = flat.removeprefix("text_model_")
    yield from (plain, f"text_model_{plain}")
    attention = re.sub(r"_(q|k|v|out)_proj$", r"_to_\1", plain)
    yield from (attention, f"text_model_{attention}")


def _apply(modules: Mapping[str, nn.Module], name: str, change: Change, scale: float) -> str:
    """Add one change; return what hinders it, or ""."""
    module = modules.get(name)
    if module is None:
        hint = did_you_mean(name, modules)
        return f"there is no module {name}" + (f"; {hint}" if hint else "")
    weight: Any = module.weight
    if change.down is None or change.up is None:
        return f"{name} has only half of its pair"
    if change.up.flatten(1).shape[1] != change.down.shape[0]:
        return f"{name} has ranks {change.up.flatten(1).shape[1]} and {change.down.shape[0]}"
    delta = change.delta()
    if delta.numel() != weight.numel() or len(delta) != len(weight):
        return f"{name} has shape {tuple(weight.shape)}, the change {tuple(delta.shape)}"
    with torch.no_grad():
        changed = weight.float() + scale * delta.reshape(weight.shape).to(weight.device)
        weight.copy_(changed.to(weight.dtype))
    return ""
