import os
from pathlib import Path

import numpy as np
import pytest
from conftest import CLIP_FPS, clip_level
from PIL import Image

from crossframe.errors import UserError
from crossframe.keys import array_sha256
from data_manifests.clips import Clip, ClipRequest, clip_id, expand_refs, load_clip, split_ref
from data_manifests.footage import PICTURES_FPS, Sidecar, read_sidecar
from data_manifests.pictures import natural_key, picture_paths
from data_manifests.sidecar import read_sidecars

FOOTAGE = os.environ.get("CROSSFRAME_FOOTAGE", "")


@pytest.mark.parametrize(
    ("ref", "expected", "name"),
    [
        ("world:heldout/3", ("world", "heldout/3"), "world:heldout/3"),
        ("clips/dog.mp4", ("file", "clips/dog.mp4"), "dog"),
        ("/a/b/dog.tail.mp4", ("file", "/a/b/dog.tail.mp4"), "dog.tail"),
        ("file:at:noon.mp4", ("file", "at:noon.mp4"), "at:noon"),
    ],
)
def test_a_reference_has_a_source_and_a_name(ref, expected, name):
    assert split_ref(ref) == expected
    assert clip_id(ref) == name


def test_ranges_hold_both_ends(tmp_path):
    refs = expand_refs(["world:heldout/8..11", "world:train/5"], tmp_path)
    assert refs == [*(f"world:heldout/{i}" for i in (8, 9, 10, 11)), "world:train/5"]


def test_nothing_is_listed_twice(tmp_path):
    refs = expand_refs(["world:heldout/0..2", "world:heldout/1..3"], tmp_path)
    assert refs == [f"world:heldout/{i}" for i in range(4)]


def test_a_backward_range_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"7\.\.0 runs backwards\. write 0\.\.7"):
        expand_refs(["world:heldout/7..0"], tmp_path)


def test_globs_are_sorted_and_leave_sidecars_out(tmp_path):
    for name in ("b.mp4", "a.mp4", "a.yaml", "deep/c.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = {name: str(tmp_path / name) for name in ("a.mp4", "b.mp4", "deep/c.mov")}
    assert expand_refs(["[ab].*"], tmp_path) == [files["a.mp4"], files["b.mp4"]]
    assert expand_refs(["**/*.mov", "b.mp4"], tmp_path) == [files["deep/c.mov"], files["b.mp4"]]
    assert expand_refs([files["a.mp4"]], tmp_path / "deep") == [files["a.mp4"]]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    (tmp_path / "clip[1].mp4").touch()
    (tmp_path / "clip1.mp4").touch()
    assert expand_refs(["clip[1].mp4"], tmp_path) == [str(tmp_path / "clip[1].mp4")]


@pytest.mark.parametrize(
    ("ref", "what"), [("missing.mp4", "no such file"), ("none*.mp4", "no file matches")]
)
def test_what_matches_nothing_stays_and_fails_when_loaded(tmp_path, ref, what):
    (single,) = expand_refs([ref], tmp_path)
    assert single == str(tmp_path / ref)
    with pytest.raises(UserError, match=what):
        load_clip(ClipRequest(single))


def test_two_files_of_one_name_are_told_apart_by_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    for path in ("dog.mp4", "a/dog.mp4"):
        (tmp_path / path).touch()
    with pytest.raises(UserError, match=r"a/dog\.mp4: has the same name 'dog' as .*dog\.mp4"):
        expand_refs(["dog.mp4", "a/dog.mp4"], tmp_path)


def test_a_bad_request_lists_every_problem():
    with pytest.raises(UserError) as caught:
        ClipRequest("x.mp4", frames=0, stride=-1)
    assert [problem.where for problem in caught.value.problems] == ["clip.frames", "clip.stride"]


def test_an_unknown_source_is_an_error():
    with pytest.raises(UserError, match=r"wrold:heldout.* no clip source 'wrold'.*'world'\?"):
        load_clip(ClipRequest("wrold:heldout/0"))


def test_a_path_with_a_colon_is_shown_how_to_be_written(tmp_path, monkeypatch, clip_mp4):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "at:noon.mp4").write_bytes(clip_mp4.read_bytes())
    with pytest.raises(UserError, match=r"write file:at:noon\.mp4"):
        load_clip(ClipRequest("at:noon.mp4"))
    assert load_clip(ClipRequest("file:at:noon.mp4")).id == "at:noon"


