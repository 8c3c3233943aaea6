"""Clips that are no squares: from the spec to the frames, truth, masks, maps and scores."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_parts import fake_parts
from PIL import Image

from ablations.check import load_spec
from ablations.spec import ClipSettings, json_schema
from crossframe.errors import UserError
from crossframe.form import show_size, width_height
from crossframe.video import fit_frame, read_video, write_frames, write_mp4
from data_manifests.annotations import read_masks
from data_manifests.clips import SOURCES, ClipRequest, load_clip
from data_manifests.manifest import Transform
from data_manifests.pictures import read_picture

SPEC = """\
name: wide
method: noisy
grid: {attention.pattern: [individual, full]}
clips: [world:tiny/0]
clip: {frames: 2, size: [24, 16]}
metrics: [psnr/mean_error]
"""
FOOTAGE = os.environ.get("CROSSFRAME_FOOTAGE", "")


def ramp(width: int, height: int) -> np.ndarray:
    """A picture whose red is its column and whose green is its row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)


def test_a_form_is_a_side_or_two():
    assert width_height(5) == (5, 5)
    assert width_height([1024, 576]) == (1024, 576)
    assert (show_size(64), show_size((24, 16))) == ("64x64", "24x16")


# picture, size, first column, first row, source pixels per pixel
FITS = [
    ((40, 12), (8, 4), 8, 0, 3),  # a picture wider than the form loses its sides
    ((24, 24), (8, 4), 0, 6, 3),  # a higher one its top and bottom
    ((40, 24), (4, 8), 14, 0, 3),
    ((40, 12), 4, 14, 0, 3),
    ((12, 6), (12, 6), 0, 0, 1),
    ((13, 6), (10, 6), 1.5, 0, 1),
]


@pytest.mark.parametrize(("picture", "size", "left", "top", "scale"), FITS)
def test_a_frame_covers_its_form_about_the_centre(picture, size, left, top, scale):
    made = fit_frame(ramp(*picture), size).astype(float)
    width, height = width_height(size)
    middle = (scale - 1) / 2
    assert made.shape == (height, width, 3)
    assert np.abs(made[..., 0] - (left + middle + scale * np.arange(width))).max() <= 0.5
    assert np.abs(made[..., 1] - (top + middle + scale * np.arange(height))[:, None]).max() <= 0.5


def test_a_form_may_be_larger_than_the_picture():
    made = fit_frame(ramp(40, 24), (160, 80))
    assert made.shape == (80, 160, 3)
    assert (made[:, 0, 0].max(), made[:, -1, 0].min()) == (0, 39)  # all of its width
    assert (made[..., 1].min(), made[..., 1].max()) == (2, 21)  # and 20 of its 24 rows


def test_footage_of_every_kind_takes_the_form(tmp_path):
    frames = np.repeat(ramp(40, 24)[None] * 4, 3, 0)
    write_frames(tmp_path / "dog", frames)
    write_mp4(tmp_path / "cat.mp4", frames, 8.0)
    size = (24, 16)
    folder = load_clip(ClipRequest(str(tmp_path / "dog"), 2, size)).frames
    video, _ = read_video(tmp_path / "cat.mp4", frames=2, size=size)
    picture = read_picture(tmp_path / "dog" / "0000.png", size)
    assert folder.shape == video.shape == (2, 16, 24, 3)
    assert np.array_equal(picture, folder[0])
    assert np.abs(video.astype(int)[..., 1] - folder[..., 1]).mean() < 6


def test_maps_and_masks_keep_step_with_the_frames(tmp_path):
    write_frames(tmp_path / "dog", np.repeat(ramp(40, 24)[None], 2, 0))
    write_frames(tmp_path / "maps", np.repeat(ramp(40, 24)[None] + np.uint8(9), 2, 0))
    (tmp_path / "dog.yaml").write_text("controls: {depth: maps}\n")
    levels = np.zeros((24, 40), np.uint8)
    levels[8:16, 10:30] = 1
    (tmp_path / "marks").mkdir()
    for index in range(2):
        Image.fromarray(levels).save(tmp_path / f"marks/{index}.png")
    request = ClipRequest(str(tmp_path / "dog"), 2, (16, 12))
    clip = load_clip(request)
    assert clip.controls["depth"].shape == clip.frames.shape == (2, 12, 16, 3)
    assert np.array_equal(clip.controls["depth"][..., :2], clip.frames[..., :2] + 9)
    masks = read_masks(tmp_path / "marks", request, 2)
    assert masks.shape == (2, 1, 12, 16)
    # 32 of the 40 columns stay: 4 to 36, two to a pixel.
    expected = np.zeros((12, 16), bool)
    expected[4:8, 3:13] = True
    assert np.array_equal(masks[0, 0], expected)


