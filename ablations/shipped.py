"""The real parts: shipped methods, metrics and clips. Importing this module imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablations.parts import Parts
from crossframe.errors import Problem, UserError
from data_manifests.clips import SOURCES, clip_id, expand_refs, load_clip
from data_manifests.fingerprints import fingerprint
from methods import METHODS, method_config
from methods.backbone_config import (
    BackboneConfig,
    miniature_weights,
    parse_backbone,
    weights_identity,
)
from methods.weight_files import Part, identity_of_part, locate
from metrics import METRICS

PUBLISHED_ENCODER = "openai/clip-vit-large-patch14"
"""CLIP of the published frame-consistency and text scores; looked up in the local hub cache."""


def shipped_parts() -> Parts:
    """Return the parts that the command line works with."""
    return Parts(
        methods=METHODS,
        metrics=METRICS,
        clip_sources=SOURCES,
        method_config=method_config,
        parse_backbone=parse_backbone,
        backbone_identity=weights_identity,
        encoder_folder=encoder_folder,
        encoder_identity=encoder_identity,
        expand_refs=expand_refs,
        clip_id=clip_id,
        load_clip=load_clip,
        load_backbone=_load_backbone,
        load_encoder=_load_encoder,
        flow=_flow,
        control=_control,
        clip_fingerprint=fingerprint,
    )


def encoder_folder(name: str, backbone: BackboneConfig) -> str:
    """Return the CLIP of the metrics: the one named, or the one that goes with the backbone."""
    named = {"miniature": str(miniature_weights() / "clip")}
    automatic = "miniature" if backbone.name == "miniature" else PUBLISHED_ENCODER
    wanted = automatic if name == "auto" else name
    return named.get(wanted, wanted)


def encoder_identity(folder: str) -> dict[str, str] | None:
    """Return sha256 by file of the metrics' CLIP, or None while it has no weights here."""
    network, words = Part("encoder", folder), Part("tokenizer", folder)
    try:
        found = locate(network)
    except UserError:
        return None
    return identity_of_part(network, found) | identity_of_part(words, found)


def _load_backbone(config: BackboneConfig) -> Any:
    from transformers.utils.logging import disable_progress_bar

    from methods.backbones import load_backbone

    disable_progress_bar()  # loading takes a moment, and a run has a bar of its own
    return load_backbone(config)


def _load_encoder(folder: str) -> Any:
    from metrics.encoders import CLIPEncoder

    try:
        found: Path = locate(Part("encoder", folder))
    except UserError as error:
        fix = f"put a CLIP folder there, download {PUBLISHED_ENCODER}, or name one as encoder:"
        raise UserError(
            Problem("metrics", f"CLIP weights are absent: {p.what}", fix=fix)
            for p in error.problems
        ) from error
    return CLIPEncoder.from_folder(found)


def _flow(clip: Any, shared: Any) -> Any:
    from metrics.flow import FlowFields, dis_flow, exact_flow

    if clip.truth is None:
        parts = ["dis", clip.sha256]
        return FlowFields(
            **shared("flow", parts, lambda: _arrays(dis_flow(clip.frames))), source="dis"
        )
    truth = clip.truth
    return exact_flow(
        truth.flow_forward, truth.flow_backward, truth.occluded_forward, truth.occluded_backward
    )


def _arrays(fields: Any) -> dict[str, Any]:
    """The tensors of a dataclass, by name."""
    return {name: value for name, value in vars(fields).items() if hasattr(value, "numpy")}


def _control(kind: str, clip: Any) -> Any:
    from methods.conditions import control_map

    truth = clip.truth
    edges, depth = (None, None) if truth is None else (truth.edges, truth.depth)
    return control_map(kind, clip.frames, edges=edges, depth=depth)
