"""Control maps from files: a sidecar names them, counts and sizes must fit, changes count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossframe.errors import UserError
from crossframe.video import write_frames, write_mp4
from data_manifests.clips import ClipRequest, load_clip
from data_manifests.fingerprints import fingerprint
from data_manifests.footage import noted_states
from data_manifests.sidecar import read_sidecar, read_sidecars

COUNT, HEIGHT, WIDTH = 6, 24, 32


def pictures(
    shift: int = 0, count: int = COUNT, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> np.ndarray:
    """Flat pictures, each told by its level."""
    levels = [20 * k + shift for k in range(count)]
    return np.stack([np.full((*size, 3), level, np.uint8) for level in levels])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A folder of pictures with depth beside it, and a sidecar that says so."""
    write_frames(tmp_path / "dog", pictures())
    write_frames(tmp_path / "maps", pictures(shift=7))
    (tmp_path / "dog.yaml").write_text("caption: a dog\ncontrols: {depth: maps}\n")
    return tmp_path / "dog"


def request(path: Path, **part: int) -> ClipRequest:
    return ClipRequest(str(path), **{"frames": 2, "size": 16, "start": 1, "stride": 2, **part})


def test_maps_are_read_as_the_frames_are(clip: Path) -> None:
    loaded = load_clip(request(clip))
    assert loaded.frames[:, 0, 0, 0].tolist() == [20, 60]
    assert loaded.controls.keys() == {"depth"}
    assert loaded.controls["depth"].shape == loaded.frames.shape
    assert loaded.controls["depth"][:, 0, 0, 0].tolist() == [27, 67]
    assert loaded.truth is None


def test_a_video_may_have_a_video_of_maps(tmp_path: Path) -> None:
    write_mp4(tmp_path / "cat.mp4", pictures(), 8.0)
    write_mp4(tmp_path / "pose.mp4", pictures(shift=10), 8.0)
    (tmp_path / "cat.yaml").write_text("controls: {pose: pose.mp4}\n")
    loaded = load_clip(request(tmp_path / "cat.mp4"))
    levels = loaded.controls["pose"][:, 8, 8, 0].astype(int)
    assert np.abs(levels - [30, 70]).max() <= 2


def test_maps_are_part_of_what_a_clip_is(clip: Path) -> None:
    with_maps = load_clip(request(clip))
    (clip.parent / "dog.yaml").write_text("caption: a dog\n")
    bare = load_clip(request(clip))
    assert np.array_equal(bare.frames, with_maps.frames)
    assert bare.sha256 != with_maps.sha256
    (clip.parent / "dog.yaml").write_text("controls: {depth: maps}\n")
    write_frames(clip.parent / "maps", pictures(shift=8))
    assert load_clip(request(clip)).sha256 not in (bare.sha256, with_maps.sha256)


def test_files_of_maps_are_watched(tmp_path: Path) -> None:
    write_mp4(tmp_path / "cat.mp4", pictures(), 8.0)
    name = str(tmp_path / "cat.mp4")
    assert noted_states("file", name) == []
    write_frames(tmp_path / "maps", pictures())
    (tmp_path / "cat.yaml").write_text("controls: {depth: maps}\n")
    assert len(noted_states("file", name)) == COUNT
    (tmp_path / "cat.yaml").write_text("controls: {depth: nowhere.mp4}\n")
    assert noted_states("file", name) == [None]
    assert fingerprint(ClipRequest(name)) is None


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (pictures(count=5), "holds 5 maps, dog has 6 frames"),
        (pictures(size=(32, 24)), "is 24x32 pixels, dog is 32x24"),
    ],
)
def test_maps_of_another_count_or_shape_are_refused(
    clip: Path, maps: np.ndarray, said: str
) -> None:
    write_frames(clip.parent / "maps", maps)
    with pytest.raises(UserError, match=said) as caught:
        load_clip(request(clip))
    assert "dog.yaml: controls.depth" in str(caught.value)


def test_larger_maps_of_the_same_proportions_fit(clip: Path) -> None:
    write_frames(clip.parent / "maps", pictures(shift=7, size=(2 * HEIGHT + 1, 2 * WIDTH)))
    assert load_clip(request(clip)).controls["depth"][0, 0, 0, 0] == 27


def test_every_absent_map_is_told(clip: Path) -> None:
    (clip.parent / "dog.yaml").write_text("controls: {depth: nowhere, pose: none.mp4}\n")
    with pytest.raises(UserError) as caught:
        load_clip(request(clip))
    assert [p.where.split(": ")[1] for p in caught.value.problems] == [
        "controls.depth",
        "controls.pose",
    ]


def test_sidecars_say_what_controls_may_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("controls: maps\n")
    with pytest.raises(UserError, match=r"\{KIND: PATH, \.\.\.\}"):
        read_sidecar(path)
    path.write_text("controls: {depth: 3}\n")
    with pytest.raises(UserError, match=r"controls\.depth: 3 is not a text"):
        read_sidecar(path)
    path.write_text("a: {controls: {depth: maps}}\n")
    with pytest.raises(UserError, match="unknown key 'controls'"):
        read_sidecars(path)
