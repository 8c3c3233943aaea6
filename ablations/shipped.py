"""The real parts: shipped methods, metrics and clips. Importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ablations.parts import Parts
from crossframe.errors import NotAvailable, Problem, UserError
from crossframe.weights import OPEN_CLIP
from data_manifests.clips import SOURCES, clip_id, expand_refs, load_clip
from data_manifests.fingerprints import fingerprint
from methods import METHODS, method_config
from methods.backbone_config import (
    BackboneConfig,
    family_problems,
    miniature_weights,
    parse_backbone,
    weights_identity,
)
from methods.backbone_config import (
    parts as backbone_parts,
)
from methods.weight_files import Part, hash_file, identity_of_part, locate
from metrics import METRICS
from metrics.preprocessing import read_preprocessing

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
        backbone_problems=family_problems,
        encoder_folder=encoder_folder,
        encoder_identity=encoder_identity,
        expand_refs=expand_refs,
        clip_id=clip_id,
        load_clip=load_clip,
        load_backbone=_load_backbone,
        load_encoder=_load_encoder,
        flow=_flow,
        estimator=_estimator,
        control=_control,
        annotator_identity=_annotator_identity,
        control_problems=_control_problems,
        clip_fingerprint=fingerprint,
    )


def encoder_folder(name: str, backbone: BackboneConfig) -> str:
    """Return the CLIP of the metrics: the one named, or the one that goes with the backbone."""
    automatic = "miniature" if backbone.name == "miniature" else PUBLISHED_ENCODER
    return named_encoder(automatic if name == "auto" else name)


def named_encoder(name: str) -> str:
    """Return the folder of the miniature's CLIP for "miniature", any other name as it is."""
    return str(miniature_weights() / "clip") if name == "miniature" else name


def encoder_identity(name: str, geometry: str) -> dict[str, Any] | None:
    """Return sha256 by file of the metrics' CLIP and how its input is prepared.

    None while it has no weights here. geometry: a name of `metrics.preprocessing.GEOMETRIES`.
    """
    if name.startswith(OPEN_CLIP):
        return _open_clip_identity(name.removeprefix(OPEN_CLIP), geometry)
    network, words = Part("encoder", name), Part("tokenizer", name)
    try:
        found = locate(network)
        weights = identity_of_part(network, found) | identity_of_part(words, found)
        return {"weights": weights, "preprocessing": read_preprocessing(found, geometry).identity()}
    except UserError:
        return None


def _open_clip_identity(name: str, geometry: str) -> dict[str, Any] | None:
    """The architecture decides the rest of the preprocessing."""
    architecture, _, file = name.partition("/")
    if not Path(file).is_file():
        return None
    return {"weights": {architecture: hash_file(Path(file), "encoder")}, "preprocessing": geometry}


def _annotator_identity(
    control: str, files: Collection[str], exact: Collection[str]
) -> dict[str, str | None] | None:
    from methods.annotator_files import annotator_identity

    return annotator_identity(control, files, exact)


def _control_problems(
    config: BackboneConfig, control: str, files: Collection[str], exact: Collection[str]
) -> list[Problem]:
    """The ControlNet and the annotator that are not here."""
    from methods.annotator_files import annotator_problem
    from methods.condition_kinds import network_for

    named = [part.role.partition(".") for part in backbone_parts(config)]
    found = [] if (lack := annotator_problem(control, files, exact)) is None else [*lack.problems]
    try:
        network_for(control, [name for role, _, name in named if role == "controlnet"])
    except NotAvailable as error:
        found += error.problems
    return found


def _load_backbone(config: BackboneConfig, family: str) -> Any:
    from methods.backbones import load_backbone

    _without_bars()
    return load_backbone(config, family)


def _without_bars() -> None:
    """Loading takes a moment, and runs have a bar of their own."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _load_encoder(folder: str, geometry: str) -> Any:
    from metrics.encoders import load_encoder

    _without_bars()
    return load_encoder(folder, geometry)


def _estimator(name: str) -> Any:
    from ablations.scoring_flow import LateEstimator

    return LateEstimator(name)


def _flow(clip: Any, shared: Any, estimator: str) -> Any:
    from ablations.scoring_flow import estimated_flow
    from crossframe.flow.fields import exact_flow

    if clip.truth is None:
        return estimated_flow(clip.frames, clip.sha256, _estimator(estimator), shared)
    truth = clip.truth
    return exact_flow(
        truth.flow_forward, truth.flow_backward, truth.occluded_forward, truth.occluded_backward
    )


def _control(kind: str, clip: Any, annotator_range: str) -> Any:
    from methods.conditions import control_map

    truth = clip.truth
    edges, depth = (None, None) if truth is None else (truth.edges, truth.depth)
    return control_map(
        kind,
        clip.frames,
        edges=edges,
        depth=depth,
        files=clip.controls,
        annotator_range=annotator_range,
    )
