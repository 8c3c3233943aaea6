import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from crossframe.errors import UserError
from crossframe.voice import RATE, pitch
from data_manifests.clips import ClipRequest, load_clip
from metrics.base import Face as MetricFace
from metrics.base import MetricInputs
from metrics.sync import mouth_corr
from miniature.face import HAIR, IDENTITY, PARALLAX, SWAY, draw_face, face_of
from miniature.face_layers import layers
from miniature.faces import face_boxes, lip_boxes, mouth_region, render_frames, visible_layer

FRAMES = 16


@pytest.fixture(scope="module")
def clip():
    return load_clip(ClipRequest("faces:heldout/0", FRAMES, 128))


def tensor(frames):
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def near(edge, reach):
    return cv2.dilate(edge.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1))) > 0


def sample(image, flow):
    """Bilinear samples of (h, w, c) at each pixel plus its flow."""
    axis = np.arange(image.shape[0], dtype=float)
    x, y = (np.stack(np.meshgrid(axis, axis), -1) + flow).transpose(2, 0, 1)
    channels = np.moveaxis(image.astype(float), -1, 0)
    return np.stack([map_coordinates(c, [y, x], order=1, mode="nearest") for c in channels], -1)


def test_a_clip_holds_frames_voice_and_truth(clip):
    assert clip.frames.shape == (FRAMES, 128, 128, 3)
    assert (clip.id, clip.fps, clip.caption) == ("faces:heldout/0", 25.0, "a talking face")
    assert (len(clip.voice.samples), clip.voice.rate) == (FRAMES * 640, RATE)
    truth = clip.truth
    assert truth.mouth.shape == truth.lip.shape == truth.face.shape == (FRAMES, 128, 128)
    assert truth.opening.shape == truth.envelope.shape == (FRAMES,)
    assert truth.pose.shape == (FRAMES, 2)
    assert truth.masks.shape == (FRAMES, 3, 128, 128)
    assert truth.identity.shape == (IDENTITY,)


def test_the_same_clip_is_the_same_and_start_and_stride_pick_frames(clip):
    again = load_clip(ClipRequest("faces:heldout/0", 3, 128, start=6, stride=3))
    np.testing.assert_array_equal(again.frames, clip.frames[6:15:3])
    np.testing.assert_array_equal(again.voice.samples, clip.voice.samples[6 * 640 : 15 * 640])
    np.testing.assert_array_equal(again.truth.opening, clip.truth.opening[6:15:3])
    assert again.fps == pytest.approx(25 / 3)
    assert again.sha256 != clip.sha256


def test_a_clip_of_one_frame_has_no_flow(clip):
    alone = load_clip(ClipRequest("faces:heldout/0", 1, 128))
    np.testing.assert_array_equal(alone.frames, clip.frames[:1])
    assert alone.truth.flow_forward.shape == (0, 128, 128, 2)
    assert alone.truth.occluded_backward.shape == (0, 128, 128)


@pytest.mark.parametrize("index", range(3))
def test_mouth_and_head_follow_the_voice(index):
    made = load_clip(ClipRequest(f"faces:train/{index}", 50, 32))
    truth = made.truth
    assert np.corrcoef(truth.opening, truth.envelope)[0, 1] > 0.99
    hertz, _ = pitch(made.voice, 50, 25)
    heard = hertz > 0
    assert np.corrcoef(hertz[heard], truth.pose[heard, 0])[0, 1] > 0.97
    assert np.ptp(truth.opening) > 0.5
    assert 128 / 32 * np.ptp(truth.pose[:, 0]) > 4


@pytest.mark.parametrize("index", range(4))
def test_the_mouth_opens_with_the_voice_and_a_frozen_one_does_not(index):
    made = load_clip(ClipRequest(f"faces:heldout/{index}", FRAMES, 128))
    face = MetricFace(torch.from_numpy(made.truth.mouth), torch.from_numpy(made.truth.envelope))
    assert mouth_corr(MetricInputs(tensor(made.frames), face=face)).value > 0.97
    frozen = tensor(np.repeat(made.frames[:1], FRAMES, 0))
    assert mouth_corr(MetricInputs(frozen, face=face)).value == 0


