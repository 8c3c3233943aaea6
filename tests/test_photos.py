import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, map_coordinates

from crossframe.errors import UserError
from data_manifests import photos
from data_manifests.camera import HALF_PERIOD, MOTIONS, progress, truth
from data_manifests.checking import decoded_sha256
from data_manifests.clips import ClipRequest, expand_refs, load_clip
from data_manifests.manifest import manifest

ROOT = Path(__file__).parent.parent
SIZE = 64


def clip(name, **request):
    return load_clip(ClipRequest(f"photo:{name}", **{"frames": 3, "size": SIZE} | request))


def follow(image, flow):
    """Sample an image (h, w, 3) where flow (h, w, 2) leads, by cubic splines."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]]
    where = [y + flow[..., 1], x + flow[..., 0]]
    return np.stack(
        [map_coordinates(c, where, order=3, mode="mirror") for c in image.T.swapaxes(1, 2)], -1
    )


def psnr(difference):
    return 10 * np.log10(255**2 / np.mean(difference**2))


def unmixed(made, index):
    """Pixels away from the disc's border, where a pixel shows one layer only."""
    masks = made.truth.masks[index]
    if not len(masks):
        return np.ones(made.frames.shape[1:3], bool)
    return ~(binary_dilation(masks[0], iterations=3) & binary_dilation(~masks[0], iterations=3))


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_view_lies_inside_the_photograph(motion):
    t = np.arange(0, 4 * HALF_PERIOD, 0.25)
    corners = np.array([-1 - 1j, 1 - 1j, -1 + 1j, 1 + 1j])[None] / 2
    seen = MOTIONS[motion][0](t).to_layer(np.repeat(corners, len(t), 0))
    assert max(np.abs(seen.real).max(), np.abs(seen.imag).max()) < 0.5


def test_a_path_is_run_to_and_fro_at_one_speed():
    t = np.array([0, HALF_PERIOD / 2, HALF_PERIOD, 1.5 * HALF_PERIOD, 2 * HALF_PERIOD])
    np.testing.assert_allclose(progress(t), [-0.5, 0, 0.5, 0, -0.5])
    assert np.allclose(np.diff(progress(np.arange(HALF_PERIOD))), 1 / HALF_PERIOD)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("photo", ["astronaut", "gravel"])
def test_the_next_frame_followed_back_is_this_frame(photo, motion):
    made = clip(f"{photo}/{motion}", size=128)
    frames = made.frames.astype(float)
    for direction, here, there in (("forward", 0, 1), ("backward", 1, 0)):
        flow = getattr(made.truth, f"flow_{direction}")[0]
        valid = ~getattr(made.truth, f"occluded_{direction}")[0] & unmixed(made, here)
        assert valid.mean() > 0.8
        found = psnr((follow(frames[there], flow) - frames[here])[valid])
        assert found > 43, (direction, found)
        assert found > psnr((frames[there] - frames[here])[valid]) + 20


def test_a_flow_that_is_a_little_wrong_is_noticed():
    made = clip("gravel/pan", size=128)
    frames, flow = made.frames.astype(float), made.truth.flow_forward[0]
    valid = ~made.truth.occluded_forward[0]
    right = psnr((follow(frames[1], flow) - frames[0])[valid])
    assert psnr((follow(frames[1], flow + 0.1) - frames[0])[valid]) < right - 8


@pytest.mark.parametrize("motion", MOTIONS)
def test_forward_and_backward_flow_cancel(motion):
    known = truth(motion, np.array([3.0, 7.0]), SIZE)
    forward, back = known.flow_forward[0], known.flow_backward[0]
    y, x = np.mgrid[:SIZE, :SIZE]
    where = [y + forward[..., 1], x + forward[..., 0]]
    there = np.stack([map_coordinates(back[..., c], where, order=1) for c in (0, 1)], -1)
    # Between two layers interpolation mixes their flows.
    layers = known.masks[1, 0] if known.masks.shape[1] else np.zeros((SIZE, SIZE))
    seam = map_coordinates(layers.astype(float), where, order=1) % 1 > 0
    valid = ~known.occluded_forward[0] & ~seam
    assert valid.mean() > 0.7
    assert np.abs(forward + there)[valid].max() < 1e-3