def test_footage_without_a_sidecar(clip_mp4):
    clip = load_clip(ClipRequest(str(clip_mp4), frames=3, size=32, start=1, stride=2))
    assert (clip.id, clip.caption, clip.edits, clip.truth) == ("clip", "", {}, None)
    assert clip.frames.shape == (3, 32, 32, 3)
    assert clip.fps == CLIP_FPS / 2
    wanted = np.array([clip_level(i) for i in (1, 3, 5)])
    assert np.abs(clip.frames.mean((1, 2, 3)) - wanted).max() < 2
    assert clip.sha256 == array_sha256(clip.frames)


def test_footage_with_a_sidecar(tmp_path, clip_mp4):
    (tmp_path / "dog.mp4").write_bytes(clip_mp4.read_bytes())
    (tmp_path / "dog.yaml").write_text(
        "caption: a dog on grass\nedits:\n  object: a fox on grass\n  background: a dog on snow\n"
    )
    clip = load_clip(ClipRequest(str(tmp_path / "dog.mp4")))
    assert clip.caption == "a dog on grass"
    assert clip.edits == {"object": "a fox on grass", "background": "a dog on snow"}


def test_an_absent_or_empty_sidecar_says_nothing(tmp_path):
    assert read_sidecar(tmp_path / "none.yaml") == Sidecar()
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_sidecar(tmp_path / "empty.yaml") == Sidecar()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("caption: [a\nedits: b", ["x.yaml:2:6: not valid YAML"]),
        (
            "captoin: a dog",
            ["unknown key 'captoin' (allowed: caption, edits, fps, controls, voice). did you mean"],
        ),
        ("- a dog", ["x.yaml: holds ['a dog'] (allowed: caption: TEXT"]),
        ("edits: a fox", ["x.yaml: edits: holds 'a fox'"]),
        (
            "caption: 3\nedits: {object: true}",
            ["x.yaml: caption: 3 is not a text", "x.yaml: edits.object: True is not a text"],
        ),
        ("fps: fast", ["x.yaml: fps: 'fast' is not a frame rate (allowed: a number above 0)"]),
        ("fps: 0", ["x.yaml: fps: 0 is not a frame rate"]),
    ],
)
def test_a_bad_sidecar_tells_everything_wrong(tmp_path, text, lines):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_sidecar(tmp_path / "x.yaml")
    shown = str(caught.value).splitlines()
    assert len(shown) == len(lines)
    assert all(part in line for part, line in zip(lines, shown, strict=True))


def test_a_clip_is_named_by_its_frames():
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    assert Clip("a", frames, 8.0).sha256 == Clip("b", frames.copy(), 30.0).sha256


