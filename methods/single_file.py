"""Checkpoints that are one file: Stable Diffusion 1.x and its ControlNets as they were released.

Tensors carry the names of the original code (`model.diffusion_model.input_blocks.1.0...`,
`first_stage_model...`, `cond_stage_model.transformer...`, `control_model...`). diffusers knows the
new names; the shape of the networks is that of Stable Diffusion 1.5 (`methods/sd15`), because such
files hold no configuration. Files whose tensors already have the new names are taken as they are.
Pickled files are read under `weights_only`. Where a file holds a moving average of the weights
beside the weights, the weights are taken, as diffusers does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossframe.checkpoints import SAFETENSORS, require_no_code, require_whole
from crossframe.errors import Problem, UserError
from crossframe.files import read_json
from methods.weight_files import SD15, Part

State = dict[str, Tensor]
# (tensors by their original names, configuration) -> tensors by the names of diffusers; None for
# those that the checkpoint lacks.
Convert = Callable[[State, Mapping[str, Any]], Mapping[str, Tensor | None]]


def load_single_file(part: Part, path: Path, dtype: torch.dtype) -> nn.Module:
    """Return the network of a part with the weights that a single file holds for it.

    Raises UserError for a file that is damaged, holds code, lacks the network or holds one of
    another shape.
    """
    where = f"backbone.{part.role}"
    net, config = empty_network(part.family)
    found = converted(part.family, read_state(path, where), config, net.state_dict())
    fill(net, found, dtype, where, path)
    return net


def read_state(path: Path, where: str) -> State:
    """Return the tensors of a checkpoint file by name, also those below `state_dict`.

    Raises UserError, located at `where`, for a file that is damaged or asks for code.
    """
    if path.suffix == SAFETENSORS:
        from safetensors.torch import load_file

        require_whole(path, where)
        data: Any = load_file(path)
    else:
        require_no_code(path, where)
        data = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(data, Mapping) and "state_dict" in data:
        data = data["state_dict"]
    if not isinstance(data, Mapping):
        raise UserError(Problem(where, f"{str(path)!r} holds a {type(data).__name__}, no tensors"))
    return {str(name): value for name, value in data.items() if isinstance(value, Tensor)}


def empty_network(family: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return a network of Stable Diffusion 1.5 whose parameters have no values yet, and its config.

    family: `unet`, `controlnet`, `vae` or `text_encoder`.
    """
    from accelerate import init_empty_weights

    config = read_json(SD15 / family / "config.json")
    with init_empty_weights(include_buffers=False):
        return _MAKERS[family](config), config


def converted(
    family: str, state: State, config: Mapping[str, Any], wanted: Mapping[str, Tensor]
) -> State:
    """Return those tensors of a checkpoint that belong to a network, by the network's own names."""
    if len(set(wanted) & set(state)) > len(wanted) // 2:
        return state
    return {name: t for name, t in _CONVERTERS[family](state, config).items() if t is not None}


def fill(net: nn.Module, state: State, dtype: torch.dtype, where: str, path: Path) -> None:
    """Give a network the tensors of `state` as `dtype`; names that it does not know are left out.

    Raises UserError when one is missing or has another shape.
    """
    wanted = net.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        lacks = f"lacks {len(missing)} of {len(wanted)} tensors, among them {missing[0]}"
        what = f"{str(path)!r} {lacks}"
        fix = "only single files of Stable Diffusion 1.x and its ControlNets are read"
        raise UserError(Problem(where, what, fix=fix))
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
            what = f"{str(path)!r} is no Stable Diffusion 1.x: {name} has shape {shapes}"
            raise UserError(Problem(where, what, fix="give a folder in from_pretrained layout"))
    net.load_state_dict({name: state[name].to(dtype) for name in wanted}, assign=True)


def _unet(config: Mapping[str, Any]) -> nn.Module:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel.from_config(dict(config))


def _controlnet(config: Mapping[str, Any]) -> nn.Module:
    from diffusers.models.controlnets.controlnet import ControlNetModel

    return ControlNetModel.from_config(dict(config))


def _vae(config: Mapping[str, Any]) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_config(dict(config))


def _text_encoder(config: Mapping[str, Any]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**config))


def _convert_unet(state: State, config: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    return convert_ldm_unet_checkpoint(state, config)


def _convert_controlnet(state: State, config: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    return convert_controlnet_checkpoint(state, config)


def _convert_vae(state: State, config: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return convert_ldm_vae_checkpoint(state, config)


def _convert_text_encoder(state: State, config: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
    """Some merged checkpoints leave out `text_model.`, as current transformers does."""
    prefix = "cond_stage_model.transformer."
    names = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    return {short.removeprefix("text_model."): state[name] for name, short in names.items()}


_MAKERS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "unet": _unet,
    "controlnet": _controlnet,
    "vae": _vae,
    "text_encoder": _text_encoder,
}
_CONVERTERS: Mapping[str, Convert] = {
    "unet": _convert_unet,
    "controlnet": _convert_controlnet,
    "vae": _convert_vae,
    "text_encoder": _convert_text_encoder,
}
