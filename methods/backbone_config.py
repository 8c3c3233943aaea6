"""Which networks a run uses and on what device: the `backbone` of a spec. Torch-free."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from crossframe.errors import Problem, UserError, did_you_mean
from methods.options import Options
from methods.weight_files import (
    SD15,
    SINGLE_FILES,
    Part,
    hash_file,
    identity_of_part,
    is_single_file,
    locate,
)

_REQUIRED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# Subfolders of miniature/weights; CLIP serves as text encoder and brings its tokenizer.
_MINIATURE = {
    "unet": "unet",
    "vae": "vae",
    "text_encoder": "clip",
    "tokenizer": "clip",
    "scheduler": "scheduler",
}
_MINIATURE_CONTROLNETS = {"edges": "controlnet-edges", "depth": "controlnet-depth"}
# What a single file of Stable Diffusion 1.x holds, and where its tokenizer was taken from.
_IN_SINGLE_FILE = ("unet", "vae", "text_encoder")
SD15_TOKENIZER = "openai/clip-vit-large-patch14"
_TRAIN = "train them with `crossframe miniature train`"

Source = Annotated[str, Field(min_length=1)]


class Lora(Options):
    """Low-rank changes to the weights (arXiv 2106.09685), added when the networks are loaded."""

    source: Source = Field(description="file, folder with pytorch_lora_weights, or hub id")
    scale: float = Field(default=1.0, description="weight of the changes")


class BackboneConfig(Options):
    """The networks of a run: the shipped miniature, or folders and hub ids of real checkpoints.

    RUNTIME_FIELDS change speed and memory and, by rounding, the last bits of a result; they do not
    take part in its identity. `dtype` does; the other fields do through the files they lead to.
    """

    name: Literal["miniature", "custom"] = Field(
        default="custom", description="custom: from the fields below"
    )
    root: Source | None = Field(
        default=None,
        description="folder or hub id with unet/, vae/, text_encoder/, tokenizer/, scheduler/; or "
        "one file of Stable Diffusion 1.x",
    )
    unet: Source | None = Field(
        default=None, description="folder, single file or hub id; replaces root/unet"
    )
    vae: Source | None = Field(
        default=None, description="folder, single file or hub id; replaces root/vae"
    )
    text_encoder: Source | None = Field(default=None, description="replaces root/text_encoder")
    tokenizer: Source | None = Field(default=None, description="replaces root/tokenizer")
    scheduler: Source | None = Field(default=None, description="replaces root/scheduler")
    controlnet: dict[str, Source] = Field(
        default_factory=dict,
        description="folder, single file or hub id by kind (`crossframe list controls`)",
    )
    lora: tuple[Lora, ...] = Field(
        default=(), description="LoRAs of UNet and text encoder: texts, or {source, scale}"
    )
    tuned: Source | None = Field(
        default=None,
        description="file of tensors tuned by Tune-A-Video (.pth, .bin, .safetensors), laid over "
        "the UNet's",
    )
    variant: str = Field(default="", description="the fp16 of model.fp16.safetensors, or empty")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="arithmetic"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: cuda if there is one"
    )
    chunk: Annotated[int, Field(ge=1)] = Field(
        default=8, description="frames that pass through the image autoencoder at once"
    )
    allow_download: bool = Field(
        default=False, description="fetch hub ids that are not in the local cache"
    )

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset({"device", "chunk", "allow_download"})

    @model_validator(mode="before")
    @classmethod
    def _spread_one_controlnet(cls, given: Any) -> Any:
        """`controlnet: dir` serves whichever one kind of control is asked for."""
        if isinstance(given, Mapping) and isinstance(given.get("controlnet"), str):
            return {**given, "controlnet": {"*": given["controlnet"]}}
        return given

    @field_validator("lora", mode="before")
    @classmethod
    def _spread_loras(cls, given: Any) -> Any:
        """`lora: file`, `lora: [file, ...]` and `lora: {source: file}` are short for the whole."""
        items = [given] if isinstance(given, str | Mapping) else given
        if not isinstance(items, Sequence):
            return items
        return [{"source": item} if isinstance(item, str) else item for item in items]

    @model_validator(mode="after")
    def _complete(self) -> BackboneConfig:
        given = {role: getattr(self, role) for role in ("root", *_REQUIRED)}
        if self.name == "miniature":
            extra = [role for role, source in given.items() if source] + list(self.controlnet)
            if extra:
                raise ValueError(
                    f"the miniature has its own {', '.join(extra)}; drop it or the name"
                )
        elif not self.root:
            missing = [role for role in _REQUIRED if not given[role]]
            if missing:
                raise ValueError(
                    f"{', '.join(missing)} missing: give a folder or hub id for each, or a root"
                )
        return self


def parse_backbone(value: str | Mapping[str, Any] | BackboneConfig) -> BackboneConfig:
    """Read the `backbone` of a spec: `miniature`, a root folder or hub id, or a mapping.

    Raises UserError with every problem, located as `backbone.<field>`.
    """
    if isinstance(value, BackboneConfig):
        return value
    if isinstance(value, str):
        value = _named(value)
    try:
        return BackboneConfig.model_validate(value)
    except ValidationError as error:
        raise UserError(_problem(item) for item in error.errors()) from error


def parts(config: BackboneConfig) -> tuple[Part, ...]:
    """Return the parts of a backbone: five that every run needs, its ControlNets, its LoRAs.

    The miniature lists only those of its ControlNets that have been trained.
    """
    loras = [Part(f"lora.{index}", lora.source) for index, lora in enumerate(config.lora)]
    if config.name == "miniature":
        return (*_miniature_parts(config), *loras)
    found = [_own_part(config, role) for role in _REQUIRED]
    nets = [
        Part(f"controlnet.{kind}", source, variant=config.variant)
        for kind, source in config.controlnet.items()
    ]
    return (*found, *nets, *loras)


def locate_all(config: BackboneConfig) -> dict[Part, Path]:
    """Return the folder of every part.

    Raises UserError with everything that is missing, not only the first part.
    """
    folders: dict[Part, Path] = {}
    problems: list[Problem] = []
    for part in parts(config):
        try:
            folders[part] = locate(part, allow_download=config.allow_download)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(_gather(problems, config))
    return folders


def weights_identity(config: BackboneConfig) -> dict[str, str]:
    """Return what identifies a backbone: sha256 by `role/file name`, and the arithmetic.

    Moving a folder or reading it from a hub cache changes nothing; another file does. Hashes are
    kept for the life of the process by path, size and modification time. Imports no torch.

    Raises UserError as `locate_all` does.
    """
    found: dict[str, str] = {"dtype": config.dtype}
    for part, folder in locate_all(config).items():
        found |= identity_of_part(part, folder)
    if config.tuned:
        found["tuned"] = hash_file(tuned_file(config.tuned), "backbone.tuned")
    return found | {f"lora.{i}/scale": repr(lora.scale) for i, lora in enumerate(config.lora)}


def tuned_file(source: str) -> Path:
    """Return the path of `backbone.tuned`."""
    return Path(os.path.expanduser(source))


def miniature_weights() -> Path:
    """Return the folder of the miniature's weights, whether or not it has been trained."""
    spec = importlib.util.find_spec("miniature")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        what = "the package `miniature` is not installed"
        raise UserError(Problem("backbone", what, fix="run from a clone of crossframe"))
    return Path(places[0]) / "weights"