@pytest.mark.parametrize("index", [0, 1, 5])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_warping_by_the_exact_flow_gives_the_frame(index, direction):
    made = load_clip(ClipRequest(f"faces:heldout/{index}", 2, 128, start=3, stride=12))
    here, there = (0, 1) if direction == "forward" else (1, 0)
    flow = getattr(made.truth, f"flow_{direction}")[0]
    seen = ~getattr(made.truth, f"occluded_{direction}")[0]
    mixed = sample(near(made.truth.edges[there], 2)[..., None], flow)[..., 0] > 0
    inner = seen & ~mixed & ~near(made.truth.edges[here], 2)
    target = made.frames[here].astype(float)
    warped = np.abs(sample(made.frames[there], flow) - target)
    unwarped = np.abs(made.frames[there].astype(float) - target)
    assert inner.mean() > 0.2
    assert warped[inner].mean() < 0.5
    assert np.quantile(warped[inner], 0.99) < 3
    assert unwarped[seen].mean() > 2 * warped[seen].mean()  # antialiased outlines are mixtures


def test_flow_of_the_background_is_the_parallax(clip):
    background = ~clip.truth.masks[0].any(0)
    moved = clip.truth.pose[1, 0] - clip.truth.pose[0, 0]
    expected = [moved * PARALLAX / SWAY, 0.0]
    np.testing.assert_allclose(
        clip.truth.flow_forward[0][background], [expected] * background.sum(), atol=1e-4
    )


def test_an_object_outside_the_face_moves_with_the_head(clip):
    def height(mask):
        return np.nonzero(mask)[0].mean()

    heights = [height(mask) for mask in clip.truth.masks[:, 2]]
    assert np.corrcoef(heights, clip.truth.pose[:, 0])[0, 1] > 0.99
    assert not (clip.truth.face.any(0) & clip.truth.masks[:, 2].any(0)).any()


@pytest.mark.parametrize("index", range(8))
def test_boxes_hold_what_they_are_for(index):
    face, t = face_of("heldout", index), np.arange(0, 40, 3.0)
    axis = np.arange(128) + 0.5 - 64
    x = np.broadcast_to(axis[None, :] + 1j * axis[:, None], (len(t), 128, 128))
    seen = visible_layer(face, x, t)
    labels = np.array([layer.name for layer in layers(face)])[seen]
    lips = np.isin(labels, ["lips", "mouth"])
    assert (lips <= lip_boxes(face, t)).all()
    assert (lip_boxes(face, t) <= mouth_region(face, t)).all()
    assert ((labels == "skin") <= face_boxes(face, t)).all()
    assert (lip_boxes(face, t) <= face_boxes(face, t)).all()
    region = mouth_region(face, t)
    assert (region == region[0]).all()
    assert np.isin(labels, ["lips", "mouth", "skin"])[region].mean() > 0.95


def test_the_opening_is_the_area_of_the_mouth(clip):
    face = face_of("heldout", 0)
    t = np.arange(FRAMES, dtype=float)
    axis = np.arange(128) + 0.5 - 64
    x = np.broadcast_to(axis[None, :] + 1j * axis[:, None], (FRAMES, 128, 128))
    seen = visible_layer(face, x, t)
    areas = (seen == seen.max()).sum((1, 2))
    assert np.corrcoef(areas, clip.truth.opening)[0, 1] > 0.99


def test_identity_tells_faces_apart_and_not_times():
    faces = [face_of("train", i) for i in range(40)]
    vectors = np.stack([face.identity for face in faces])
    assert vectors.dtype == np.float32
    assert np.abs(vectors).max() <= 1.5
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1) + 9 * np.eye(40)
    assert apart.min() > 0.3
    assert {face.style for face in faces} == set(HAIR)


def test_eyes_blink():
    face = draw_face(1)
    lids = face.lids(np.arange(0, 250, 0.5))
    assert (lids > 0.9).any()
    assert 0.02 < (lids > 0).mean() < 0.25


def test_smaller_pictures_show_the_same():
    face, t = face_of("train", 3), np.array([0.0, 9.0])
    small = render_frames(face, t, 64).astype(float)
    large = render_frames(face, t).astype(float).reshape(2, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - large).mean() < 2.5


def test_splits_are_disjoint():
    drawn = {
        split: {face_of(split, i).identity.tobytes() for i in range(50)}
        for split in ("train", "heldout")
    }
    assert len(drawn["train"]) == len(drawn["heldout"]) == 50
    assert not drawn["train"] & drawn["heldout"]


@pytest.mark.parametrize("name", ["faces:test/0", "faces:heldout", "faces:heldout/x"])
def test_unknown_faces_are_named(name):
    with pytest.raises(UserError, match="no talking face is called"):
        load_clip(ClipRequest(name))