def centred():
    axis = np.arange(SIZE) + 0.5 - SIZE / 2
    return np.meshgrid(axis, axis)


def test_pan_moves_every_pixel_alike():
    flow = truth("pan", np.array([4.0, 6.0]), SIZE).flow_forward[0]
    # The window moves by 0.28 and 0.12 of the square over the path and is 0.7 of it wide.
    expected = -np.array([0.28, 0.12]) / 0.7 * SIZE * 2 / HALF_PERIOD
    np.testing.assert_allclose(flow, np.broadcast_to(expected, flow.shape), atol=1e-4)


def test_zoom_moves_pixels_away_from_the_centre():
    x, y = centred()
    flow = truth("zoom", np.array([4.0, 6.0]), SIZE).flow_forward[0]
    growth = (0.95 / 0.5) ** (2 / HALF_PERIOD) - 1
    np.testing.assert_allclose(flow, np.stack([x, y], -1) * growth, atol=1e-4)


def test_rotation_turns_pixels_about_the_centre():
    x, y = centred()
    flow = truth("rotation", np.array([4.0, 6.0]), SIZE).flow_forward[0]
    a = np.deg2rad(-36 * 2 / HALF_PERIOD)
    turned = np.stack([x * np.cos(a) - y * np.sin(a), x * np.sin(a) + y * np.cos(a)], -1)
    np.testing.assert_allclose(flow, turned - np.stack([x, y], -1), atol=1e-4)


def material(points, t):
    """Which layer (0 or 1) is seen at points (n, 2) of the unit screen, and which spot of it.

    Restates the occluder's motion with real matrices.
    """
    s = t / HALF_PERIOD - 0.5
    a = -np.deg2rad(60) * s
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    disc = (points - [0.64 * s, 0.1 * s + 0.03]) @ turn.T
    on_disc = np.hypot(*disc.T) < 0.2
    # In units of the screen on both layers, so that one distance serves for both.
    ground = points + np.array([-0.1 * s, 0]) / 0.8
    return on_disc, np.where(on_disc[:, None], disc, ground)


@pytest.mark.parametrize(("t", "t_next"), [(4.0, 10.0), (10.0, 4.0)])
def test_occlusion_is_what_tracking_every_point_finds(t, t_next):
    size, fine = 24, 8
    axis = (np.arange(size) + 0.5) / size - 0.5
    dense = np.linspace(axis[0], axis[-1], (size - 1) * fine + 1)
    here = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    there = np.stack(np.meshgrid(dense, dense), -1).reshape(-1, 2)
    layer, spot = material(here, t)
    layer_next, spot_next = material(there, t_next)
    nearest = np.array(
        [
            np.hypot(*(spot_next[layer_next == of] - at).T).min()
            for of, at in zip(layer, spot, strict=True)
        ]
    )
    step = 1 / size / fine
    lost, kept = nearest > 1.5 * step, nearest <= 0.75 * step
    found = truth("occluder", np.array([t, t_next]), size).occluded_forward[0].ravel()
    assert lost.mean() > 0.05
    assert (lost | kept).mean() > 0.95
    np.testing.assert_array_equal(found[lost], True)
    np.testing.assert_array_equal(found[kept & (nearest <= 0.5 * step)], False)


def test_the_disc_is_in_front_and_masked():
    made = clip("coffee/occluder")
    mask, depth = made.truth.masks[0, 0], made.truth.depth[0]
    assert mask.any()
    assert depth[mask].min() > depth[~mask].max()
    background = clip("coffee/occluder", frames=1).truth
    assert background.flow_forward.shape == (0, SIZE, SIZE, 2)
    assert clip("coffee/pan").truth.masks.shape == (3, 0, SIZE, SIZE)


