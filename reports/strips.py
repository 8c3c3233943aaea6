"""Figures of frames: strips (methods x frames, with zoomed boxes) and x-t slices.

Frames are read from the lossless files. They are never smoothed: enlarged pixels stay square, and
reduced ones are averages over area.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from crossframe.video import read_frames
from reports.canvas import Ask, Box, NotDrawn, wrap
from reports.load import ClipFolder, Run
from reports.style import DPI, FAINT, bare_figure

GAP = 0.03
HEAD = 0.17
LINE = 0.135
SIGN, TITLE_SIGN = 0.062, 0.07
LABEL_SIGNS = 16
MAX_FRAMES = 6
SLICES_ACROSS = {True: 6, False: 3}
EMPTY = "#EEEEEE"
SCAN_COLOUR = "#FF00A0"
BOX_COLOURS = ("#E69F00", "#56B4E9", "#FF00A0")


@dataclass(frozen=True)
class Strand:
    """One method on one clip. frames: (f, h, w, 3) uint8, or None with the reason in `note`."""

    label: str
    frames: np.ndarray | None
    note: str = ""


def strands(run: Run, clip_id: str, seed_index: int = 0) -> list[Strand]:
    """Return the source, then every row on a clip at one seed; what is missing says why.

    A sentinel that is the source itself is left out: the source stands on top already.
    """
    clip = run.clip(clip_id)
    found = [_source(clip)]
    for row in run.rows:
        if row.method != "source":
            cell = run.cell_at(row, clip_id, seed_index)
            state = cell.status if cell else "not planned"
            folder = cell.folder if cell and cell.state == "done" else None
            found.append(Strand(row.label, _frames(folder), state))
    return found


def _source(clip: ClipFolder | None) -> Strand:
    return Strand("source", _frames(clip.folder if clip else None), "not stored")


def _frames(folder: Path | None) -> np.ndarray | None:
    frames = folder / "frames" if folder else None
    return read_frames(frames) if frames and any(frames.glob("*.png")) else None


@dataclass(frozen=True)
class Block:
    """The strands of one clip and the shape (f, h, w) that they have in common."""

    clip: str
    strands: Sequence[Strand]
    shape: tuple[int, int, int]


def blocks(ask: Ask, most: int) -> list[Block]:
    """Return a block per clip that has frames; raises NotDrawn when none has."""
    found = []
    for clip in ask.shown_clips(most):
        block = strands(ask.run, clip, ask.seed)
        frames = next((strand.frames for strand in block if strand.frames is not None), None)
        if frames is not None:
            found.append(Block(clip, block, frames.shape[:3]))
    if not found:
        raise NotDrawn("no frames of these clips are stored")
    return found


class Page:
    """A figure on which things are placed in inches from its upper left corner."""

    def __init__(self, made: Figure, width: float, height: float) -> None:
        self.made, self.width, self.height = made, width, height

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Bare axes at that place."""
        place = (x / self.width, 1 - (y + height) / self.height)
        ax = self.made.add_axes((*place, width / self.width, height / self.height))
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        return ax

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text whose upper left corner is there, unless the style says otherwise."""
        given = {"va": "top", "ha": "left", "fontsize": 7, **style}
        self.made.text(x / self.width, 1 - y / self.height, text, **given)

    def picture(self, x: float, y: float, size: tuple[float, float], frame: np.ndarray) -> Axes:
        """A frame (h, w, 3) uint8 at that place, in `size` inches."""
        ax = self.axes(x, y, *size)
        height, width = frame.shape[:2]
        shown = fitted(frame, size[0])
        ax.imshow(shown, interpolation="none", aspect="auto", extent=(0, width, height, 0))
        return ax

    def empty(self, x: float, y: float, size: tuple[float, float], note: str) -> None:
        """The place of a frame that is not there, with the reason."""
        ax = self.axes(x, y, *size)
        ax.set_facecolor(EMPTY)
        ax.text(0.5, 0.5, wrap(note, 12), ha="center", va="center", size=6.5, color=FAINT)


def fitted(frame: np.ndarray, inches: float) -> np.ndarray:
    """A frame with no more pixels than the print shows, reduced by area; smaller ones as is."""
    most = max(1, round(inches * DPI))
    height, width = frame.shape[:2]
    if width <= most:
        return frame
    size = (most, max(1, round(height * most / width)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def frame_strips(ask: Ask) -> Figure:
    """Rows are methods, source on top; columns are frames; boxes are shown enlarged below."""
    found = blocks(ask, most=1)
    left = label_width(found)
    heights = [_strip_height(ask, block, left) for block in found]
    with bare_figure(ask.width, sum(heights)) as made:
        page, y = Page(made, ask.width, sum(heights)), 0.0
        for block, height in zip(found, heights, strict=True):
            _strip(page, ask, block, left, y)
            y += height
        return made


def label_width(found: Sequence[Block]) -> float:
    """Inches for the labels at the left of all blocks."""
    labels = [strand.label for block in found for strand in block.strands]
    longest = max(len(line) for label in labels for line in wrap(label, LABEL_SIGNS).split("\n"))
    return longest * SIGN + 0.1


def picks(ask: Ask, count: int) -> list[int]:
    """Frames to show: those asked for that exist, else up to six spread over the clip."""
    most = MAX_FRAMES if ask.width > 5 else MAX_FRAMES // 2 + 1
    spread = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    return [frame for frame in ask.frames if frame < count] or [int(frame) for frame in spread]


def _frame_size(ask: Ask, block: Block, left: float) -> tuple[float, float]:
    count = len(picks(ask, block.shape[0]))
    width = min((ask.width - left - GAP * count) / count, 1.6)
    return width, width * block.shape[1] / block.shape[2]


def _zoom_height(ask: Ask, block: Block, width: float) -> float:
    """Inches of the line of enlarged boxes below each frame; all boxes have one width."""
    if not ask.zoom:
        return 0.0
    each = (width - GAP * (len(ask.zoom) - 1)) / len(ask.zoom)
    _, frame_height, frame_width = block.shape
    aspects = [box[3] * frame_height / (box[2] * frame_width) for box in ask.zoom]
    return each * max(aspects) + GAP


def _strip_height(ask: Ask, block: Block, left: float) -> float:
    width, height = _frame_size(ask, block, left)
    line = height + _zoom_height(ask, block, width) + GAP
    return 2 * HEAD + len(block.strands) * line + 0.08


def _strip(page: Page, ask: Ask, block: Block, left: float, top: float) -> None:
    width, height = _frame_size(ask, block, left)
    line = height + _zoom_height(ask, block, width) + GAP
    page.text(0.02, top + 0.02, clipped(block.clip, ask.width), fontweight="bold", fontsize=8)
    shown = picks(ask, block.shape[0])
    for column, frame in enumerate(shown):
        x = left + column * (width + GAP)
        page.text(x, top + HEAD + 0.02, f"frame {frame}", color=FAINT)
        for place, strand in enumerate(block.strands):
            y = top + 2 * HEAD + place * line
            if strand.frames is None or frame >= len(strand.frames):
                page.empty(x, y, (width, height), strand.note)
            else:
                _zoomed(page, ask.zoom, strand.frames[frame], x, y, (width, height))
    for place, strand in enumerate(block.strands):
        middle = top + 2 * HEAD + place * line + height / 2
        page.text(left - 0.07, middle, wrap(strand.label, LABEL_SIGNS), va="center", ha="right")


def _zoomed(
    page: Page,
    boxes: Sequence[Box],
    frame: np.ndarray,
    x: float,
    y: float,
    size: tuple[float, float],
) -> None:
    """A frame with its boxes outlined, and below it what lies in them."""
    ax = page.picture(x, y, size, frame)
    each = (size[0] - GAP * (len(boxes) - 1)) / max(1, len(boxes))
    for place, box in enumerate(boxes):
        top, bottom, left, right = box_pixels(box, frame.shape[:2])
        colour = BOX_COLOURS[place]
        outline: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": 1.1}
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, **outline))
        part = frame[top:bottom, left:right]
        height = each * part.shape[0] / part.shape[1]
        inset = page.picture(x + place * (each + GAP), y + size[1] + GAP, (each, height), part)
        inset.spines[:].set(visible=True, color=colour, linewidth=1.4)


def box_pixels(box: Box, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) in pixels of a box in parts of a frame; at least one pixel."""
    left, top = round(box[0] * shape[1]), round(box[1] * shape[0])
    left, top = min(left, shape[1] - 1), min(top, shape[0] - 1)
    right = min(shape[1], max(left + 1, round((box[0] + box[2]) * shape[1])))
    bottom = min(shape[0], max(top + 1, round((box[1] + box[3]) * shape[0])))
    return top, bottom, left, right


