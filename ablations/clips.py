"""Clips as a run folder shows them beside the samples. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ablations.cards import ClipCard, clip_request
from ablations.parts import Parts
from ablations.spec import Spec
from ablations.store import Store
from crossframe.errors import UserError
from crossframe.files import read_json, write_json
from crossframe.keys import array_sha256
from crossframe.video import write_frames, write_mp4
from data_manifests.clips import Clip


def keep_clip(clip: Clip, store: Store) -> None:
    """Store a clip for viewing, unless this very clip is stored."""
    if is_kept(clip.id, clip.sha256, store):
        return
    folder = store.clip_folder(clip.id)
    write_frames(folder / "frames", clip.frames)
    write_mp4(folder / "video.mp4", clip.frames, clip.fps, clip.voice)
    write_json(
        folder / "clip.json",
        {
            "id": clip.id,
            "caption": clip.caption,
            "edits": dict(clip.edits),
            "fps": clip.fps,
            "sha256": clip.sha256,
            "frames_sha256": array_sha256(clip.frames),
            "exact_flow": clip.truth is not None,
            "sound": clip.voice is not None,
        },
    )


def is_kept(clip_id: str, sha256: str, store: Store) -> bool:
    """Tell whether a clip is stored, with the sha256 of its frames; earlier versions had none."""
    try:
        card = read_json(store.clip_folder(clip_id) / "clip.json")
    except UserError:
        return False
    return isinstance(card, dict) and card.get("sha256") == sha256 and "frames_sha256" in card


def restore_clips(
    cards: Iterable[ClipCard], spec: Spec, store: Store, parts: Callable[[], Parts]
) -> None:
    """Store the clips that are not stored any more; raises UserError when one cannot be read.

    A worker stores the clips that it meets: these are for cells that no worker will look at.
    """
    for card in {card.ref: card for card in cards}.values():
        if not is_kept(card.id, card.sha256, store):
            keep_clip(parts().load_clip(clip_request(card.ref, spec)), store)
