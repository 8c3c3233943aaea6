"""Rerender's baselines: which frames take part, and fusion in closed form."""

from __future__ import annotations

import pytest
import torch
from test_fresco import make_request, sized, undrawn
from tiny_backbone import SIZE, tiny_backbone

from crossframe.errors import NotAvailable
from methods import method_config
from methods.backbones import Backbone
from methods.fresco.options import Correspondence
from methods.networks import Networks
from methods.rerender.config import Fusion, RerenderConfig
from methods.rerender.fusion import Carrier, carriers, nearest_source, shape_fusion
from methods.rerender.sampler import sample

EXACT = {"flow": "exact", "occlusion": "exact", "photometric": None}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


def make_config(**options) -> RerenderConfig:
    quick = {
        "steps": 4,
        "strength": 1.0,
        "controls": [],
        "correspondence": EXACT,
        "keyframes": {"min": 1, "max": 1},
        "fusion": {"steps": [0, 0.5]},
    }
    return RerenderConfig.model_validate({**quick, **options})


def run(backbone, request, **options):
    return sample(backbone, request, make_config(**options), lambda done, total: None)


def test_nearest_source_rounds_and_stays_inside():
    flow = torch.zeros(2, 3, 4)
    flow[0] = 1.4
    flow[1] = -0.6
    source = nearest_source(flow).view(3, 4)
    assert source[0].tolist() == [1, 2, 3, 3]
    assert source[1].tolist() == [1, 2, 3, 3]
    assert source[2].tolist() == [5, 6, 7, 7]


@pytest.mark.parametrize("anchor", ["first", "previous"])
def test_a_moving_picture_is_carried(anchor):
    """Everything moves one latent to the right per frame: what is visible equals frame 0."""
    request = make_request(3)
    request.truth["flow_forward"][:, 0] = 2.0
    request.truth["flow_backward"][:, 0] = -2.0
    size = SIZE // 2
    ways = carriers(request, [0, 1, 2], Correspondence(**EXACT), anchor, size, size)
    clean = torch.randn(3, 4, size, size)
    fused = shape_fusion(ways, 10, Fusion(anchor=anchor))(clean, 0)
    for i in (1, 2):
        assert torch.equal(fused[i, ..., i:], clean[0, ..., : size - i])
        assert torch.equal(fused[i, ..., 0], clean[i, ..., 0])
    assert torch.equal(fused[0], clean[0])


def test_fusion_has_its_steps_and_its_switch():
    way = Carrier(0, torch.zeros(4, dtype=torch.long), torch.zeros(2, 2, dtype=torch.bool))
    clean = torch.randn(2, 4, 2, 2)
    edit = shape_fusion([way], 20, Fusion())
    changed = [index for index in range(20) if not torch.equal(edit(clean, index), clean)]
    assert changed == [0, 1]
    assert torch.equal(shape_fusion([way], 20, Fusion(on=False))(clean, 0), clean)
    assert torch.equal(edit(clean, 0)[1], clean[0, :, :1, :1].expand(4, 2, 2))


def test_frames_see_the_first_and_the_previous_one_only(backbone):
    """Dropping the last frame leaves the others; changing frame 1 leaves frame 3."""
    request = make_request(4)
    options = {"fusion": {"on": False}, "noise": "independent", "strength": 0.75}
    whole = run(backbone, request, **options)
    shorter = make_request(4)
    shorter.frames[3] = 0.5
    changed = run(backbone, shorter, **options)
    torch.testing.assert_close(changed[:3], whole[:3], rtol=0, atol=1e-5)
    other = make_request(4)
    other.frames[0] = 0.5
    assert not torch.allclose(run(backbone, other, **options)[3], whole[3], atol=1e-3)


def test_attention_and_fusion_each_matter(backbone):
    request = make_request(3)
    full = run(backbone, request)
    assert full.shape == (3, 3, SIZE, SIZE)
    assert not torch.equal(full, run(backbone, request, fusion={"on": False}))
    assert not torch.equal(full, run(backbone, request, attention={"pattern": "individual"}))


def test_an_absent_program_is_told_before_anything_is_drawn(backbone, monkeypatch):
    monkeypatch.setattr(Networks, "predict_part", undrawn)
    absent = {"by": "ebsynth", "ebsynth": "/nowhere/ebsynth"}
    with pytest.raises(NotAvailable, match="/nowhere/ebsynth"):
        run(backbone, make_request(4), between=absent, keyframes={"min": 2, "max": 2})


def test_frames_need_not_be_square(backbone):
    keyframes = {"min": 2, "max": 2}
    assert run(backbone, sized(4, 16, 24), keyframes=keyframes).shape == (4, 3, 16, 24)


def test_flow_to_the_anchor_is_estimated_once(monkeypatch):
    asked: list[int] = []

    class Still:
        def forward(self, frames):
            asked.append(len(frames))
            return torch.zeros(len(frames) - 1, 2, SIZE, SIZE)

    monkeypatch.setattr("methods.fresco.correspondence.load_estimator", lambda *a: Still())
    size = SIZE // 2
    carriers(make_request(3), [0, 1, 2], Correspondence(flow="dis"), "first", size, size)
    assert asked == [2] * 4


def test_defaults_are_the_published_ones():
    config = RerenderConfig()
    assert (config.attention.pattern, config.attention.blocks) == ("first+previous", ("up",))
    assert (config.keyframes.min, config.keyframes.max, config.steps) == (10, 10, 20)
    assert (config.fusion.steps, config.fusion.anchor) == ((0.0, 0.1), "first")
    assert method_config("rerender") is RerenderConfig