def x_t_slices(ask: Ask) -> Figure:
    """The middle image row of every frame, stacked downwards over time, methods side by side.

    A steady texture draws unbroken slanted lines; flicker breaks them into bands. The upper
    pictures are the first frames with the image row that was taken.
    """
    found = blocks(ask, most=2)
    heights = [_slice_height(ask, block) for block in found]
    with bare_figure(ask.width, sum(heights)) as made:
        page, top = Page(made, ask.width, sum(heights)), 0.0
        for block, height in zip(found, heights, strict=True):
            row = block.shape[1] // 2
            title = clipped(f"{block.clip}: image row {row}, time downwards", ask.width)
            page.text(0.02, top + 0.02, title, fontweight="bold", fontsize=8)
            for strand, x, y in _slice_places(ask, block, top + HEAD + 0.05):
                _slice(page, strand, x, y, _slice_sizes(ask, block))
            top += height
        return made


def clipped(text: str, width: float) -> str:
    """A bold title shortened so that it fits into `width` inches."""
    most = int(width / TITLE_SIGN)
    return text if len(text) <= most else text[: most - 1] + "…"


def _slice_sizes(ask: Ask, block: Block) -> tuple[float, float, float, float]:
    """Inches: width of a strand, height of its frame, of its slab, of its label."""
    across = min(SLICES_ACROSS[ask.width > 5], len(block.strands))
    width = min((ask.width - GAP * across) / across, 1.6)
    signs = _slice_signs(width)
    lines = max(wrap(strand.label, signs).count("\n") + 1 for strand in block.strands)
    frame = width * block.shape[1] / block.shape[2]
    return width, frame, 0.75 * frame, LINE * lines + 0.03