def _named(text: str) -> dict[str, Any]:
    if text == "miniature":
        return {"name": "miniature"}
    if "/" in text or os.path.isdir(os.path.expanduser(text)) or text.endswith(SINGLE_FILES):
        return {"root": text}
    allowed = "miniature, a folder, a checkpoint file, a hub id, or a mapping"
    fix = did_you_mean(text, ["miniature"])
    raise UserError(Problem("backbone", f"unknown backbone {text!r}", allowed, fix))


def _gather(problems: Sequence[Problem], config: BackboneConfig) -> list[Problem]:
    """Return one problem per cause: a missing root is not told once for each of its parts."""
    if config.name == "miniature":
        missing = ", ".join(p.where.removeprefix("backbone.") for p in problems)
        what = f"{str(miniature_weights())!r} has no weights for {missing}"
        return [Problem("backbone: miniature", what, fix=_TRAIN)]
    causes: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        causes.setdefault((problem.what, problem.fix), []).append(problem.where)
    return [Problem(", ".join(roles), what, fix=fix) for (what, fix), roles in causes.items()]


def _own_part(config: BackboneConfig, role: str) -> Part:
    own = getattr(config, role)
    if own:
        return Part(role, own, variant=config.variant)
    if is_single_file(str(config.root)):
        return _part_of_file(role, str(config.root))
    return Part(role, str(config.root), role, config.variant)


def _part_of_file(role: str, file: str) -> Part:
    """Return a part of a single file; what such files lack is that of Stable Diffusion 1.5."""
    if role in _IN_SINGLE_FILE:
        return Part(role, file)
    return Part(role, SD15_TOKENIZER if role == "tokenizer" else str(SD15 / role))


def _miniature_parts(config: BackboneConfig) -> tuple[Part, ...]:
    root = miniature_weights()
    found = [Part(role, str(root / folder)) for role, folder in _MINIATURE.items()]
    nets = [
        Part(f"controlnet.{kind}", str(root / folder))
        for kind, folder in _MINIATURE_CONTROLNETS.items()
        if (root / folder).is_dir()
    ]
    return (*found, *nets)


def _problem(error: Any) -> Problem:
    where = ".".join(["backbone", *(str(part) for part in error["loc"])])
    names = list(BackboneConfig.model_fields)
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        return Problem(where, f"unknown key {name!r}", ", ".join(names), did_you_mean(name, names))
    if error["type"] == "literal_error":
        return Problem(where, f"{error['input']!r} is not possible", error["ctx"]["expected"])
    return Problem(where, error["msg"].removeprefix("Value error, "))
