import struct

import av
import numpy as np
import pytest
from conftest import CLIP_FPS, CLIP_FRAMES, CLIP_HEIGHT, CLIP_WIDTH, clip_level, write_h264

from crossframe.errors import UserError
from crossframe.video import VideoInfo, probe, read_frames, read_video, write_frames, write_mp4

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 64, 200)]


def boxes(data):
    """Yield (type, payload) of the top-level boxes of an ISO base media file."""
    while data:
        size, kind = struct.unpack(">I4s", data[:8])
        yield kind.decode(), data[8:size]
        data = data[size:]


def colour_bars(height, width, frames=3):
    """Frames whose columns show `COLOURS` in equal bars."""
    bars = np.array(COLOURS, np.uint8)[np.arange(width) * len(COLOURS) // width]
    return np.broadcast_to(bars, (frames, height, width, 3)).copy()


def test_probe_counts_what_is_there(clip_mp4):
    assert probe(clip_mp4) == VideoInfo(CLIP_FRAMES, CLIP_WIDTH, CLIP_HEIGHT, CLIP_FPS)


def test_read_picks_exactly_the_frames_asked_for(clip_mp4):
    frames, fps = read_video(clip_mp4, frames=4, start=2, stride=3)
    assert frames.shape == (4, CLIP_HEIGHT, CLIP_WIDTH, 3)
    assert frames.dtype == np.uint8
    assert fps == pytest.approx(CLIP_FPS / 3)
    wanted = np.array([clip_level(i) for i in (2, 5, 8, 11)])
    assert np.abs(frames.mean((1, 2, 3)) - wanted).max() < 2


def test_size_crops_the_central_square_and_averages_areas(media):
    image = np.full((48, 96, 3), 40, np.uint8)
    image[:, 24:72] = np.where(np.arange(48)[:, None, None] < 24, 100, 200)
    path = write_h264(media / "wide.mp4", np.repeat(image[None], 2, 0))
    whole, _ = read_video(path, frames=1)
    small, _ = read_video(path, frames=1, size=16)
    square = whole[0, :, 24:72].astype(float)
    assert small.shape == (1, 16, 16, 3)
    assert np.abs(small[0] - square.reshape(16, 3, 16, 3, 3).mean((1, 3))).max() <= 1


def test_size_may_enlarge(clip_mp4):
    frames, _ = read_video(clip_mp4, frames=1, size=100)
    assert frames.shape == (1, 100, 100, 3)
    assert np.abs(frames.astype(int) - clip_level(0)).max() < 3


def test_a_stored_rotation_is_applied(media):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 255
    path = write_h264(media / "turned.mp4", np.repeat(image[None], 2, 0), rotation=90)
    frames, _ = read_video(path, frames=2)
    # Turned a quarter counterclockwise, the left half lies at the bottom.
    assert frames.shape == (2, 64, 48, 3)
    assert frames[:, 40:].min() > 240
    assert frames[:, :24].max() < 15
    assert (probe(path).width, probe(path).height) == (48, 64)


def test_mp4_keeps_the_colours(tmp_path):
    bars = colour_bars(64, 192)
    write_mp4(tmp_path / "bars.mp4", bars, 29.97)
    frames, fps = read_video(tmp_path / "bars.mp4", frames=3)
    centres = np.arange(16, 192, 32)
    assert np.abs(frames[:, 32, centres].astype(int) - np.array(COLOURS)).max() <= 4
    assert fps == pytest.approx(29.97)


def test_mp4_is_tagged_and_streamable(tmp_path):
    write_mp4(tmp_path / "bars.mp4", colour_bars(32, 48), 8)
    data = (tmp_path / "bars.mp4").read_bytes()
    kinds = [kind for kind, _ in boxes(data)]
    assert kinds.index("moov") < kinds.index("mdat")
    # The colr box: primaries, transfer and matrix 1 (BT.709), and the full-range bit off.
    assert b"colrnclx" + struct.pack(">HHHB", 1, 1, 1, 0) in data
    with av.open(tmp_path / "bars.mp4") as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")


def test_mp4_pads_odd_sizes_by_repeating_the_edge(tmp_path):
    frames = np.full((2, 33, 35, 3), 120, np.uint8)
    write_mp4(tmp_path / "odd.mp4", frames, 8)
    read, _ = read_video(tmp_path / "odd.mp4", frames=2)
    assert read.shape == (2, 34, 36, 3)
    assert np.abs(read.astype(int) - 120).max() <= 2


def test_frames_round_trip_without_loss(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (11, 7, 5, 3), np.uint8)
    write_frames(tmp_path / "frames", frames[::-1])
    write_frames(tmp_path / "frames", frames)
    assert (tmp_path / "frames" / "0010.png").exists()
    np.testing.assert_array_equal(read_frames(tmp_path / "frames"), frames)
    write_frames(tmp_path / "frames", frames[:2])
    assert len(read_frames(tmp_path / "frames")) == 2


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_writers_take_only_rgb_bytes(tmp_path, bad):
    with pytest.raises(ValueError, match="uint8"):
        write_frames(tmp_path / "frames", bad)
    with pytest.raises(ValueError, match="uint8"):
        write_mp4(tmp_path / "x.mp4", bad, 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("audio_only", "has no video stream, only audio"),
        ("zero_frames", "holds no frames at all"),
        ("text_mp4", "is a text file, not a video"),
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("empty", r"is empty \(0 bytes\)"),
        ("noise", "FFmpeg cannot read it as a video"),
        ("pointer", "is a Git LFS pointer.*git lfs pull"),
        ("cut", "is damaged or cut short"),
    ],
)
def test_what_is_no_video_gets_one_clear_error(request, tmp_path, clip_mp4, kind, message):
    made = {
        "folder": lambda path: path.mkdir(),
        "empty": lambda path: path.touch(),
        "noise": lambda path: path.write_bytes(np.random.default_rng(1).bytes(4000)),
        "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "cut": lambda path: path.write_bytes(clip_mp4.read_bytes()[:700]),
        "missing": lambda path: None,
    }
    path = tmp_path / "clip.mp4"
    if kind in made:
        made[kind](path)
    else:
        path = request.getfixturevalue(kind)
    for read in (probe, lambda path: read_video(path, frames=2)):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert caught.value.problems[0].where == str(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"frames": 8, "stride": 2},
            "has 12 frames; 8 frames from frame 0 at stride 2 need 15 "
            "(allowed: frames up to 6 at stride 2, or stride up to 1 for 8 frames)",
        ),
        (
            {"frames": 20},
            "has 12 frames; 20 frames from frame 0 at stride 1 need 20 "
            "(allowed: frames up to 12 at stride 1)",
        ),
        (
            {"frames": 1, "start": 12},
            "has 12 frames; 1 frames from frame 12 at stride 1 need 13 (allowed: start up to 11)",
        ),
    ],
)
def test_too_few_frames_tells_what_would_fit(clip_mp4, asked, message):
    with pytest.raises(UserError) as caught:
        read_video(clip_mp4, **asked)
    assert str(caught.value) == f"{clip_mp4}: {message}"


def test_what_the_error_offers_does_fit(clip_mp4):
    assert len(read_video(clip_mp4, frames=6, stride=2)[0]) == 6
    assert len(read_video(clip_mp4, frames=8, stride=1)[0]) == 8


def test_read_frames_tells_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_frames(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no PNG"):
        read_frames(tmp_path)