def _slice_signs(width: float) -> int:
    return max(6, int(width / SIGN))


def _slice_height(ask: Ask, block: Block) -> float:
    across = min(SLICES_ACROSS[ask.width > 5], len(block.strands))
    lines = -(-len(block.strands) // across)
    _, frame, slab, label = _slice_sizes(ask, block)
    return HEAD + 0.1 + lines * (frame + slab + label + 3 * GAP) + 0.05


def _slice_places(ask: Ask, block: Block, top: float) -> Iterator[tuple[Strand, float, float]]:
    across = min(SLICES_ACROSS[ask.width > 5], len(block.strands))
    width, frame, slab, label = _slice_sizes(ask, block)
    for place, strand in enumerate(block.strands):
        line, column = divmod(place, across)
        yield strand, column * (width + GAP), top + line * (frame + slab + label + 3 * GAP)


def _slice(
    page: Page, strand: Strand, x: float, y: float, sizes: tuple[float, float, float, float]
) -> None:
    width, frame, slab, label = sizes
    shown = wrap(strand.label, _slice_signs(width))
    page.text(x, y + label - 0.02, shown, color=FAINT, va="bottom")
    y += label
    if strand.frames is None:
        page.empty(x, y, (width, frame + GAP + slab), strand.note)
        return
    ax = page.picture(x, y, (width, frame), strand.frames[0])
    ax.axhline(strand.frames.shape[1] // 2 + 0.5, color=SCAN_COLOUR, linewidth=0.8)
    page.picture(x, y + frame + GAP, (width, slab), x_t(strand.frames))


def x_t(frames: np.ndarray) -> np.ndarray:
    """(f, h, w, 3) -> (f, w, 3): the middle image row of every frame."""
    return np.ascontiguousarray(frames[:, frames.shape[1] // 2])
