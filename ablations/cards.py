"""What a plan knows of each clip: hashes and prompts, read once and remembered. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ablations.parts import Parts
from ablations.spec import Spec
from crossframe.cache import table
from crossframe.errors import UserError
from crossframe.keys import array_sha256, identity
from data_manifests.clips import ClipRequest


@dataclass(frozen=True)
class ClipCard:
    """One clip of a plan; `problems` say why it cannot be used.

    exact: names of what is known exactly of it. controls: kinds of its control maps from files.
    masks_sha256: of the annotated objects of footage, None without annotations.
    """

    ref: str
    id: str
    sha256: str = ""
    truth_sha256: str | None = None
    caption: str = ""
    edits: Mapping[str, str] | None = None
    fps: float = 0.0
    problems: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    masks_sha256: str | None = None


def clip_request(ref: str, spec: Spec) -> ClipRequest:
    """Return the request that reads a clip as the spec wants it."""
    return ClipRequest(ref, **spec.clip.model_dump())


def read_cards(refs: Sequence[str], spec: Spec, parts: Parts) -> list[ClipCard]:
    """Return the cards of clips, in order.

    A clip that was read before, and of which nothing has changed since (see
    `data_manifests.fingerprints`), is taken from the cache; the others are read.
    """
    known = table("clips")
    requests = [clip_request(ref, spec) for ref in refs]
    prints = [parts.clip_fingerprint(request) for request in requests]
    cards = [
        _recalled(ref, known.recall(mark)) if mark else None
        for ref, mark in zip(refs, prints, strict=True)
    ]
    read = [found or _read(request, parts) for request, found in zip(requests, cards, strict=True)]
    known.remember(
        {
            mark: _kept(card)
            for mark, old, card in zip(prints, cards, read, strict=True)
            if mark and old is None and not card.problems
        }
    )
    return read


def _read(request: ClipRequest, parts: Parts) -> ClipCard:
    """Read a clip; one that cannot be read becomes a reason."""
    ref = request.ref
    try:
        clip = parts.load_clip(request)
    except UserError as error:
        return ClipCard(ref, parts.clip_id(ref), problems=tuple(map(str, error.problems)))
    exact = {} if clip.truth is None else vars(clip.truth)
    known = {name: array for name, array in sorted(exact.items()) if array is not None}
    return ClipCard(
        ref,
        clip.id,
        clip.sha256,
        identity({name: array_sha256(array) for name, array in known.items()}) if known else None,
        clip.caption,
        dict(clip.edits),
        float(clip.fps),
        exact=tuple(known),
        controls=tuple(sorted(clip.controls)),
        masks_sha256=None if clip.masks is None else array_sha256(clip.masks),
    )


def _kept(card: ClipCard) -> dict[str, Any]:
    return {name: value for name, value in asdict(card).items() if name not in ("ref", "problems")}


def _recalled(ref: str, data: Any) -> ClipCard | None:
    """Return a card from the cache, or None for an entry of another shape."""
    if not isinstance(data, dict) or not isinstance(data.get("edits"), dict):
        return None
    try:
        names = {name: tuple(data[name]) for name in ("exact", "controls")}
        return ClipCard(ref, **{**data, **names}) if "fps" in data else None
    except (KeyError, TypeError):
        return None
