import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from crossframe.errors import UserError
from crossframe.flow.fields import (
    consistent,
    consistent_linear,
    dis_flow,
    dis_forward,
    exact_flow,
    from_first,
    in_bounds,
    to_levels,
    visible_lai2018,
    warp_backward,
)

GOLDEN = Path(__file__).parent / "golden" / "metrics"


def golden(name):
    """The tensors of a case, and the tolerance of each output."""
    path = GOLDEN / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        tolerances = json.loads(file.metadata()["tolerances"])
    return load_file(path), tolerances


def constant_flow(pairs, height, width, dx, dy):
    return (
        torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(pairs, 2, height, width)
    )


def textured(side=64, seed=0):
    noise = np.random.default_rng(seed).random((side, side, 3)).astype(np.float32)
    around = np.pad(noise, ((8, 8), (8, 8), (0, 0)), mode="wrap")
    blurred = cv2.GaussianBlur(around, (0, 0), 2)[8:-8, 8:-8]
    spread = (blurred - blurred.min()) / (blurred.max() - blurred.min())
    return (spread * 255).astype(np.uint8)


def rolling(count, dx, dy, side=64):
    """The pixel of frame t at (x, y) is at (x+dx, y+dy) in frame t+1; wraps around."""
    return np.stack([np.roll(textured(side), (t * dy, t * dx), (0, 1)) for t in range(count)])


def naive_warp(image, flow):
    """Bilinear lookup pixel by pixel, with coordinates clamped to the picture."""
    _, height, width = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            sx = min(max(x + flow[0, y, x], 0), width - 1)
            sy = min(max(y + flow[1, y, x], 0), height - 1)
            x0, y0 = int(sx), int(sy)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            ax, ay = sx - x0, sy - y0
            top = (1 - ax) * image[:, y0, x0] + ax * image[:, y0, x1]
            bottom = (1 - ax) * image[:, y1, x0] + ax * image[:, y1, x1]
            out[:, y, x] = (1 - ay) * top + ay * bottom
    return out


def test_warp_agrees_with_a_pixel_by_pixel_lookup_also_outside():
    rng = np.random.default_rng(1)
    image = rng.random((3, 7, 11))
    flow = rng.normal(0, 4, (2, 7, 11))
    warped = warp_backward(torch.from_numpy(image)[None], torch.from_numpy(flow)[None])[0]
    np.testing.assert_allclose(warped.numpy(), naive_warp(image, flow), atol=1e-12)


def test_zero_flow_is_the_identity():
    image = torch.rand(2, 3, 9, 6)
    assert (warp_backward(image, torch.zeros(2, 2, 9, 6)) - image).abs().max() < 1e-6


def test_warp_brings_the_next_frame_back():
    one, two = torch.from_numpy(rolling(2, 3, -2)).permute(0, 3, 1, 2).double()
    flow = constant_flow(1, 64, 64, 3, -2).double()
    inside = in_bounds(flow)[0]
    assert inside.sum() == 61 * 62
    warped = warp_backward(two[None], flow)[0]
    assert (warped - one)[:, inside].abs().max() < 1e-9
    assert not torch.allclose(warped, one, atol=1e-3)


def test_in_bounds_includes_the_outermost_pixel_centres():
    flow = torch.zeros(1, 2, 3, 4)
    flow[0, 0, 0] = torch.tensor([-0.01, -1.0, 1.0, 0.01])
    flow[0, 1, 2] = 0.01
    expected = [[False, True, True, False], [True] * 4, [False] * 4]
    assert in_bounds(flow)[0].tolist() == expected


def test_consistency_check_is_the_published_one():
    case, _ = golden("lai_occlusion")
    visible = visible_lai2018(case["input/fw_flow"], case["input/bw_flow"])
    assert torch.equal(~visible, case["output/occlusion"])


@pytest.mark.parametrize(("length", "squared", "linear"), [(20, 2.92, 0.9), (40, 5.7, 1.3)])
def test_the_two_checks_allow_different_gaps(length, squared, linear):
    flow = constant_flow(1, 8, 8, length, 0)
    for check, gap in ((consistent, squared), (consistent_linear, linear)):
        for factor, passes in ((0.98, True), (1.04, False)):
            reverse = constant_flow(1, 8, 8, -length, gap * factor)
            assert bool(check(flow, reverse).all()) is passes


