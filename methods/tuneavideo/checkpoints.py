"""Tune-A-Video's weights in the layouts of its authors, for reading and for writing.

folder: `config.json` (class UNet3DConditionModel, blocks named 3D) and weights, a `.bin` or
safetensors: every tensor of the image UNet under its own name, and seven of temporal attention per
transformer block; 686 + 112 for Stable Diffusion.
tuned: one file with the tensors that tuning changes, seven per block, 112 for Stable Diffusion (the
`.pth` of LOVEU-TGVE-2023). It lacks `norm_temp`, which is never tuned, and so has its first values.

The image UNet needs no renaming. Pickled files are read under weights_only. Sources:
showlab/Tune-A-Video at 7d4a89a, showlab/loveu-tgve-2023 at d75589f.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossframe.checkpoints import SAFETENSORS
from crossframe.errors import Problem, UserError
from crossframe.files import read_json, replacing_folder, write_json
from methods.named_tensors import (
    Shapes,
    Tensors,
    differences,
    plain_tensors,
    read_tensors,
    shapes_of,
    write_tensors,
)
from methods.tuneavideo.network import TEMPORAL_LEAVES, is_temporal, trainable_names

_BLOCK = "attn1.to_q.weight"
"""The tensor that every transformer block has; what stands before it names the block."""

CLASS = "UNet3DConditionModel"
WEIGHTS = "diffusion_pytorch_model.bin"
FILES = (".pth", ".bin", SAFETENSORS)
"""Suffixes of files of tuned tensors."""
# Names that the authors' class knows; others would be passed over with a warning.
CONFIG = (
    "sample_size", "in_channels", "out_channels", "center_input_sample", "flip_sin_to_cos",
    "freq_shift", "down_block_types", "up_block_types", "only_cross_attention",
    "block_out_channels", "layers_per_block", "downsample_padding", "mid_block_scale_factor",
    "act_fn", "norm_num_groups", "norm_eps", "cross_attention_dim", "attention_head_dim",
    "dual_cross_attention", "use_linear_projection", "class_embed_type", "num_class_embeds",
    "upcast_attention", "resnet_time_scale_shift",
)  # fmt: skip
_BLOCK_TYPES = ("down_block_types", "mid_block_type", "up_block_types")


@dataclass(frozen=True)
class VideoUNet:
    """An image UNet's configuration and tensors, and those of temporal attention beside them."""

    config: Mapping[str, Any]
    image: Tensors
    temporal: Tensors


def temporal_shapes(image: Shapes) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what temporal attention adds to an image UNet of these shapes."""
    return {
        name.removesuffix(_BLOCK) + leaf: shape[:1] if _is_vector(leaf) else shape[:1] * 2
        for name, shape in image.items()
        if name.endswith(f".{_BLOCK}")
        for leaf in TEMPORAL_LEAVES
    }


def tuned_shapes(image: Shapes) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what tuning changes: queries and temporal attention."""
    both = {**image, **temporal_shapes(image)}
    return {name: both[name] for name in trainable_names(both, "all")}


def _is_vector(leaf: str) -> bool:
    return leaf.startswith("norm_temp.") or leaf.endswith(".bias")


def is_video_config(config: Mapping[str, Any]) -> bool:
    """Tell whether a UNet's config.json names the blocks of a video UNet."""
    return any("3D" in str(config.get(name, "")) for name in _BLOCK_TYPES[::2])


def image_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the image UNet inside of a video UNet."""
    kept = {name: value for name, value in config.items() if not name.startswith("_")}
    return {
        name: _renamed(value, "3D", "2D") if name in _BLOCK_TYPES else value
        for name, value in kept.items()
    }


def video_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of the authors' class for an image UNet's configuration.

    `mid_block_type` is left out: older releases know one type only, which is their default.
    """
    kept = {name: config[name] for name in CONFIG if name in config}
    named = {
        name: _renamed(value, "2D", "3D") if name in _BLOCK_TYPES else value
        for name, value in kept.items()
    }
    return {"_class_name": CLASS, "_diffusers_version": "0.11.1", **named}


