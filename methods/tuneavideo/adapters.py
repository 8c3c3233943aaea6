"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) on a network's matrices, through peft."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crossframe.errors import Problem

_NAME = "default"


def adapter_problems() -> list[Problem]:
    """Return what keeps adapters from being trained here."""
    if importlib.util.find_spec("peft") is not None:
        return []
    what = "lora needs the package peft, which is not installed"
    return [Problem("tuning.train", what, fix="pip install -c constraints.txt -e '.[lora]'")]


@contextmanager
def adapters(
    net: nn.Module, names: Sequence[str], rank: int, seed: int
) -> Iterator[tuple[dict[str, nn.Parameter], Callable[[], dict[str, Tensor]]]]:
    """Put an adapter on every matrix called in `names` (`....weight`), for a `with` block.

    Yields the adapters' parameters, float32 and to be trained, and a function that returns the
    matrices with what their adapters have learnt, float32. The first factor is drawn from `seed`,
    the second is zero, so that nothing changes at first; the update is their product, unscaled.
    On leaving, the network is made of its own layers again.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = {name.removesuffix(".weight"): name for name in names}
    own = {target: net.get_submodule(target) for target in targets}
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, net, _NAME)
        layers = {name: net.get_submodule(target) for target, name in targets.items()}
        yield _parameters(layers), lambda: {name: _whole(x) for name, x in layers.items()}
    finally:
        for target, module in own.items():
            parent, _, leaf = target.rpartition(".")
            setattr(net.get_submodule(parent), leaf, module)
        vars(net).pop("peft_config", None)


def _parameters(layers: Mapping[str, Any]) -> dict[str, nn.Parameter]:
    found = {}
    for name, layer in layers.items():
        for factor in (layer.lora_A[_NAME], layer.lora_B[_NAME]):
            factor.weight.data = factor.weight.data.float()
            factor.weight.requires_grad_(True)
        found[f"{name}.A"] = layer.lora_A[_NAME].weight
        found[f"{name}.B"] = layer.lora_B[_NAME].weight
    return found


@torch.no_grad()
def _whole(layer: Any) -> Tensor:
    change: Tensor = layer.get_delta_weight(_NAME)
    return layer.get_base_layer().weight.float() + change.float()
