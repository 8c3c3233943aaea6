"""What a worker keeps between cells: networks for ever, one clip at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ablations.estimate import control_parts, decode_parts
from ablations.parts import Parts
from ablations.plan import ClipCard, clip_request
from ablations.spec import Spec
from ablations.stages import StageCache
from ablations.store import Store
from crossframe.errors import Problem, UserError
from crossframe.voice import Voice
from data_manifests.clips import Clip, Truth
from methods.families import family_of
from metrics.base import Face, Memo

if TYPE_CHECKING:
    from methods.base import Shared


class ClipBench:
    """Everything that the cells of one clip share: frames, flow, control maps. Made on demand."""

    def __init__(
        self, clip: Any, card: ClipCard, parts: Parts, stages: StageCache, estimator: str
    ) -> None:
        self.clip = clip
        self.estimator = estimator
        self.card = card
        self.parts = parts
        self.stages = stages

    @cached_property
    def source(self) -> torch.Tensor:
        """Source frames, (f, 3, h, w) float32 in [0, 1]."""
        return to_tensor(self.clip.frames)

    @cached_property
    def flow(self) -> Any:
        """Flow of the source: exact where the clip knows it, estimated otherwise."""
        return self.parts.flow(self.clip, shared_by(self.stages), self.estimator)

    @cached_property
    def estimate(self) -> Any:
        """Estimated flow of the source, even where the exact one is known."""
        bare = replace(self.clip, truth=None)
        return self.parts.flow(bare, shared_by(self.stages), self.estimator)

    @cached_property
    def masks(self) -> torch.Tensor | None:
        """Pixels of the clip's objects, (f, h, w) bool, where they are known."""
        objects = self.truth.get("masks")
        return None if objects is None else objects.any(1)

    @cached_property
    def truth(self) -> dict[str, torch.Tensor]:
        """What is known exactly, channels first, as a `SampleRequest` holds it.

        Of annotated footage, the objects' masks.
        """
        known = {"masks": self.clip.masks} if self.clip.truth is None else vars(self.clip.truth)
        tensors = {name: torch.from_numpy(a) for name, a in known.items() if a is not None}
        flows = ("flow_forward", "flow_backward")
        return {n: t.permute(0, 3, 1, 2) if n in flows else t for n, t in tensors.items()}

    @cached_property
    def face(self) -> Face | None:
        """Mouth, loudness, face, pose and what hangs beside it, where they are known."""
        known = self.truth
        if "mouth" not in known or "envelope" not in known:
            return None
        objects = known.get("masks")
        return Face(
            mouth=known["mouth"],
            envelope=known["envelope"],
            box=known.get("face"),
            pose=known.get("pose"),
            hanging=None if objects is None else objects[:, -1],
        )

    def controls(
        self, kinds: tuple[str, ...], annotator_range: str = "correct"
    ) -> dict[str, torch.Tensor]:
        """Control maps by kind, each (f, 3, h, w) float32 in [0, 1].

        annotator_range: as in `methods.conditions.control_map`.
        """
        shared = shared_by(self.stages)

        def drawn(kind: str) -> dict[str, torch.Tensor]:
            """The maps; of grey ones, one channel of three is kept."""
            maps = self.parts.control(kind, self.clip, annotator_range)
            grey = bool((maps == maps[:, :1]).all())
            return {"map": maps[:, :1] if grey else maps}

        def made(kind: str) -> torch.Tensor:
            """One kind of map, from the stage or drawn."""
            key = control_parts(self.card, kind, annotator_range, self.parts)
            maps = shared("control", key, lambda: drawn(kind))["map"]
            return maps.expand(-1, 3, -1, -1).contiguous()

        return {kind: made(kind) for kind in kinds}