def test_the_edges_of_a_photograph_are_not_known_and_canny_stands_in():
    from ablations.shipped import shipped_parts

    made = clip("coffee/occluder", frames=1)
    assert made.truth.edges is None
    drawn = shipped_parts().control("edges", made, "correct")
    assert drawn.shape == (1, 3, SIZE, SIZE)
    assert 0.01 < float(drawn.mean()) < 0.5


def test_start_and_stride_pick_source_frames():
    whole, part = clip("chelsea/rotation", frames=6), clip("chelsea/rotation", start=1, stride=2)
    np.testing.assert_array_equal(part.frames, whole.frames[1::2])
    np.testing.assert_array_equal(part.truth.depth, whole.truth.depth[1::2])
    assert part.fps == whole.fps / 2


def test_size_changes_the_sampling_only():
    small, large = clip("brick/zoom"), clip("brick/zoom", size=2 * SIZE)
    flow = large.truth.flow_forward.reshape(2, SIZE, 2, SIZE, 2, 2).mean((2, 4))
    np.testing.assert_allclose(small.truth.flow_forward, flow / 2, atol=1e-4)
    means = large.frames.astype(float).reshape(3, SIZE, 2, SIZE, 2, 3).mean((2, 4))
    assert psnr(means - small.frames) > 25


def test_detail_finer_than_a_pixel_is_smoothed_away():
    """Without the prefilter this grating would show up as a moire of full contrast."""
    y, x = np.mgrid[:512, :512]
    grating = np.repeat(255.0 * ((x + y) % 2)[..., None], 3, -1)
    frames = photos.render([grating], "pan", np.arange(2.0), SIZE).astype(float)
    assert np.abs(frames - 127.5).max() < 1


def test_frames_are_what_the_manifest_records():
    facts = manifest("photos")
    for name in ("astronaut/occluder", "camera/pan"):
        assert decoded_sha256(facts, name) == facts.decoded(name)


def test_frames_are_equal_in_another_process():
    code = (
        "from data_manifests.clips import ClipRequest, load_clip\n"
        "print(load_clip(ClipRequest('photo:rocket/occluder', frames=3, size=64)).sha256)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == clip("rocket/occluder").sha256


def test_all_photographs_say_what_they_show_and_who_made_them():
    facts = manifest("photos")
    for name, known in facts.clips.items():
        assert known.caption, name
        assert known.licence in ("CC0-1.0", "public domain", "no known restrictions")
        assert known.credit, name
        assert {"style", "object"} <= set(known.edits)
        assert all(prompt != known.caption for prompt in known.edits.values())
        assert photos.read_photo(facts, name).shape[2] == 3
    made = clip("coffee/occluder")
    passing = facts.clips["chelsea"].caption
    assert made.caption.endswith(passing)
    assert all(prompt.endswith(passing) for prompt in made.edits.values())
    assert clip("coffee/pan").caption == facts.clips["coffee"].caption


def test_globs_run_over_photographs_and_motions(tmp_path):
    pans = expand_refs(["photo:*/pan"], tmp_path)
    assert pans == [f"photo:{name}/pan" for name in manifest("photos").clips]
    assert expand_refs(["photo:coffee/*"], tmp_path) == [f"photo:coffee/{m}" for m in MOTIONS]


@pytest.mark.parametrize("name", ["coffee", "coffee/pam", "cofee/pan", "../coffee/pan"])
def test_an_unknown_photograph_or_motion_is_an_error(name):
    with pytest.raises(UserError, match=r"no photograph under motion .*astronaut.*pan, zoom"):
        clip(name)


def test_an_altered_photograph_is_refused(tmp_path, monkeypatch):
    Image.new("RGB", (512, 512)).save(tmp_path / "coffee.png")
    monkeypatch.setattr(photos, "dataset_folder", lambda facts: tmp_path)
    with pytest.raises(UserError, match=r"coffee\.png: is not the photograph that is expected"):
        clip("coffee/pan")
    with pytest.raises(UserError, match=r"camera\.png: no such file.*scikit-image"):
        clip("camera/pan")
