from __future__ import annotations

import colorsys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from crossframe.errors import UserError
from data_manifests.clips import ClipRequest
from miniature.data import crops, pictures
from miniature.shapes import PATTERNS, SHAPES
from miniature.world import (
    COLOURS,
    Motion,
    Scene,
    covered,
    draw_scene,
    edges,
    load_world_clip,
    render,
    render_frames,
    scene_of,
    training_frames,
)

MOVING = [scene_of("heldout", i, sprites=2) for i in range(3)]


def unlit(scene: Scene) -> Scene:
    """Without the light, which is fixed to the screen, layers keep their colours as they move."""
    return replace(scene, light=(0.0, 0.0))


def still(scene: Scene) -> Scene:
    sprites = tuple(
        replace(s, motion=replace(s.motion, velocity=(0.0, 0.0), spin=0.0, growth=0.0))
        for s in scene.sprites
    )
    return replace(scene, camera=Motion(angle=0.3), sprites=sprites)


def grid(size: int) -> np.ndarray:
    axis = np.arange(size, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis), -1)


def centred(size: int) -> np.ndarray:
    return grid(size) + 0.5 - size / 2


def sample(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Bilinear samples of (h, w, c) at each pixel plus its flow (cv2.remap rounds to 1/32 px)."""
    x, y = (grid(image.shape[0]) + flow).transpose(2, 0, 1)
    channels = np.moveaxis(image.astype(np.float64), -1, 0)
    return np.stack([map_coordinates(c, [y, x], order=1, mode="nearest") for c in channels], -1)


def near(edge: np.ndarray, reach: int) -> np.ndarray:
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return cv2.dilate(edge.astype(np.uint8), kernel) > 0


def labels(masks: np.ndarray) -> np.ndarray:
    """(n, h, w) masks to 0 for the background and k for the k-th sprite."""
    return (masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(0)


def test_the_same_seed_gives_the_same_pixels() -> None:
    first, again = (render_frames(draw_scene(5), np.arange(3), 64) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, render_frames(draw_scene(6), np.arange(3), 64))


def test_splits_are_disjoint() -> None:
    drawn = {split: {scene_of(split, i) for i in range(100)} for split in ("train", "heldout")}
    assert len(drawn["train"]) == len(drawn["heldout"]) == 100
    assert not drawn["train"] & drawn["heldout"]


def test_training_pictures_are_functions_of_their_number() -> None:
    whole = list(training_frames(0, 6))
    assert whole[2:5] == list(training_frames(2, 3))
    images, scenes = pictures(2, 3, 64)
    assert images.shape == (3, 3, 64, 64)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert scenes == [scene for scene, _ in whole[2:5]]
    assert crops(pictures(0, 1)[0], 32, 4).shape == (4, 3, 32, 32)


@pytest.mark.parametrize("scene", MOVING)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_warping_by_the_exact_flow_gives_the_frame(scene: Scene, direction: str) -> None:
    made = render(unlit(scene), 2, stride=2)
    here, there = (0, 1) if direction == "forward" else (1, 0)
    flow = getattr(made.truth, f"flow_{direction}")[0]
    seen = ~getattr(made.truth, f"occluded_{direction}")[0]
    # Antialiased pixels, at either end, are mixtures of layers and have no flow of their own.
    mixed = sample(near(made.truth.edges[there], 2)[..., None], flow)[..., 0] > 0
    smooth = seen & ~mixed & ~near(made.truth.edges[here], 2)
    target = made.frames[here].astype(np.float32)
    warped = np.abs(sample(made.frames[there], flow) - target)[smooth]
    unwarped = np.abs(made.frames[there] - target)[smooth]
    assert smooth.mean() > 0.15
    assert warped.max() < 1.1  # grey levels: both frames are rounded, textures are hardly curved
    assert unwarped.mean() > 10 * warped.mean()
    assert unwarped.max() > 50


@pytest.mark.parametrize("scene", MOVING)
def test_flow_there_and_back_cancels_where_seen(scene: Scene) -> None:
    truth = render(scene, 2, stride=2).truth
    forward, backward = truth.flow_forward[0], truth.flow_backward[0]
    # A layer's flow is affine, so that bilinear sampling is exact away from other layers.
    outline = near(edges(scene, np.array([2.0]), patterned=False)[0], 2)[..., None]
    seen = ~truth.occluded_forward[0] & ~(sample(outline, forward)[..., 0] > 0)
    assert seen.mean() > 0.6
    assert np.abs(forward + sample(backward, forward))[seen].max() < 1e-4


@pytest.mark.parametrize("scene", MOVING)
def test_occlusion_agrees_with_the_masks_of_the_other_frame(scene: Scene) -> None:
    truth = render(scene, 2, stride=4).truth
    end = np.round(grid(128) + truth.flow_forward[0]).astype(int)
    inside = ((end >= 0) & (end <= 127)).all(-1)
    x, y = np.clip(end, 0, 127).transpose(2, 0, 1)
    here, there = labels(truth.masks[0]), labels(truth.masks[1])
    expected = ~inside | (there[y, x] != here)
    # Rounding the end point to a pixel decides nothing near outlines and the frame's border.
    outline = near(edges(scene, np.array([4.0]), patterned=False)[0], 1)
    border = np.abs(centred(128) + truth.flow_forward[0]).max(-1) > 62.5
    border &= np.abs(centred(128) + truth.flow_forward[0]).max(-1) < 64.5
    sure = ~outline[y, x] & ~border
    assert sure.mean() > 0.8
    assert expected[sure].any()
    np.testing.assert_array_equal(truth.occluded_forward[0][sure], expected[sure])


def test_a_still_scene_has_no_flow_and_no_occlusion() -> None:
    made = render(still(MOVING[0]), 3)
    assert np.abs(made.truth.flow_forward).max() < 1e-5
    assert np.abs(made.truth.flow_backward).max() < 1e-5
    assert not made.truth.occluded_forward[:, 1:-1, 1:-1].any()
    np.testing.assert_array_equal(made.frames[0], made.frames[2])


def test_a_camera_translation_gives_constant_flow() -> None:
    scene = replace(still(MOVING[0]), camera=Motion(velocity=(1.25, -0.5), angle=1.0))
    truth = render(scene, 2, stride=3).truth
    background = ~truth.masks[0].any(0)
    np.testing.assert_allclose(truth.flow_forward[0][background], [[3.75, -1.5]] * background.sum())
    background = ~truth.masks[1].any(0)
    np.testing.assert_allclose(
        truth.flow_backward[0][background], [[-3.75, 1.5]] * background.sum()
    )


def test_a_zoom_gives_radial_flow() -> None:
    scene = replace(still(MOVING[0]), camera=Motion(growth=0.02))
    truth = render(scene, 2).truth
    background = ~truth.masks[0].any(0)
    expected = (np.exp(0.02) - 1) * centred(128)
    np.testing.assert_allclose(
        truth.flow_forward[0][background], expected[background], rtol=1e-5, atol=1e-5
    )


def test_a_spinning_sprite_turns_about_its_centre() -> None:
    sprite = still(MOVING[0]).sprites[0]
    turning = replace(sprite, motion=Motion(centre=(7.0, -4.0), spin=0.1))
    truth = render(replace(still(MOVING[0]), sprites=(turning,)), 2).truth
    x, y = (centred(128) - [7.0, -4.0]).transpose(2, 0, 1)
    cosine, sine = np.cos(0.1), np.sin(0.1)
    expected = np.stack([cosine * x - sine * y - x, sine * x + cosine * y - y], -1)
    mask = truth.masks[0, 0]
    np.testing.assert_allclose(truth.flow_forward[0][mask], expected[mask], atol=1e-5)


@pytest.mark.parametrize("scene", MOVING)
def test_depth_masks_and_edges_agree(scene: Scene) -> None:
    truth = render(scene, 2).truth
    assert truth.masks.shape == (2, 2, 128, 128)
    assert truth.masks.sum(1).max() == 1
    np.testing.assert_array_equal(covered(scene, np.arange(2)), truth.masks.any(1))
    for k, sprite in enumerate(scene.sprites):
        np.testing.assert_allclose(truth.depth[truth.masks[:, k]], sprite.depth)
    floor = truth.depth[~truth.masks.any(1)]
    assert 0 < floor.min() < floor.max() < min(s.depth for s in scene.sprites)
    for t, found in enumerate(edges(scene, np.arange(2), patterned=False)):
        label = labels(truth.masks[t])
        expected = np.zeros((128, 128))
        for y in range(128):
            for x in range(128):
                right = label[y, min(x + 1, 127)] != label[y, x]
                expected[y, x] = right or label[min(y + 1, 127), x] != label[y, x]
        np.testing.assert_array_equal(found, expected)
        assert (truth.edges[t] >= found).all()
        assert truth.edges[t].sum() > found.sum()


def test_the_nearer_sprite_wins() -> None:
    far, close = (
        replace(s, motion=Motion(), shape=shape, radius=radius)
        for s, shape, radius in zip(
            MOVING[0].sprites, ("square", "circle"), (30.0, 20.0), strict=True
        )
    )
    made = render(replace(unlit(MOVING[0]), sprites=(far, close)), 1)
    assert made.truth.masks[0, 1, 64, 64]
    assert not made.truth.masks[0, 0, 64, 64]
    assert made.truth.masks[0, 0, 64 - 22, 64]
    assert close.depth > far.depth
    assert made.truth.depth[0, 64, 64] == np.float32(close.depth)


AREAS = {  # closed forms, in squared radii
    "circle": np.pi * 0.9**2,
    "square": (2 * 0.78) ** 2,
    "cross": 2 * 0.6 * 1.9 - 0.6**2,
    "ring": np.pi * (0.96**2 - 0.44**2),
}


@pytest.mark.parametrize(("shape", "area"), AREAS.items())
def test_shapes_have_their_areas(shape: str, area: float) -> None:
    # The odd place and angle keep straight sides from running along pixel centres.
    motion = Motion(centre=(0.3, 0.2), angle=0.4, log_scale=np.log(1.5))
    sprite = replace(MOVING[0].sprites[0], shape=shape, radius=30.0, motion=motion)
    mask = render(replace(MOVING[0], sprites=(sprite,)), 1).truth.masks[0, 0]
    assert mask.sum() == pytest.approx(area * 45**2, rel=0.015)


@pytest.mark.parametrize(("shape", "corners"), [("triangle", 3), ("star", 5)])
def test_polygons_have_their_corners(shape: str, corners: int) -> None:
    u, v = (
        np.cos(np.linspace(0, 2 * np.pi, 721)[:-1]),
        np.sin(np.linspace(0, 2 * np.pi, 721)[:-1]),
    )
    values = SHAPES[shape](0.9 * u, 0.9 * v)
    assert (np.diff(np.sign(values), append=np.sign(values[0])) != 0).sum() == 2 * corners
    assert SHAPES[shape](np.zeros(1), np.zeros(1)) < 0


def test_captions_name_what_is_drawn() -> None:
    hues = {name: hue for name, (hue, _, _) in COLOURS.items()}
    for i in range(12):
        scene = unlit(scene_of("heldout", i))
        names = scene.caption.split()
        assert names[-4:-1] == ["on", "a", scene.pattern] or names[-2] == scene.pattern
        made = render(scene, 1)
        for noun, k in zip(
            scene.caption.split(" on ")[0].split(" and "), range(len(scene.sprites))[::-1],
            strict=True,
        ):  # fmt: skip
            article, colour, shape = noun.split()
            assert article == ("an" if colour == "orange" else "a")
            assert shape == scene.sprites[k].shape
            inner = made.truth.masks[0, k] & ~near(made.truth.edges[0], 1)
            rgb = np.median(made.frames[0][inner], 0) / 255
            hue = 360 * colorsys.rgb_to_hsv(*rgb)[0]
            assert min(hues, key=lambda name: abs((hue - hues[name] + 180) % 360 - 180)) == colour


def test_edits_change_what_they_say() -> None:
    for i in range(20):
        scene = scene_of("heldout", i)
        edits = scene.edits()
        (subject, ground) = scene.caption.split(" on ")
        assert edits["object"].split(" on ")[1] == ground
        assert edits["background"].split(" on ")[0] == subject
        assert edits["both"] == " on ".join(
            [edits["object"].split(" on ")[0], edits["background"].split(" on ")[1]]
        )
        assert len({scene.caption, *edits.values()}) == 4
        assert edits["object"].split()[1] in COLOURS
        assert edits["object"].split()[2] == scene.caption.split()[2]
        assert edits["background"].split()[-2] in PATTERNS


def test_everything_occurs() -> None:
    scenes = [scene_of("heldout", i) for i in range(150)]
    assert {s.pattern for s in scenes} == set(PATTERNS)
    assert {p.colour for s in scenes for p in s.sprites} == set(COLOURS)
    assert {p.shape for s in scenes for p in s.sprites} == set(SHAPES)
    assert {len(s.sprites) for s in scenes} == {1, 2}
    assert all(len({p.colour for p in s.sprites}) == len(s.sprites) for s in scenes)
    assert {len(scene_of("train", i, sprites=1).sprites) for i in range(30)} == {1}


@pytest.mark.parametrize("scene", MOVING)
def test_half_the_size_is_the_same_scene(scene: Scene) -> None:
    large, small = render(scene, 2, 128), render(scene, 2, 64)
    blocks = np.stack([labels(m) for m in large.truth.masks[:1]])[0].reshape(64, 2, 64, 2)
    same = blocks.max((1, 3)) == blocks.min((1, 3))
    np.testing.assert_array_equal(labels(small.truth.masks[0])[same], blocks.max((1, 3))[same])
    flow = large.truth.flow_forward[0].reshape(64, 2, 64, 2, 2).mean((1, 3))
    np.testing.assert_allclose(small.truth.flow_forward[0][same], flow[same] / 2, atol=1e-4)
    mean = large.frames[0].reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(mean - small.frames[0]).mean() < 1.0


def test_start_and_stride_choose_frames_of_the_same_clip() -> None:
    scene = MOVING[1]
    whole, part = render(scene, 7, 64), render(scene, 3, 64, start=2, stride=2)
    np.testing.assert_array_equal(part.frames, whole.frames[2::2])
    np.testing.assert_array_equal(part.truth.masks, whole.truth.masks[2::2])
    np.testing.assert_array_equal(part.truth.depth, whole.truth.depth[2::2])
    assert part.truth.flow_forward.shape == (2, 64, 64, 2)


def test_load_world_clip() -> None:
    request = ClipRequest("world:heldout/3", frames=2, size=64, start=1)
    clip = load_world_clip("heldout/3", request)
    scene = scene_of("heldout", 3)
    assert clip.id == "world:heldout/3"
    assert clip.caption == scene.caption
    assert clip.edits == scene.edits()
    np.testing.assert_array_equal(clip.frames, render_frames(scene, np.array([1, 2]), 64))
    assert clip.truth is not None
    assert clip.truth.masks.shape == (2, len(scene.sprites), 64, 64)


@pytest.mark.parametrize("name", ["heldout", "heldout/", "test/3", "heldout/-1", "heldout/3/1", ""])
def test_bad_names_are_explained(name: str) -> None:
    with pytest.raises(UserError) as error:
        load_world_clip(name, ClipRequest(f"world:{name}"))
    assert "heldout" in str(error.value)
    assert f"world:{name}" in str(error.value)
