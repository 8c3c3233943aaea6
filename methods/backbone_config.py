"""Which networks a run uses and on what device: the `backbone` of a spec. Torch-free."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from crossframe.errors import Problem, UserError, did_you_mean
from methods import families
from methods.families import FAMILIES, IMAGE, Family
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

ROLES = tuple(dict.fromkeys(role for family in FAMILIES.values() for role in family.roles))
"""Fields of `BackboneConfig` that name one part."""

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
    root: str | dict[str, str] | None = Field(
        default=None,
        description="folder or hub id with unet/, vae/, text_encoder/, tokenizer/, scheduler/; or "
        "one file of Stable Diffusion 1.x; or a mapping from family of networks to such",
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
    image_encoder: Source | None = Field(default=None, description="replaces root/image_encoder")
    feature_extractor: Source | None = Field(
        default=None, description="replaces root/feature_extractor"
    )
    net: Source | None = Field(default=None, description="replaces root/hallo/net.pth")
    audio_encoder: Source | None = Field(
        default=None, description="replaces root/wav2vec/wav2vec2-base-960h"
    )
    face_encoder: Source | None = Field(
        default=None, description="folder or file of the network that knows faces apart"
    )
    landmarks: Source | None = Field(
        default=None, description="folder or .task file of MediaPipe's face landmarker"
    )
    vocals: Source | None = Field(
        default=None, description="folder or file of the network that parts a voice from music"
    )
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
    offload: bool = Field(
        default=False,
        description="networks wait in main memory, and are on the device only while they run",
    )
    forward_chunk: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="frames that pass through a feed-forward layer at once; null: all"
    )
    gradient_checkpointing: bool | None = Field(
        default=None,
        description="tuning computes activations anew in its backward pass: a third more time for "
        "much less memory; null: on a GPU",
    )

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {
            "device",
            "chunk",
            "allow_download",
            "offload",
            "forward_chunk",
            "gradient_checkpointing",
        }
    )

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

    @field_validator("root", mode="before")
    @classmethod
    def _sources(cls, given: Any) -> Any:
        by_family = given if isinstance(given, Mapping) else {IMAGE: given}
        for name in by_family:
            if name not in FAMILIES:
                hint = did_you_mean(str(name), list(FAMILIES))
                what = f"there is no family {name!r}; there are {', '.join(FAMILIES)}"
                raise ValueError(f"{what}; {hint}" if hint else what)
        wrong = [text for text in by_family.values() if not (isinstance(text, str) and text)]
        if given is not None and (wrong or not by_family):
            raise ValueError("give a folder, a file or a hub id, or a mapping from family to such")
        return given

    @model_validator(mode="after")
    def _complete(self) -> BackboneConfig:
        given = [role for role in ROLES if getattr(self, role)]
        if self.name == "miniature":
            extra = ["root"] * bool(self.root) + given + list(self.controlnet)
            if extra:
                raise ValueError(
                    f"the miniature has its own {', '.join(extra)}; drop it or the name"
                )
        elif not self.root:
            meant = FAMILIES[families.likeliest(given)]
            missing = [role for role in meant.required if role not in given]
            if missing:
                raise ValueError(
                    f"{', '.join(missing)} missing: give a folder or hub id for each, or a root"
                )
        return self

    def root_of(self, family: str) -> str | None:
        """Return the root of a family's parts, or None."""
        return self.root.get(family) if isinstance(self.root, Mapping) else self.root


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


def family_problems(config: BackboneConfig, run: Sequence[str]) -> list[Problem]:
    """Return what is wrong with a backbone for a run of these families, before any file is read.

    A field that means nothing to any of them, one that several could mean, a root for only one.
    run: empty where no row runs networks; nothing is wrong then.
    """
    given = [
        name
        for name, info in BackboneConfig.model_fields.items()
        if families.owners(name)
        and getattr(config, name) != info.get_default(call_default_factory=True)
    ]
    meant = {name: set(run) & set(families.owners(name)) for name in given}
    found = [_ownerless(name, run) for name in given if run and not meant[name]]
    found += [_ambiguous(name, run) for name in given if len(meant[name]) > 1]
    if config.name == "custom" and isinstance(config.root, str) and len(run) > 1:
        found.append(_ambiguous("root", run))
    lacking = [name for name in run if isinstance(config.root, Mapping) and name not in config.root]
    return found + [
        Problem("backbone.root", f"rows run networks of the family {name}, for which there is none")
        for name in lacking
    ]


def parts(config: BackboneConfig, family: str = IMAGE) -> tuple[Part, ...]:
    """Return the parts of a family's backbone: those that every run needs, ControlNets, LoRAs.

    The miniature lists only those of its ControlNets that have been trained.
    """
    meant = families.family(family)
    loras = [Part(f"lora.{index}", lora.source) for index, lora in enumerate(config.lora)]
    beside = loras if "lora" in meant.options else []
    if config.name == "miniature":
        return (*_miniature_parts(meant), *beside)
    wanted = [role for role in meant.roles if role in meant.required or getattr(config, role)]
    found = [_own_part(config, family, role) for role in wanted]
    nets = [
        Part(f"controlnet.{kind}", source, variant=config.variant)
        for kind, source in config.controlnet.items()
        if "controlnet" in meant.options
    ]
    return (*found, *nets, *beside)


