"""What a run is assembled from: registries and loaders, handed in rather than imported.

The real parts are named in `shipped.py`. What needs torch is a function that imports it when
called, so that a plan can be made, and a bad spec refused, without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossframe.errors import Problem
from crossframe.registry import Registry

if TYPE_CHECKING:
    from methods.options import MethodConfig


@dataclass(frozen=True)
class Parts:
    """The collaborators of the ablation engine.

    Torch-free:
    methods, metrics, clip_sources: what names stand for.
    method_config: name of a method -> its configuration class.
    parse_backbone: the spec's `backbone` -> a configuration.
    backbone_problems: (that configuration, families of networks that rows run) -> what is wrong
        with the one for the others.
    backbone_identity: (configuration, family) -> what enters keys (sha256 by file, dtype).
    encoder_folder: (the spec's `encoder`, backbone configuration) -> folder of the metrics' CLIP.
    encoder_identity: (that folder, a name of `metrics.preprocessing.GEOMETRIES`) -> what enters the
        keys of scores.
    expand_refs, clip_id, load_clip: as in `data_manifests.clips`.
    annotator_identity: (control, kinds of maps from files, names of exact maps) -> what enters keys
        for the network that draws the maps, or None when none does.
    control_problems: (backbone configuration, control, kinds of maps from files, names of exact
        maps) -> what this machine lacks to draw the maps or to use them.
    clip_fingerprint: as `data_manifests.fingerprints.fingerprint`; without it every clip is read.

    With torch:
    load_backbone: (backbone configuration, family) -> the resident networks.
    load_encoder: (folder, geometry) -> an image and text encoder; `UserError` when there are no
        weights.
    flow: (clip, shared as in `methods.base`, name of an estimator) -> flow of its frames, exact
        where the clip knows it, else estimated.
    estimator: name -> an estimator of flow, which may load its weights when first used.
    control: (kind, clip, annotator range) -> control maps, (f, 3, h, w) float32 in [0, 1].
    """

    methods: Registry
    metrics: Registry
    clip_sources: Registry
    method_config: Callable[[str], type[MethodConfig]]
    parse_backbone: Callable[[Any], Any]
    backbone_identity: Callable[[Any, str], Mapping[str, Any]]
    encoder_folder: Callable[[str, Any], str]
    encoder_identity: Callable[[str, str], Any]
    expand_refs: Callable[[Sequence[str], Path], list[str]]
    clip_id: Callable[[str], str]
    load_clip: Callable[[Any], Any]
    load_backbone: Callable[[Any, str], Any]
    load_encoder: Callable[[str, str], Any]
    flow: Callable[[Any, Any, str], Any]
    estimator: Callable[[str], Any]
    control: Callable[[str, Any, str], Any]
    annotator_identity: Callable[[str, Collection[str], Collection[str]], Any] = (
        lambda control, files, exact: None
    )
    control_problems: Callable[[Any, str, Collection[str], Collection[str]], Sequence[Problem]] = (
        lambda config, control, files, exact: ()
    )
    clip_fingerprint: Callable[[Any], str | None] = lambda request: None
    backbone_problems: Callable[[Any, Sequence[str]], Sequence[Problem]] = lambda config, run: ()
