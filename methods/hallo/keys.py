"""Names of tensors in `net.pth`, and in the networks here. Torch-free.

`net.pth` has 2,656 names, of which 42 are tables of positions, two for every one here: both
attentions of a motion module carry the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

# (as published, here): beginnings of names.
_NETWORKS = (
    ("reference_unet.", "reference_unet.unet."),
    ("denoising_unet.", "denoising_unet.unet."),
    ("face_locator.", "face_locator."),
    ("imageproj.", "image_proj."),
    ("audioproj.", "audio_proj."),
)
# (as published, here): pieces of names inside of a motion module's transformer block.
_MOTION = (
    ("attention_blocks.0.pos_encoder.pe", "pos_embed.pe"),
    ("attention_blocks.1.pos_encoder.pe", "pos_embed.pe"),
    ("attention_blocks.0.", "attn1."),
    ("attention_blocks.1.", "attn2."),
    ("norms.0.", "norm1."),
    ("norms.1.", "norm2."),
    ("ff_norm.", "norm3."),
)
_PUBLISHED_AUDIO = re.compile(r"\.audio_modules\.(\d+)\.")
_PUBLISHED_MOTION = re.compile(r"\.motion_modules\.(\d+)\.temporal_transformer\.")
_OWN_AUDIO = re.compile(r"\.motion_modules\.(\d+)\.audio\.")
_OWN_MOTION = re.compile(r"\.motion_modules\.(\d+)\.motion\.")
_BLOCK = re.compile(r"(transformer_blocks\.\d+\.)(.*)")


def own_name(published: str) -> str | None:
    """Return the name here of a tensor of `net.pth`, or None for one of no network of Hallo."""
    for theirs, ours in _NETWORKS:
        if published.startswith(theirs):
            return ours + _own_path(published.removeprefix(theirs))
    return None


def published_names(own: str) -> tuple[str, ...]:
    """Return the names in `net.pth` of a tensor here: one, or two for a table of positions."""
    theirs, ours = next((t, o) for t, o in _NETWORKS if own.startswith(o))
    path = own.removeprefix(ours)
    if found := _OWN_AUDIO.search(path):
        return (theirs + path.replace(found[0], f".audio_modules.{found[1]}."),)
    found = _OWN_MOTION.search(path)
    if not found:
        return (theirs + path,)
    head = theirs + path[: found.start()] + f".motion_modules.{found[1]}.temporal_transformer."
    return tuple(head + tail for tail in _published_tails(path[found.end() :]))


def to_own(published: Mapping[str, Value]) -> dict[str, Value]:
    """Return values by their names here; raises KeyError for a name of no network of Hallo."""
    found: dict[str, Value] = {}
    for name, value in published.items():
        own = own_name(name)
        if own is None:
            raise KeyError(name)
        found.setdefault(own, value)
    return found


def to_published(own: Mapping[str, Value]) -> dict[str, Value]:
    """Return values by their names in `net.pth`; tables of positions twice."""
    return {name: value for key, value in own.items() for name in published_names(key)}


def _own_path(path: str) -> str:
    if _PUBLISHED_AUDIO.search(path):
        return _PUBLISHED_AUDIO.sub(r".motion_modules.\1.audio.", path)
    found = _PUBLISHED_MOTION.search(path)
    if not found:
        return path
    head, tail = path[: found.start()], path[found.end() :]
    block = _BLOCK.fullmatch(tail)
    if block:
        tail = block[1] + _renamed(block[2])
    return f"{head}.motion_modules.{found[1]}.motion.{tail}"


def _renamed(tail: str) -> str:
    for theirs, ours in _MOTION:
        if tail.startswith(theirs):
            return ours + tail.removeprefix(theirs)
    return tail


def _published_tails(tail: str) -> list[str]:
    block = _BLOCK.fullmatch(tail)
    if not block:
        return [tail]
    found = [
        block[1] + theirs + block[2].removeprefix(ours)
        for theirs, ours in _MOTION
        if block[2].startswith(ours)
    ]
    return found or [tail]