def locate_all(config: BackboneConfig, family: str = IMAGE) -> dict[Part, Path]:
    """Return the folder or file of every part of a family's backbone.

    Raises UserError with everything that is missing, not only the first part, and where published
    weights are to be had.
    """
    folders: dict[Part, Path] = {}
    problems: list[Problem] = []
    for part in parts(config, family):
        try:
            folders[part] = _located(part, config, families.family(family))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(_gather(problems, config, families.family(family)))
    return folders


def weights_identity(config: BackboneConfig, family: str = IMAGE) -> dict[str, str]:
    """Return what identifies a family's backbone: sha256 by `role/file name`, and the arithmetic.

    Moving a folder or reading it from a hub cache changes nothing; another file does. Hashes are
    kept for the life of the process by path, size and modification time. Imports no torch.

    Raises UserError as `locate_all` does.
    """
    found: dict[str, str] = {"dtype": config.dtype}
    for part, folder in locate_all(config, family).items():
        found |= identity_of_part(part, folder)
    options = families.family(family).options
    if config.tuned and "tuned" in options:
        found["tuned"] = hash_file(tuned_file(config.tuned), "backbone.tuned")
    loras = config.lora if "lora" in options else ()
    return found | {f"lora.{i}/scale": repr(lora.scale) for i, lora in enumerate(loras)}


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


def _ownerless(name: str, run: Sequence[str]) -> Problem:
    """A field that no family of the run knows."""
    own = ", ".join(FAMILIES[owner].about for owner in families.owners(name))
    others = ", ".join(FAMILIES[other].about for other in run if other in FAMILIES)
    known = [f for other in run if other in FAMILIES for f in FAMILIES[other].fields]
    what = f"is for {own}, but the rows run {others}"
    return Problem(f"backbone.{name}", what, ", ".join(dict.fromkeys(known)), "drop it")


def _ambiguous(name: str, run: Sequence[str]) -> Problem:
    """A field that several families of the run could mean."""
    what = f"could be for any of {', '.join(run)}, which the rows run"
    fix = f"give root: {{{', '.join(f'{family}: folder or hub id' for family in run)}}}"
    return Problem(f"backbone.{name}", what, fix=fix)


def _gather(problems: Sequence[Problem], config: BackboneConfig, family: Family) -> list[Problem]:
    """Return one problem per cause: a missing root is not told once for each of its parts."""
    if config.name == "miniature":
        missing = ", ".join(p.where.removeprefix("backbone.") for p in problems)
        what = f"{str(miniature_weights())!r} has no weights for {missing}"
        return [Problem("backbone: miniature", what, fix=_TRAIN)]
    causes: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        causes.setdefault((problem.what, problem.fix), []).append(problem.where)
    found = [Problem(", ".join(roles), what, fix=fix) for (what, fix), roles in causes.items()]
    *others, last = found
    fix = ". ".join(filter(None, [last.fix, family.sources]))
    return [*others, replace(last, fix=fix)]


def _located(part: Part, config: BackboneConfig, family: Family) -> Path:
    """As `locate`; a single file is refused where the family has no such form."""
    single = is_single_file(part.source) and not part.files
    if single and part.family in family.roles and not family.single_files:
        what = f"{part.source!r} is a single file, which is read for Stable Diffusion 1.x only"
        raise UserError(Problem(f"backbone.{part.role}", what, fix="give the folder of diffusers"))
    return locate(part, allow_download=config.allow_download)


def _own_part(config: BackboneConfig, family: str, role: str) -> Part:
    own, place = getattr(config, role), FAMILIES[family].roles[role]
    if own:
        return Part(role, own, variant=config.variant, files=place.files)
    root = str(config.root_of(family))
    if FAMILIES[family].single_files and is_single_file(root):
        return _part_of_file(role, root)
    return Part(role, root, place.folder, config.variant, place.files)


def _part_of_file(role: str, file: str) -> Part:
    """Return a part of a single file; what such files lack is that of Stable Diffusion 1.5."""
    if role in _IN_SINGLE_FILE:
        return Part(role, file)
    return Part(role, SD15_TOKENIZER if role == "tokenizer" else str(SD15 / role))


def _miniature_parts(family: Family) -> tuple[Part, ...]:
    root = miniature_weights()
    found = [
        Part(role, str(root / place.shipped), files=place.files)
        for role, place in family.roles.items()
        if place.shipped
    ]
    nets = [
        Part(f"controlnet.{kind}", str(root / folder))
        for kind, folder in _MINIATURE_CONTROLNETS.items()
        if "controlnet" in family.options and (root / folder).is_dir()
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