def _renamed(types: Any, old: str, new: str) -> Any:
    return (
        types.replace(old, new) if isinstance(types, str) else [t.replace(old, new) for t in types]
    )


def read_folder(
    folder: Path, files: Sequence[Path], image: Shapes, where: str = "backbone.unet"
) -> VideoUNet:
    """Read a video UNet in the authors' layout.

    files: its weight files. image: names and shapes of the image UNet that its config.json tells.
    Raises UserError, located at `where`, when the tensors are not exactly those of image UNet and
    temporal attention, and for files that hold anything but tensors.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        found |= read_tensors(file, where)
    added = temporal_shapes(image)
    _require_same(f"{str(folder)!r} is no UNet of Tune-A-Video", found, {**image, **added}, where)
    config = image_config(read_json(folder / "config.json"))
    return VideoUNet(
        config, {name: found[name] for name in image}, {name: found[name] for name in added}
    )


def read_tuned(path: Path, image: Shapes, where: str = "backbone.tuned") -> dict[str, Tensor]:
    """Read the tuned tensors of a UNet with these names and shapes, and what belongs to them.

    `norm_temp` is added with its first values, 1 and 0, where the file lacks it. Raises UserError,
    located at `where`, for missing, foreign or misshapen tensors, and as `read_tensors` does.
    """
    found, wanted = read_tensors(path, where), tuned_shapes(image)
    norms = {name: shape for name, shape in temporal_shapes(image).items() if name not in wanted}
    given = wanted | (norms if norms.keys() & found.keys() else {})
    _require_same(f"{str(path)!r} does not hold what is tuned in this UNet", found, given, where)
    return {name: torch.full(norms[name], float(name.endswith("weight"))) for name in norms} | found


def write_network(path: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    """Write a network in the layout that the path asks for, and return where it lies.

    path: a file ending in one of `FILES` takes the tuned tensors, any other name is the folder in
    which the whole UNet appears as `unet`. config: of the image UNet. tensors: of the network.
    """
    if path.suffix not in FILES:
        return write_folder(path, config, tensors)
    write_tuned(path, tensors)
    return path


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    """Write a video UNet for the authors' code, float32, as `folder/unet`; return that folder.

    config: of the image UNet. tensors: image UNet and temporal attention. The folder appears whole.
    Raises ValueError when temporal attention is not complete.
    """
    image = {n: shape for n, shape in shapes_of(tensors).items() if not is_temporal(n)}
    wanted = image | temporal_shapes(image)
    if told := differences(tensors, wanted):
        raise ValueError(f"not the tensors of a video UNet: {told}")
    with replacing_folder(folder / "unet") as made:
        write_json(made / "config.json", video_config(config))
        write_tensors(made / WEIGHTS, plain_tensors(tensors))
    return folder / "unet"


def write_tuned(path: Path, tensors: Tensors) -> None:
    """Write the tuned tensors among `tensors`, float32: safetensors by that suffix, else a pickle.

    tensors: queries and temporal attention at least. Raises ValueError where one of them is absent.
    """
    names = tuned_shapes(shapes_of(tensors))
    if missing := [name for name in names if name not in tensors]:
        raise ValueError(f"{len(missing)} tuned tensors are absent, among them {missing[0]}")
    write_tensors(path, plain_tensors({name: tensors[name] for name in names}))


def _require_same(what: str, found: Tensors, wanted: Shapes, where: str) -> None:
    told = differences(found, wanted)
    if not told:
        return
    fix = "give one of the same image model, complete"
    if any("temp_convs" in name for name in found):
        fix = "this is ModelScope's network of the same class name, which is another one"
    raise UserError(Problem(where, f"{what}: {told}", fix=fix))