class Bench:
    """What stays resident in a worker: networks for ever, one clip at a time.

    resident: networks of single metrics, by name.
    """

    def __init__(self, spec: Spec, backbone: Any, parts: Parts, store: Store) -> None:
        self.spec = spec
        self.backbone_config = backbone
        self.parts = parts
        self.stages = StageCache(
            store.stage_folder, lambda text: store.journal("stage", text=text), store.claim_folder
        )
        self.resident = Memo()
        self._networks: dict[str, Any] = {}
        self._clip: tuple[str, ClipBench] | None = None

    def networks(self, method: str) -> Any:
        """The networks of a method's family, loaded when the first cell needs them, or None."""
        family = family_of(self.parts.methods.entry(method).extra)
        if family is None:
            return None
        if family not in self._networks:
            self._networks[family] = self.parts.load_backbone(self.backbone_config, family)
        return self._networks[family]

    @cached_property
    def encoder(self) -> Any:
        """The CLIP of the metrics; raises `UserError` when its weights are absent."""
        return self.parts.load_encoder(self._encoder_folder, self.spec.geometry)

    @cached_property
    def encoder_identity(self) -> Any:
        """Hashes of the weights of `encoder`, and how its input is prepared."""
        return self.parts.encoder_identity(self._encoder_folder, self.spec.geometry)

    @cached_property
    def estimator(self) -> Any:
        """The estimator of flow for footage and outputs."""
        return self.parts.estimator(self.spec.flow)

    @property
    def _encoder_folder(self) -> str:
        return self.parts.encoder_folder(self.spec.encoder, self.backbone_config)

    def clip(self, card: ClipCard) -> ClipBench:
        """The shared work of a clip; asking for another clip lets the last one go."""
        if self._clip is None or self._clip[0] != card.ref:
            clip = decoded(card, self.spec, self.parts, self.stages)
            self._clip = (card.ref, ClipBench(clip, card, self.parts, self.stages, self.spec.flow))
        return self._clip[1]


def to_tensor(frames: np.ndarray) -> torch.Tensor:
    """(f, h, w, 3) uint8 -> (f, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def shared_by(stages: StageCache) -> Shared:
    """The stage cache as methods see it: tensors in, tensors out."""

    def shared(
        stage: str, parts: Any, make: Callable[[], Mapping[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """What `make` returns, or what it returned for equal parts; see `methods.base.Shared`."""

        def arrays() -> dict[str, np.ndarray]:
            """What `make` returns, on the CPU."""
            return {name: value.detach().cpu().numpy() for name, value in make().items()}

        found = stages.get(stage, parts, arrays)
        return {name: torch.from_numpy(array) for name, array in found.items()}

    return shared


def decoded(card: ClipCard, spec: Spec, parts: Parts, stages: StageCache) -> Clip:
    """The clip that was planned, from the stage cache or from its source.

    Raises UserError when the source has other frames by now.
    """

    def make() -> dict[str, np.ndarray]:
        """Frames and exact truth from the clip's source."""
        clip = parts.load_clip(clip_request(card.ref, spec))
        if clip.sha256 != card.sha256:
            what = "has changed since the plan was made"
            raise UserError(Problem(card.ref, what, fix="run again, on the clip as it is now"))
        truth = {} if clip.truth is None else vars(clip.truth)
        exact = {f"truth.{name}": array for name, array in truth.items() if array is not None}
        maps = {f"control.{kind}": array for kind, array in clip.controls.items()}
        objects = {} if clip.masks is None else {"masks": clip.masks}
        return {"frames": clip.frames, **exact, **maps, **objects, **_sounding(clip.voice)}

    arrays = stages.get("decode", decode_parts(card, spec), make)
    exact, maps = _below("truth.", arrays), _below("control.", arrays)
    truth = Truth(**exact) if exact else None
    edits = dict(card.edits or {})
    masks = arrays.get("masks")
    voice = _heard(arrays)
    return Clip(card.id, arrays["frames"], card.fps, card.caption, edits, truth, maps, masks, voice)


def _sounding(voice: Voice | None) -> dict[str, np.ndarray]:
    """A voice as arrays; none for silence."""
    if voice is None:
        return {}
    return {"voice.samples": voice.samples, "voice.rate": np.array(voice.rate)}


def _heard(arrays: Mapping[str, np.ndarray]) -> Voice | None:
    """The voice that `_sounding` took apart."""
    if "voice.samples" not in arrays:
        return None
    return Voice(arrays["voice.samples"], int(arrays["voice.rate"]))


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