def write_pictures(folder, count, size=(40, 30), suffix=".png", first=1):
    """Write grey pictures called 1, 2, ... 10, 11, each brighter than the last."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        path = folder / f"{first + index}{suffix}"
        Image.new("RGB", size, (clip_level(index),) * 3).save(path)
    return folder


def test_numbers_in_names_count_as_numbers():
    names = ["f10.png", "f2.png", "F1.png", "a.png", "3.png", "10.png", "f2b.png"]
    ordered = ["3.png", "10.png", "a.png", "F1.png", "f2.png", "f2b.png", "f10.png"]
    assert sorted(names, key=natural_key) == ordered


def test_a_folder_of_pictures_is_a_clip(tmp_path):
    folder = write_pictures(tmp_path / "dog", 12)
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("nor this")
    (tmp_path / "dog.yaml").write_text("caption: a dog\nfps: 24\n")
    clip = load_clip(ClipRequest(str(folder), frames=4, size=16, start=1, stride=3))
    assert (clip.id, clip.caption, clip.fps, clip.truth) == ("dog", "a dog", 8.0, None)
    levels = [clip_level(index) for index in (1, 4, 7, 10)]
    np.testing.assert_array_equal(clip.frames[:, 8, 8, 0], levels)
    assert clip.frames.shape == (4, 16, 16, 3)


def test_a_folder_states_no_rate(tmp_path):
    clip = load_clip(ClipRequest(str(write_pictures(tmp_path / "a", 2)), frames=2, size=8))
    assert clip.fps == PICTURES_FPS


def test_pictures_are_cropped_as_video_frames_are(tmp_path, clip_mp4):
    from crossframe.video import read_video, write_frames

    whole, _ = read_video(clip_mp4, frames=3)
    write_frames(tmp_path / "same", whole)
    from_folder = load_clip(ClipRequest(str(tmp_path / "same"), frames=3, size=24))
    from_video = load_clip(ClipRequest(str(clip_mp4), frames=3, size=24))
    np.testing.assert_array_equal(from_folder.frames, from_video.frames)


def test_a_stored_rotation_is_applied(tmp_path):
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    exif = image.getexif()
    exif[0x0112] = 3  # turned by 180 degrees
    image.save(tmp_path / "0.png", exif=exif)
    clip = load_clip(ClipRequest(str(tmp_path), frames=1, size=4))
    np.testing.assert_array_equal(clip.frames[0], np.asarray(image)[::-1, ::-1])


def test_a_gif_is_a_clip(tmp_path):
    levels = [clip_level(index) for index in range(5)]
    images = [Image.new("RGB", (20, 20), (level,) * 3) for level in levels]
    path = tmp_path / "a.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    clip = load_clip(ClipRequest(str(path), frames=3, size=20, stride=2))
    np.testing.assert_array_equal(clip.frames[:, 3, 3], np.repeat(levels[::2], 3).reshape(3, 3))
    assert clip.fps == pytest.approx(5)


def test_a_folder_that_is_too_short_tells_what_fits(tmp_path):
    write_pictures(tmp_path / "a", 5)
    with pytest.raises(UserError, match=r"a: has 5 frames; 4 frames .* stride up to 1 for 4"):
        load_clip(ClipRequest(str(tmp_path / "a"), frames=4, stride=2))


def test_a_folder_without_pictures_names_the_folders_in_it(tmp_path):
    write_pictures(tmp_path / "all" / "one", 1)
    with pytest.raises(UserError, match=r"holds no pictures, but 1 folders.*all/one"):
        load_clip(ClipRequest(str(tmp_path / "all")))
    with pytest.raises(UserError, match="no such folder"):
        picture_paths(tmp_path / "none")


def test_bad_pictures_are_told_all_at_once(tmp_path):
    write_pictures(tmp_path, 2)
    (tmp_path / "3.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "4.jpg").write_text("text")
    Image.fromarray(np.zeros((30, 40), np.uint16)).save(tmp_path / "5.png")
    with pytest.raises(UserError) as caught:
        load_clip(ClipRequest(str(tmp_path), frames=5, size=8))
    lines = str(caught.value).splitlines()
    parts = ["3.png: is damaged", "4.jpg: is not a picture", "5.png: has more than 8 bits"]
    assert len(lines) == 3
    assert all(part in line for part, line in zip(parts, lines, strict=True))


def test_pictures_of_two_sizes_are_an_error(tmp_path):
    write_pictures(tmp_path, 2)
    write_pictures(tmp_path, 1, (20, 30), first=3)
    with pytest.raises(UserError, match=r"3\.png: is 20x30 pixels, 1\.png is 40x30"):
        load_clip(ClipRequest(str(tmp_path), frames=3, size=8))


def test_one_file_can_hold_the_notes_of_many_clips(tmp_path):
    path = tmp_path / "prompts.yaml"
    assert read_sidecars(path) == {}
    path.write_text("dog: {caption: a dog, edits: {object: a fox}}\ncat:\n7: {fps: 5}\n")
    assert read_sidecars(path) == {
        "dog": Sidecar("a dog", {"object": "a fox"}),
        "cat": Sidecar(),
        "7": Sidecar(fps=5),
    }
    path.write_text("dog: {captoin: a dog}\ncat: 3\n")
    with pytest.raises(UserError) as caught:
        read_sidecars(path)
    assert [p.where for p in caught.value.problems] == [f"{path}: dog", f"{path}: cat"]


@pytest.mark.skipif(not FOOTAGE, reason="CROSSFRAME_FOOTAGE names no folder of mp4 files")
def test_real_footage_is_read():
    paths = sorted(Path(FOOTAGE).glob("*.mp4"))
    for path in paths:
        clip = load_clip(ClipRequest(str(path), frames=3, size=64, stride=5))
        assert clip.frames.shape == (3, 64, 64, 3)
        assert clip.frames.std() > 10
        assert clip.fps > 0
    assert paths
