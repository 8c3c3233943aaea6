"""Families of networks: which parts each consists of, where they lie, who loads them. Torch-free.

A method names its family in `METHODS` (`family`, absent: "image"). One `backbone` of a spec serves
rows of several families: `miniature` means the shipped networks of each, and `root` may be a
mapping from family to folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from crossframe.errors import Problem, UserError, did_you_mean

IMAGE = "image"
"""The family of a method that names none."""


@dataclass(frozen=True)
class Role:
    """Where a part of a family lies.

    folder: subfolder of `root`.
    shipped: subfolder of miniature/weights; "" where the miniature has none.
    files: the part is one of these files of the folder, the first that is there; empty: the folder
        is a part in `from_pretrained` layout.
    optional: whether the family works without; such a part must be named by its own field.
    """

    folder: str
    shipped: str = ""
    files: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Family:
    """Networks that belong together.

    about: what they are called in messages.
    loader: `module:function`, from a `BackboneConfig` to what the family's samplers are given.
    roles: the parts by the field of `BackboneConfig` that replaces them.
    options: further fields of `BackboneConfig` that mean something here and not everywhere.
    single_files: whether a part, or all of them, may be one file in the original layout.
    sources: how to get published weights, in one line.
    """

    about: str
    loader: str
    roles: Mapping[str, Role]
    options: tuple[str, ...] = ()
    single_files: bool = False
    sources: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """Roles that the family does not work without."""
        return tuple(name for name, role in self.roles.items() if not role.optional)

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of `BackboneConfig` that mean something here and not everywhere."""
        return (*self.roles, *self.options)


FAMILIES: Mapping[str, Family] = {
    IMAGE: Family(
        about="Stable Diffusion 1.x and its ControlNets",
        loader="methods.backbones:load_image",
        roles={
            "unet": Role("unet", "unet"),
            "vae": Role("vae", "vae"),
            "text_encoder": Role("text_encoder", "clip"),
            "tokenizer": Role("tokenizer", "clip"),
            "scheduler": Role("scheduler", "scheduler"),
        },
        options=("controlnet", "lora", "tuned", "gradient_checkpointing"),
        single_files=True,
    ),
    "svd": Family(
        about="Stable Video Diffusion",
        loader="methods.svd.backbone:load_svd",
        roles={
            "unet": Role("unet", "svd-unet"),
            "vae": Role("vae", "svd-vae"),
            "image_encoder": Role("image_encoder", "clip"),
            "feature_extractor": Role("feature_extractor", "clip"),
            "scheduler": Role("scheduler", "svd-scheduler"),
        },
        options=("offload", "forward_chunk"),
        sources="Published as stabilityai/stable-video-diffusion-img2vid (14 frames), "
        "stabilityai/stable-video-diffusion-img2vid-xt (25) and "
        "stabilityai/stable-video-diffusion-img2vid-xt-1-1 (25, behind a gate), each under a "
        "community licence of its own that is no open-source licence; with variant: fp16 only the "
        "subfolders' *.json and *.fp16.safetensors are needed (4.5 GB)",
    ),
    "hallo": Family(
        about="Hallo",
        loader="methods.hallo.backbone:load_hallo",
        roles={
            "net": Role("hallo", "hallo", files=("net.safetensors", "net.pth")),
            "vae": Role("sd-vae-ft-mse", "hallo-vae"),
            "audio_encoder": Role("wav2vec/wav2vec2-base-960h"),
            "face_encoder": Role("face_analysis/models", files=("glintr100.onnx",), optional=True),
            "landmarks": Role(
                "face_analysis/models",
                files=("face_landmarker_v2_with_blendshapes.task",),
                optional=True,
            ),
            "vocals": Role("audio_separator", files=("Kim_Vocal_2.onnx",), optional=True),
        },
        sources="`hf download fudan-generative-ai/hallo --local-dir DIR` brings hallo/net.pth "
        "(4.9 GB, in place of any Stable Diffusion), sd-vae-ft-mse, wav2vec/wav2vec2-base-960h, "
        "and in face_analysis insightface's antelopev2, for research only, which is used where "
        "backbone.face_encoder names it, as MediaPipe's landmarks are where backbone.landmarks "
        "does, both after `pip install 'crossframe[portraits]'`; in audio_separator the network "
        "that backbone.vocals names, after `pip install 'crossframe[vocals]'`",
    ),
}


def family(name: str) -> Family:
    """Return the family called `name`; raises UserError when there is none."""
    if name not in FAMILIES:
        what, names = f"unknown family of networks {name!r}", list(FAMILIES)
        raise UserError(Problem("family", what, ", ".join(names), did_you_mean(name, names)))
    return FAMILIES[name]


def family_of(extra: Mapping[str, Any]) -> str | None:
    """Return the family of a method by its registry entry's `extra`; None for one without."""
    return str(extra.get("family", IMAGE)) if extra.get("needs_backbone", True) else None


def owners(field: str) -> tuple[str, ...]:
    """Return the families in which a field of `BackboneConfig` means something; () for all."""
    return tuple(name for name, found in FAMILIES.items() if field in found.fields)


def likeliest(fields: Iterable[str]) -> str:
    """Return the first family to which all of these fields belong, or the image family."""
    given = set(fields)
    return next((name for name, found in FAMILIES.items() if given <= set(found.fields)), IMAGE)
