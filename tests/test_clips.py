import numpy as np
import pytest
from conftest import CLIP_FPS, clip_level

from crossframe.errors import UserError
from crossframe.keys import array_sha256
from data_manifests.clips import Clip, ClipRequest, clip_id, expand_refs, load_clip, split_ref
from data_manifests.footage import Sidecar, read_sidecar


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
        ("captoin: a dog", ["unknown key 'captoin' (allowed: caption, edits). did you mean"]),
        ("- a dog", ["x.yaml: holds ['a dog'] (allowed: caption: TEXT"]),
        ("edits: a fox", ["x.yaml: edits: holds 'a fox'"]),
        (
            "caption: 3\nedits: {object: true}",
            ["x.yaml: caption: 3 is not a text", "x.yaml: edits.object: True is not a text"],
        ),
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