def test_the_linear_check_takes_the_length_where_the_pixel_is():
    """GMFlow's code warps the reverse flow for the gap but not for the threshold."""
    flow = constant_flow(1, 4, 40, 20, 0)
    reverse = torch.zeros(1, 2, 4, 40)
    reverse[..., 20:] = torch.tensor([-19.2, 0.0]).view(2, 1, 1)
    agreed = consistent_linear(flow, reverse)[0, 0]
    assert not agreed[:20].any()  # gap .8, threshold .01 (20 + 0) + .5 = .7
    reverse[..., :20] = torch.tensor([-19.2, 0.0]).view(2, 1, 1)
    assert consistent_linear(flow, reverse)[0, 0, :20].all()  # threshold .892


def test_paths_add_up_and_stop_where_a_step_is_hidden():
    forward = np.zeros((3, 8, 12, 2), np.float32)
    forward[..., 0] = 2
    hidden = np.zeros((3, 8, 12), bool)
    hidden[1, 3, 5] = True
    path, seen = from_first(exact_flow(forward, -forward, hidden, np.zeros_like(hidden)))
    assert path[:, 0, 0, 0].tolist() == [2, 4, 6]
    assert seen[:, 0].sum(1).tolist() == [10, 8, 6]
    # (5, 3) of frame 1 is (3, 3) of frame 0.
    assert not seen[1, 3, 3]
    assert not seen[2, 3, 3]
    assert seen[1, 3, 2]


def test_exact_flow_keeps_the_truth_and_masks_what_leaves():
    forward = np.zeros((2, 5, 6, 2), np.float32)
    forward[..., 0] = 2
    hidden = np.zeros((2, 5, 6), bool)
    hidden[0, 1, 1] = True
    flow = exact_flow(forward, -forward, hidden, np.zeros_like(hidden))
    assert flow.source == "exact"
    assert torch.equal(flow.forward[:, 0], torch.full((2, 5, 6), 2.0))
    assert not flow.valid[:, :, 4:].any()
    assert not flow.valid[0, 1, 1]
    assert flow.pair_coverage.tolist() == [19 / 30, 20 / 30]
    assert flow.coverage == pytest.approx(39 / 60)
    assert flow.valid_backward.sum() == 40
    assert not flow.valid_backward[:, :, :2].any()


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (-3, 1), (0, 0)])
def test_dis_finds_a_translation(dx, dy):
    flow = dis_flow(rolling(3, dx, dy))
    inner = (..., slice(12, -12), slice(12, -12))
    wanted = torch.tensor([dx, dy]).view(1, 2, 1, 1)
    assert (flow.forward[inner] - wanted).abs().mean() < 0.05
    assert (flow.backward[inner] + wanted).abs().mean() < 0.05
    assert flow.valid[inner].double().mean() > 0.99
    assert flow.coverage > 0.8
    assert flow.source == "dis"


def test_dis_backward_flow_starts_at_the_later_frame():
    """Frame 0 -> 1 moves, 1 -> 2 rests: reversing in time must not swap the pairs."""
    frames = rolling(2, 3, 0)
    flow = dis_flow(np.stack([frames[0], frames[1], frames[1]]))
    assert flow.backward[0, 0, 20:-20, 20:-20].mean() == pytest.approx(-3, abs=0.1)
    assert flow.backward[1].abs().max() == 0


def test_dis_flags_an_occluder():
    background, sprite = textured(128, 0), textured(128, 1)
    frames = np.stack([background, background])
    for frame, x in zip(frames, (30, 38), strict=True):
        frame[30:98, x : x + 60] = sprite[30:98, :60]
    valid = dis_flow(frames).valid[0].double()
    about_to_be_hidden = valid[34:94, 90:98]
    assert about_to_be_hidden.mean() < 0.5
    assert valid[34:94, 40:80].mean() > 0.95
    assert valid[:, :20].mean() > 0.95


@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (2, 8, 64, 3)])
def test_dis_refuses_what_it_cannot_do(shape):
    with pytest.raises(UserError, match="optical flow"):
        dis_forward(np.zeros(shape, np.uint8))


def test_to_levels_inverts_division_by_255():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    frames = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255
    assert np.array_equal(to_levels(frames), levels)
