"""Pictures of frames: strips (methods x frames) and x-t slices, composed pixel by pixel.

Frames are read from the lossless files and scaled by whole numbers (enlarged) or by area (reduced).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crossframe.video import read_frames
from reports.load import ClipFolder, Run

GAP = 4
FRAME_SIDE = 144
SLICE_SIDE = 192
MAX_FRAMES = 6
TEXT = 15
PAPER, INK, FAINT = (255, 255, 255), (26, 26, 26), (110, 110, 110)
EMPTY = (238, 238, 238)
SCAN_COLOUR = (255, 0, 160)


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
            state = cell.state if cell else "not planned"
            folder = cell.folder if cell and cell.state == "done" else None
            found.append(Strand(row.label, _frames(folder), state))
    return found


def _source(clip: ClipFolder | None) -> Strand:
    return Strand("source", _frames(clip.folder if clip else None), "not stored")


def _frames(folder: Path | None) -> np.ndarray | None:
    frames = folder / "frames" if folder else None
    return read_frames(frames) if frames and any(frames.glob("*.png")) else None


def shown_clips(run: Run, most: int) -> list[str]:
    """Return the clips for figures: those of `report.clips`, else the first with a cell done."""
    named = run.spec.get("report", {}).get("clips") or []
    done = {cell.clip for cell in run.cells if cell.state == "done"}
    return [clip for clip in (named or run.clip_ids) if clip in done][: len(named) or most]


def frame_strips(run: Run, clips: Sequence[str], seed_index: int = 0) -> Image.Image | None:
    """Rows are methods, source on top; columns are frames. One block per clip, one above another.

    Returns None when there is nothing to show.
    """
    blocks = [_strip_block(strands(run, clip, seed_index), clip) for clip in clips]
    return _stack([block for block in blocks if block is not None])


def _strip_block(block: list[Strand], clip: str) -> Image.Image | None:
    shape = next((strand.frames.shape for strand in block if strand.frames is not None), None)
    if shape is None:
        return None
    picks = np.unique(np.linspace(0, shape[0] - 1, min(MAX_FRAMES, shape[0])).round().astype(int))
    size = _fit(shape[2], shape[1], FRAME_SIDE)
    left, top = _label_width(block), 2 * TEXT + 14
    width = left + len(picks) * (size[0] + GAP)
    canvas = Image.new("RGB", (width, top + len(block) * (size[1] + GAP)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 0), clip, INK, _font(bold=True))
    for column, frame in enumerate(picks):
        draw.text((left + column * (size[0] + GAP), TEXT + 8), f"frame {frame}", FAINT, _font())
    for line, strand in enumerate(block):
        y = top + line * (size[1] + GAP)
        draw.text((0, y + size[1] // 2 - TEXT // 2), strand.label, INK, _font())
        for column, frame in enumerate(picks):
            picture = _picture(strand, int(frame), size)
            canvas.paste(picture, (left + column * (size[0] + GAP), y))
    return canvas


def _picture(strand: Strand, frame: int, size: tuple[int, int]) -> Image.Image:
    if strand.frames is None or frame >= len(strand.frames):
        return _placeholder(size, strand.note)
    return _scaled(strand.frames[frame], size)


def x_t_slices(run: Run, clips: Sequence[str], seed_index: int = 0) -> Image.Image | None:
    """The middle image row of every frame, stacked downwards over time, methods side by side.

    A steady texture draws unbroken slanted lines; flicker breaks them into bands. The first line
    of each block shows the first frames with the image row that was taken.
    """
    blocks = [_slice_block(strands(run, clip, seed_index), clip) for clip in clips]
    return _stack([block for block in blocks if block is not None])


def _slice_block(block: list[Strand], clip: str) -> Image.Image | None:
    shape = next((strand.frames.shape for strand in block if strand.frames is not None), None)
    if shape is None:
        return None
    frame_size = _fit(shape[2], shape[1], SLICE_SIDE)
    step = max(2, round(frame_size[1] * 0.75 / shape[0]))
    slice_size = (frame_size[0], step * shape[0])
    top = 2 * TEXT + 14
    height = top + frame_size[1] + GAP + slice_size[1] + GAP
    title = f"{clip}: image row {shape[1] // 2} over time (downwards)"
    width = max(len(block) * (frame_size[0] + GAP), round(_font(bold=True).getlength(title)))
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 0), title, INK, _font(bold=True))
    for column, strand in enumerate(block):
        x = column * (frame_size[0] + GAP)
        draw.text((x, TEXT + 8), _clipped(strand.label, frame_size[0]), FAINT, _font())
        canvas.paste(_marked(strand, frame_size), (x, top))
        canvas.paste(_slice(strand, slice_size), (x, top + frame_size[1] + GAP))
    return canvas


def _marked(strand: Strand, size: tuple[int, int]) -> Image.Image:
    if strand.frames is None:
        return _placeholder(size, strand.note)
    picture = _scaled(strand.frames[0], size)
    line = size[1] // 2
    ImageDraw.Draw(picture).line([(0, line), (size[0], line)], SCAN_COLOUR, 1)
    return picture


def _slice(strand: Strand, size: tuple[int, int]) -> Image.Image:
    if strand.frames is None:
        return _placeholder(size, "")
    slab = x_t(strand.frames)
    return Image.fromarray(slab).resize(size, Image.Resampling.NEAREST)


def x_t(frames: np.ndarray) -> np.ndarray:
    """(f, h, w, 3) -> (f, w, 3): the middle image row of every frame."""
    return np.ascontiguousarray(frames[:, frames.shape[1] // 2])


def _fit(width: int, height: int, side: int) -> tuple[int, int]:
    """Size of a frame in a figure: a whole multiple when enlarged, `side` at most when reduced."""
    longest = max(width, height)
    factor = side / longest if longest > side else max(1, side // longest)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _scaled(frame: np.ndarray, size: tuple[int, int]) -> Image.Image:
    shrinks = size[0] < frame.shape[1]
    return Image.fromarray(frame).resize(
        size, Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
    )


def _placeholder(size: tuple[int, int], note: str) -> Image.Image:
    picture = Image.new("RGB", size, EMPTY)
    ImageDraw.Draw(picture).text((8, size[1] // 2 - TEXT // 2), note, FAINT, _font())
    return picture


def _stack(blocks: list[Image.Image]) -> Image.Image | None:
    if not blocks:
        return None
    margin = 3 * GAP
    width = max(block.width for block in blocks) + 2 * margin
    canvas = Image.new("RGB", (width, sum(b.height + 2 * margin for b in blocks)), PAPER)
    y = margin
    for block in blocks:
        canvas.paste(block, (margin, y))
        y += block.height + 2 * margin
    return canvas


def _label_width(block: list[Strand]) -> int:
    return round(max(_font().getlength(strand.label) for strand in block)) + 3 * GAP


def _clipped(text: str, width: int) -> str:
    """`text` shortened so that it fits into `width` pixels."""
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts/ttf" / name, TEXT)
