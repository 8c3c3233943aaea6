"""Where a video does not follow its source's motion: per-pixel warping error as heat maps.

Frames and flow come from the run folder: exact flow from the decoded clip, else the estimated one
that the metrics left there. Nothing is estimated here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from safetensors.numpy import load_file

from ablations.stage_versions import SUFFIX
from ablations.stages import LABEL
from reports.canvas import Ask, NotDrawn, wrap
from reports.load import ClipFolder
from reports.strips import GAP, HEAD, LABEL_SIGNS, Block, Page, blocks, label_width, picks
from reports.style import FAINT, bare_figure

MASKED = "#BBBBBB"
COLOURS = "inferno"
BAR = 0.52


@dataclass(frozen=True)
class Flow:
    """Flow of a source. forward: (p, h, w, 2) pixels, t to t+1; valid: (p, h, w), seen in t+1."""

    forward: np.ndarray
    valid: np.ndarray
    source: str


def stored_flow(root: Path, clip: ClipFolder) -> Flow:
    """Return the flow of a clip as the run folder holds it; raises NotDrawn when it holds none."""
    for path in _entries(root, "decode", clip.sha256):
        arrays = load_file(path)
        if "truth.flow_forward" in arrays:
            visible = ~arrays["truth.occluded_forward"].astype(bool)
            return Flow(arrays["truth.flow_forward"], visible, "exact flow")
    for path in _entries(root, "flow", clip.sha256):
        arrays = load_file(path)
        if {"forward", "valid"} <= set(arrays):
            forward = np.moveaxis(arrays["forward"], 1, -1)
            return Flow(forward, arrays["valid"].astype(bool), "estimated flow")
    raise NotDrawn(f"the run folder holds no flow of {clip.id}; a metric that needs flow leaves it")


def _entries(root: Path, stage: str, sha256: str) -> Iterator[Path]:
    """Files of a stage whose label names the clip."""
    for path in sorted((root / "stages" / stage).glob(f"??/*{SUFFIX}")):
        if sha256 and sha256 in _label(path):
            yield path


def _label(path: Path) -> str:
    """The label that the stage cache wrote into the header of a file; "" when there is none."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return ""
        header = file.read(length)
    try:
        return str(json.loads(header)["__metadata__"][LABEL])
    except (ValueError, KeyError, TypeError):
        return ""


def warp_errors(frames: np.ndarray, flow: Flow) -> np.ndarray:
    """Root mean square over colours of frame t minus frame t+1 warped back; NaN where not visible.

    frames: (f, h, w, 3) uint8. Returns (f-1, h, w) in [0, 1].
    """
    video = frames.astype(np.float32) / 255
    height, width = video.shape[1:3]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    errors = []
    for t, moved in enumerate(flow.forward[: len(video) - 1]):
        to_x, to_y = x + moved[..., 0], y + moved[..., 1]
        warped = cv2.remap(video[t + 1], to_x, to_y, cv2.INTER_LINEAR)
        inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
        gap = np.sqrt(((video[t] - warped) ** 2).mean(axis=-1))
        errors.append(np.where(flow.valid[t] & inside, gap, np.nan))
    return np.stack(errors)


def error_maps(ask: Ask) -> Figure:
    """Rows are methods, source on top; columns are pairs of frames, the last their mean."""
    block = blocks(ask, most=1)[0]
    clip = ask.run.clip(block.clip)
    if clip is None or block.shape[0] < 2:
        raise NotDrawn("it needs a stored source of two frames or more")
    flow = stored_flow(ask.run.root, clip)
    maps = {
        strand.label: warp_errors(strand.frames, flow)
        for strand in block.strands
        if strand.frames is not None and strand.frames.shape[:3] == block.shape
    }
    left = label_width([block])
    shown = picks(ask, block.shape[0] - 1)
    columns = len(shown) + 1
    width = min((ask.width - left - BAR - GAP * columns) / columns, 1.4)
    size = (width, width * block.shape[1] / block.shape[2])
    total = 2 * HEAD + len(block.strands) * (size[1] + GAP) + 0.2
    with bare_figure(ask.width, total) as made:
        page = Page(made, ask.width, total)
        page.text(0.02, 0.02, f"{block.clip}: warping error, {flow.source}", fontweight="bold")
        _heads(page, shown, left, size)
        top = float(np.nanquantile(np.stack(list(maps.values())), 0.995))
        _fields(page, block, maps, shown, left, size, top)
        _scale(page, left + columns * (size[0] + GAP), size, top)
        page.text(left, total - 0.14, "grey: not visible in the next frame", color=FAINT)
        return made


def _heads(page: Page, shown: list[int], left: float, size: tuple[float, float]) -> None:
    names = [*(f"{frame} to {frame + 1}" for frame in shown), "mean"]
    for column, name in enumerate(names):
        x = left + column * (size[0] + GAP)
        page.text(x, HEAD + 0.02, wrap(name, max(8, int(size[0] / 0.055))), color=FAINT)


def _fields(
    page: Page,
    block: Block,
    maps: dict[str, np.ndarray],
    shown: list[int],
    left: float,
    size: tuple[float, float],
    top: float,
) -> None:
    for place, strand in enumerate(block.strands):
        y = 2 * HEAD + place * (size[1] + GAP)
        middle = y + size[1] / 2
        page.text(left - 0.07, middle, wrap(strand.label, LABEL_SIGNS), va="center", ha="right")
        errors = maps.get(strand.label)
        for column in range(len(shown) + 1):
            x = left + column * (size[0] + GAP)
            if errors is None:
                page.empty(x, y, size, strand.note)
                continue
            field = errors[shown[column]] if column < len(shown) else _time_mean(errors)
            ax = page.axes(x, y, *size)
            ax.set_facecolor(MASKED)
            ax.imshow(field, cmap=COLOURS, vmin=0, vmax=top, interpolation="none", aspect="auto")


def _time_mean(errors: np.ndarray) -> np.ndarray:
    """(p, h, w) -> (h, w), over the pairs in which a pixel is visible."""
    seen = np.isfinite(errors).sum(axis=0)
    total = np.nansum(errors, axis=0)
    return np.where(seen > 0, total / np.maximum(seen, 1), np.nan)


def _scale(page: Page, x: float, size: tuple[float, float], top: float) -> None:
    ax = page.axes(x + 0.04, 2 * HEAD, 0.08, size[1])
    ramp = np.linspace(1, 0, 128)[:, None]
    ax.imshow(ramp, cmap=COLOURS, aspect="auto", extent=(0, 1, 0, top))
    ax.yaxis.tick_right()
    ax.set_yticks([0, top], ["0", f"{top:.2f}"], fontsize=7)
    ax.tick_params(length=0, pad=2)
