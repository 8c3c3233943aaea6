"""Flow and occlusion of FRESCO, against golden vectors of the released code and exact motion."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fresco_golden import golden
from pydantic import ValidationError
from torch import Tensor

from crossframe.errors import UserError
from crossframe.flow.fields import in_bounds, warp_backward
from crossframe.keys import identity
from crossframe.weights import NETWORKS
from methods.base import SampleRequest
from methods.fresco.adain import STYLE_EPS, adain, statistics
from methods.fresco.correspondence import (
    AGREEMENTS,
    Flows,
    add_photometric,
    correspondence,
    follow,
)
from methods.fresco.options import Correspondence
from methods.fresco.warp import Rows, fit_flow, fit_occlusion


def shifting(f: int = 4, size: int = 16, by: tuple[int, int] = (2, 1)) -> SampleRequest:
    """A random picture that moves by a whole (dx, dy) per frame, with its truth."""
    dx, dy = by
    picture = _blobs(size + f * dy, size + f * dx)
    frames = [
        picture[:, (f - t) * dy :, (f - t) * dx :][:, :size, :size] for t in range(f)
    ]  # content moves right and down
    flow = torch.tensor([dx, dy]).float().view(1, 2, 1, 1).expand(f - 1, 2, size, size)
    none = torch.zeros(f - 1, size, size, dtype=torch.bool)
    truth = {
        "flow_forward": flow,
        "flow_backward": -flow,
        "occluded_forward": none,
        "occluded_backward": none,
    }
    return SampleRequest(torch.stack(frames), "a star", truth=truth)


def _blobs(height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, height // 4 + 1, width // 4 + 1, generator=_seeded(0))
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 1)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_warp_is_the_released_one():
    case = golden("flow_warp")
    feature, flow = case.input["feature"], case.input["flow"]
    case.check("warped", warp_backward(feature, flow, "zeros"))
    case.check("warped_border", warp_backward(feature, flow))
    case.check("in_frame", in_bounds(flow))


def test_consistency_check_is_the_released_one():
    case = golden("fb_consistency")
    forward, backward = case.input["fwd_flow"], case.input["bwd_flow"]
    agree = AGREEMENTS["linear"]
    case.check("fwd_occ", ~agree(forward, backward))
    case.check("bwd_occ", ~agree(backward, forward))


def test_occlusion_is_the_released_one():
    case = golden("occlusion")
    forward, backward = case.input["fwd_flow"], case.input["bwd_flow"]
    agree = AGREEMENTS["linear"]
    flows = Flows(forward, backward, ~agree(forward, backward), ~agree(backward, forward))
    images = case.input["images"] / 255
    flows = add_photometric(flows, torch.cat([images, images[:1]]), 0.25)
    case.check("fwd_occ", flows.hidden_forward)
    case.check("bwd_occ", flows.hidden_backward)


@pytest.mark.parametrize("name", ["consistency_losses_k4", "consistency_losses_k8"])
def test_levels_are_resized_as_released(name):
    case = golden(name)
    size = case.input["sample"].shape[-2:]
    for way in ("fwd", "bwd"):
        case.check(f"{way}_flow_resized", fit_flow(case.input[f"{way}_flow"], *size))
        occluded = fit_occlusion(case.input[f"{way}_occ"], *size)
        case.check(f"{way}_occ_resized", occluded[:, None])


def test_adain_is_the_released_one():
    case = golden("adain")
    content, style = case.input["content"], case.input["style"]
    case.check("direct", adain(content, style))
    case.check("after_optimisation", adain(case.input["content_optimised"], style))
    for name, (mean, deviation) in {
        "content": statistics(content),
        "style": statistics(style, STYLE_EPS["repo"]),
    }.items():
        case.check(f"{name}_mean", mean)
        case.check(f"{name}_std", deviation)


def test_fixed_adain_restores_the_statistics():
    style, content = torch.randn(2, 3, 4, 6, 5, generator=_seeded(1))
    found = statistics(adain(content, style, "fixed"))
    for one, other in zip(found, statistics(style), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    single = style[..., :1, :1]
    torch.testing.assert_close(adain(content[..., :1, :1], single, "fixed"), single)


def test_rows_and_their_transpose_are_the_dense_matrix():
    dense = torch.randn(7, 5, generator=_seeded(2)) * (torch.rand(7, 5, generator=_seeded(3)) < 0.4)
    dense[3] = 0
    row, column = dense.nonzero().T
    rows = Rows.build(row, column, dense[row, column], 7)
    x, y = torch.randn(5, 4), torch.randn(7, 4)
    torch.testing.assert_close(rows(x), dense @ x)
    torch.testing.assert_close(rows.transposed(5)(y), dense.T @ y)


@pytest.mark.parametrize("size", [(4, 5), (3, 3), (32, 16)])
def test_features_that_are_no_even_share_of_the_frames_are_refused(size):
    for fit, field in (
        (fit_flow, torch.zeros(1, 2, 32, 32)),
        (fit_occlusion, torch.ones(1, 32, 32)),
    ):
        with pytest.raises(ValueError, match=f"{size[1]}x{size[0]}"):
            fit(field, *size)


@pytest.mark.parametrize("tokens", [11, 13, 47, 49, 55, 94, 110])
def test_flow_has_the_size_of_the_features_whatever_their_share_is_in_floating_point(tokens):
    """1/k is rounded for most k, and sides times that may come out below a whole number."""
    for share in (3, 7, 16, 23, 32):
        field = torch.ones(1, 2, share * tokens, 2 * share)
        assert fit_flow(field, tokens, 2).shape == (1, 2, tokens, 2)


@pytest.mark.parametrize(
    ("back", "visible"),
    [(-1.5, True), (-0.6, False), (-0.9, True), (-2.1, True), (-2.3, False)],
)
def test_the_squared_rule_allows_a_gap_that_grows_with_the_motion(back, visible):
    """Forth 1.5 and back `back`: |1.5 + back|^2 against 0.01 (1.5^2 + back^2) + 0.5."""
    forward, backward = torch.zeros(2, 1, 2, 6, 20)
    forward[:, 0], backward[:, 0] = 1.5, back
    found = AGREEMENTS["squared"](forward, backward)[0]
    assert ((1.5 + back) ** 2 <= 0.01 * (1.5**2 + back**2) + 0.5) == visible
    assert (found[:, :18] == visible).all()
    assert not found[:, 18:].any()  # 1.5 beyond the last pixels is outside


def test_the_squared_rule_reads_the_way_back_at_the_target():
    """Back by -x/2, forth by 3.5: at the target it is -(x + 3.5)/2, between two pixels."""
    forward, backward = torch.zeros(2, 1, 2, 4, 24)
    forward[:, 0], backward[:, 0] = 3.5, -torch.arange(24) / 2
    x = torch.arange(24)
    there = -(x + 3.5) / 2
    expected = (3.5 + there) ** 2 <= 0.01 * (3.5**2 + there**2) + 0.5
    expected &= x + 3.5 <= 23
    assert expected.any()
    assert torch.equal(AGREEMENTS["squared"](forward, backward)[0], expected.expand(4, 24))


def test_exact_flow_follows_whole_shifts_either_way():
    request = shifting()
    flows = correspondence(
        request, Correspondence(flow="exact", occlusion="exact", photometric=None), [0, 2, 3]
    )
    for pair, (start, end) in enumerate([(0, 2), (2, 3), (3, 0)]):
        for flow, hidden, steps in (
            (flows.forward[pair], flows.hidden_forward[pair], end - start),
            (flows.backward[pair], flows.hidden_backward[pair], start - end),
        ):
            expected = steps * torch.tensor([2.0, 1.0]).view(2, 1, 1).expand(2, 16, 16)
            visible = ~hidden
            assert torch.equal(flow[:, visible], expected[:, visible])
            # Every step must stay inside, and only those pixels do.
            assert visible.sum() == (16 - 2 * abs(steps)) * (16 - abs(steps))


def test_the_check_and_the_truth_agree_on_whole_shifts():
    request = shifting()
    exact = correspondence(
        request, Correspondence(flow="exact", occlusion="exact", photometric=None)
    )
    for rule in ("linear", "squared"):
        checked = correspondence(request, Correspondence(flow="exact", occlusion=rule))
        assert torch.equal(checked.hidden_forward, exact.hidden_forward)
        assert torch.equal(checked.hidden_backward, exact.hidden_backward)


def test_a_hidden_pixel_stays_hidden_further_on():
    truth = dict(shifting(by=(1, 0)).truth)
    hidden = truth["occluded_forward"].clone()
    hidden[1, 5, 7] = True
    truth["occluded_forward"] = hidden
    _, before = follow(truth, 0, 1)
    _, after = follow(truth, 0, 2)
    assert before[0, 5, 6]
    assert not after[0, 5, 6]
    assert after[0, 5, 7]


def test_estimated_flow_is_cyclic_and_shared():
    request = shifting(f=3, size=64, by=(3, 0))
    asked = []

    def shared(stage, parts, make):
        asked.append((stage, parts))
        return make()

    request = SampleRequest(request.frames, "", shared=shared)
    flows = correspondence(request, Correspondence(flow="dis"))
    inner = (slice(16, 48), slice(16, 48))
    for pair, steps in enumerate([1, 1, -2]):
        median = flows.forward[pair][(slice(None), *inner)].flatten(1).median(1).values
        assert median.numpy() == pytest.approx([3 * steps, 0], abs=0.5)
        median = flows.backward[pair][(slice(None), *inner)].flatten(1).median(1).values
        assert median.numpy() == pytest.approx([-3 * steps, 0], abs=0.5)
    estimator = {"name": "dis", "version": 1, "networks": {}}
    assert [(stage, parts[:4]) for stage, parts in asked] == [
        ("flow", ["fresco", estimator, "cpu", [0, 1, 2, 0]])
    ]
    open_ended = correspondence(request, Correspondence(flow="dis"), cyclic=False)
    assert asked[1][1][3] == [0, 1, 2]
    for name, found in vars(open_ended).items():
        assert torch.equal(found, getattr(flows, name)[:-1])


def test_the_weights_of_the_estimator_are_part_of_what_the_stage_is_kept_by(monkeypatch, tmp_path):
    """And the network runs where it is told to."""
    seen: list[Any] = []

    class Still:
        def forward(self, frames):
            return torch.zeros(len(frames) - 1, 2, *frames.shape[1:3])

    def load(name, device):
        seen.append((name, device))
        return Still()

    monkeypatch.setattr("methods.fresco.correspondence.load_estimator", load)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    keys = []

    def shared(stage, parts, make):
        keys.append(identity([stage, parts]))
        return make()

    request = SampleRequest(shifting(f=2).frames, "", shared=shared)
    options = Correspondence(flow="raft")
    correspondence(request, options, device="meta")
    (folder / NETWORKS["raft"].id).write_bytes(b"weights")
    correspondence(request, options, device="meta")
    assert seen == [("raft", "meta")] * 2
    assert keys[0] != keys[1]


def test_absent_weights_of_the_flow_are_told_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (problem,) = Correspondence(flow="raft").absent()
    assert "not on this machine" in problem.what
    assert Correspondence(flow="dis").absent() == ()
    assert Correspondence(flow="exact").absent() == ()


def test_footage_has_no_exact_flow():
    request = SampleRequest(shifting().frames, "")
    with pytest.raises(UserError, match="no exact flow"):
        correspondence(request, Correspondence(flow="exact"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"flow": "raf"}, "raft"), ({"flow": "dis", "occlusion": "exact"}, "needs flow: exact")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Correspondence(**options)


def test_one_frame_is_its_own_neighbour():
    request = shifting(f=2)
    flows = correspondence(request, Correspondence(flow="exact"), [1])
    assert len(flows) == 1
    assert not np.any(flows.hidden_forward.numpy())
    assert not flows.forward.any()