@pytest.mark.parametrize("size", [(48, 24), (24, 48)])
@pytest.mark.parametrize("motion", ["rotation", "occluder"])
def test_a_photograph_shows_the_middle_of_its_square(motion, size):
    ref, cut = f"photo:gravel/{motion}", slice(12, 36)
    wide, square = (load_clip(ClipRequest(ref, 3, s, stride=5)) for s in (size, 48))
    part = (slice(None), cut) if size[0] > size[1] else (slice(None), slice(None), cut)
    assert np.array_equal(wide.frames, square.frames[part])
    assert np.array_equal(wide.truth.masks, square.truth.masks[:, :, *part[1:]])
    for way in ("forward", "backward"):
        flow = getattr(wide.truth, f"flow_{way}")
        np.testing.assert_allclose(flow, getattr(square.truth, f"flow_{way}")[part], atol=1e-5)
        found = getattr(wide.truth, f"occluded_{way}")
        known = getattr(square.truth, f"occluded_{way}")[part]
        rows, columns = np.mgrid[: size[1], : size[0]]
        end = columns + flow[..., 0], rows + flow[..., 1]
        left = [(e < -1e-4) | (e > n - 1 + 1e-4) for e, n in zip(end, size, strict=True)]
        assert np.array_equal(found, known | left[0] | left[1])


@pytest.mark.parametrize("ref", ["world:heldout/0", "faces:heldout/0"])
def test_drawn_worlds_stay_square(ref):
    with pytest.raises(UserError, match=r"clip\.size: is 24x16, and clips of .* are drawn as sq"):
        load_clip(ClipRequest(ref, 1, (24, 16)))
    square = load_clip(ClipRequest(ref, 2, (24, 24)))
    assert square.sha256 == load_clip(ClipRequest(ref, 2, 24)).sha256
    assert SOURCES.entry(ref.partition(":")[0]).extra["square"]


def test_a_request_for_nothing_is_refused():
    with pytest.raises(UserError, match=r"clip\.size: 0 is too small"):
        ClipRequest("x.mp4", size=(8, 0))


# --- specs ---
def checked(tmp_path, *overrides, text=SPEC):
    (tmp_path / "s.yaml").write_text(text)
    return load_spec(tmp_path / "s.yaml", overrides, fake_parts())


@pytest.mark.parametrize(
    ("size", "meant"), [("[24, 16]", (24, 16)), ("[16, 24]", (16, 24)), ("[64, 64]", 64), ("9", 9)]
)
def test_a_spec_states_a_form(size, meant, tmp_path):
    assert checked(tmp_path, f"clip.size={size}").spec.clip.size == meant


@pytest.mark.parametrize(
    ("size", "what"),
    [
        ("[24]", "must be a side in pixels, or [width, height] (got [24])"),
        ("[24, 16, 3]", "must be a side in pixels, or [width, height]"),
        ("[24, 16.0]", "must be a side in pixels, or [width, height]"),
        ("true", "must be a side in pixels, or [width, height]"),
        ("24x16", "must be a side in pixels, or [width, height]"),
        ("[24, 7]", "sides must be 8 to 8,192 pixels"),
        ("[8193, 16]", "sides must be 8 to 8,192 pixels"),
    ],
)
def test_other_forms_are_one_error(size, what, tmp_path):
    with pytest.raises(UserError) as caught:
        checked(tmp_path, f"clip.size={size}")
    (problem,) = caught.value.problems
    assert what in str(problem)
    assert "clip.size" in problem.where


def test_the_bound_on_pixels_counts_both_sides(tmp_path):
    assert ClipSettings(frames=25, size=(1024, 576)).size == (1024, 576)
    with pytest.raises(UserError, match=r"frames x width x height is more than 1,073,741,824"):
        checked(tmp_path, "clip={frames: 129, size: [8192, 1024]}")


def test_sources_of_squares_are_named_once_at_the_size(tmp_path):
    parts = replace(fake_parts(), clip_sources=SOURCES)
    (tmp_path / "s.yaml").write_text(SPEC.replace("world:tiny/0", "world:heldout/0..7, faces:a/0"))
    with pytest.raises(UserError) as caught:
        load_spec(tmp_path / "s.yaml", (), parts)
    places = [problem.where.rpartition("/")[2] for problem in caught.value.problems]
    assert places == ["s.yaml:5:25: clip.size"] * 2
    assert "clips of faces: are drawn as squares" in str(caught.value)


def test_editors_know_both_forms():
    clip = json_schema(["m"], ["x"])["$defs"]["ClipSettings"]["properties"]["size"]
    side = {"type": "integer", "minimum": 8, "maximum": 8192}
    pair = {"type": "array", "items": side, "minItems": 2, "maxItems": 2}
    assert clip["anyOf"] == [side, pair]


def test_a_manifest_may_hash_a_form():
    assert Transform.model_validate({"size": [1024, 576]}).size == (1024, 576)
    assert Transform.model_validate({"size": 512}).size == 512


@pytest.mark.skipif(not FOOTAGE, reason="CROSSFRAME_FOOTAGE names no folder of mp4 files")
def test_real_footage_takes_a_published_form():
    for path in sorted(Path(FOOTAGE).glob("*.mp4")):
        clip = load_clip(ClipRequest(str(path), frames=2, size=(256, 144)))
        assert clip.frames.shape == (2, 144, 256, 3)
        assert clip.frames.std() > 10
