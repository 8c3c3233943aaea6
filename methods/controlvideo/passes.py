"""Whether every pass over a clip, or over a part of a long video, has the frames it attends to.

Torch-free, so that a spec is refused before networks are loaded.
"""

from __future__ import annotations

from dataclasses import replace

from crossframe.errors import Problem, UserError
from methods.controlvideo.layout import SMALLEST_WINDOW, cut_video, window_of
from methods.controlvideo.options import Hierarchical
from methods.patterns import parse_pattern


def pass_problems(frames: int, unet: str, controlnet: str, chosen: Hierarchical) -> list[Problem]:
    """Return what is wrong with a clip of `frames` frames, sampled at once or by key frames.

    unet, controlnet: attention patterns. In a long video the UNet's is that of the pass over the
    key frames, the ControlNets' that of every pass.
    """
    if not chosen.on:
        return [
            *_outside("attention.pattern", unet, frames),
            *_outside("controlnet_attention.pattern", controlnet, frames),
        ]
    window = window_of(frames, chosen.window)
    if window < SMALLEST_WINDOW:
        what = f"sqrt of {frames} frames is a window of {window}"
        allowed = f"{SMALLEST_WINDOW} frames or more: {SMALLEST_WINDOW**2} frames for sqrt"
        fix = "give the window as a number, or use more frames"
        return [Problem("hierarchical.window", what, allowed, fix)]
    layout = cut_video(frames, window)
    keys = len(layout.keys)
    sizes = [len(clip.interior if chosen.reuse_keys else clip.batch) for clip in layout.clips]
    least = min(keys, *sizes) if sizes else keys
    passes = f"{frames} frames are sampled in passes, the smallest over {least} of them"
    return [
        *_outside(
            "attention.pattern", unet, keys, f"it is that of the pass over the {keys} key frames"
        ),
        *_outside("controlnet_attention.pattern", controlnet, least, passes),
    ]


def _outside(where: str, pattern: str, frames: int, told: str = "") -> list[Problem]:
    """Key frames of a pattern beyond a pass over `frames` frames. told: which pass that is."""
    try:
        parse_pattern(pattern).table(frames)
    except UserError as error:
        reason = f": {told}" if told else ""
        return [replace(p, where=where, what=p.what + reason) for p in error.problems]
    return []
