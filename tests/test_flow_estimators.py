import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from test_flow import constant_flow, rolling
from test_metrics_warp import to_tensor

from crossframe.errors import NotAvailable, UserError
from crossframe.flow.estimators import (
    DisFlow,
    GmFlow,
    NetworkFlow,
    RaftFlow,
    both_ways,
    load_estimator,
)
from crossframe.flow.fields import dis_flow
from crossframe.flow.table import FLOWS
from metrics.base import MetricInputs
from metrics.motion import ratio
from metrics.warp import output_flow, source_flow


class Asked:
    """A network that remembers the shapes it saw and answers a constant flow."""

    def __init__(self, dx, dy):
        self.shapes = []
        self.flow = (dx, dy)

    def __call__(self, one, two):
        assert one.shape == two.shape
        self.shapes.append(tuple(one.shape))
        return constant_flow(len(one), *one.shape[-2:], *self.flow)


def test_dis_is_the_default_and_is_found_by_name():
    frames = rolling(3, 2, 1)
    named, plain = both_ways(load_estimator("dis"), frames), dis_flow(frames)
    assert torch.equal(named.forward, plain.forward)
    assert torch.equal(named.backward, plain.backward)
    assert torch.equal(named.valid, plain.valid)
    assert named.source == "dis"


def test_other_names_are_errors():
    with pytest.raises(UserError, match="did you mean 'raft'"):
        load_estimator("raf")


@pytest.mark.parametrize("name", ["raft", "gmflow"])
def test_absent_weights_are_told(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(NotAvailable, match=r"\.pth: its weights are not on this machine"):
        load_estimator(name)


@pytest.mark.parametrize(("made", "multiple"), [(RaftFlow, 8), (GmFlow, 16)])
def test_networks_see_padded_pairs_and_the_padding_is_cut_off(made, multiple):
    network = Asked(1.0, -2.0)
    flow = made(network).forward(np.zeros((3, 20, 35, 3), np.uint8))
    height, width = (-(-side // multiple) * multiple for side in (20, 35))
    assert network.shapes == [(1, 3, height, width)] * 2
    assert torch.equal(flow, constant_flow(2, 20, 35, 1, -2))


def test_networks_need_two_frames():
    with pytest.raises(NotAvailable, match="2 frames"):
        NetworkFlow(Asked(0, 0)).forward(np.zeros((1, 16, 16, 3), np.uint8))


def test_the_table_agrees_with_the_classes():
    for name, made in (("dis", DisFlow), ("raft", RaftFlow), ("gmflow", GmFlow)):
        assert made.name == name
        assert made.check == FLOWS.entry(name).extra["check"]


def test_the_check_of_the_estimator_is_used():
    """Forth 20 and back -18 pixels: the squared check allows 2 pixels there, the linear one not."""

    class Uneven(NetworkFlow):
        def forward(self, frames):
            return constant_flow(1, 16, 64, 20 if frames[0, 0, 0, 0] else -18, 0)

    frames = np.zeros((2, 16, 64, 3), np.uint8)
    frames[0] = 1
    valid = {}
    for check in ("sundaram", "gmflow"):
        estimator = Uneven(Asked(0, 0))
        estimator.check = check
        valid[check] = both_ways(estimator, frames).valid.any().item()
    assert valid == {"sundaram": True, "gmflow": False}


def test_metrics_use_the_estimator_they_are_given_and_ask_it_once():
    network = Asked(0.0, 0.0)
    frames = to_tensor(rolling(3, 2, 0))
    inputs = MetricInputs(frames, frames, estimator=RaftFlow(network))
    assert source_flow(inputs).detail["flow"] == "raft"
    assert output_flow(inputs).detail["flow"] == "raft"
    asked = len(network.shapes)
    source_flow(inputs)
    output_flow(inputs)
    assert len(network.shapes) == asked
    still = RaftFlow(Asked(3.0, 0.0))
    assert ratio(MetricInputs(frames, frames, estimator=still)).detail["flow"] == "raft"


class FakeModel(torch.nn.Module):
    def forward(self, inputs):
        first, second = inputs["images"].unbind(1)
        assert first.max() <= 1
        assert first.shape == second.shape
        return {"flows": constant_flow(1, *first.shape[-2:], 5, 0)[:, None]}


def test_gmflow_is_asked_for_through_ptlflow(monkeypatch, tmp_path):
    package, seen = ModuleType("ptlflow"), {}

    def get_model(name, ckpt_path):
        seen.update(name=name, path=ckpt_path)
        return FakeModel()

    package.get_model = get_model
    monkeypatch.setitem(sys.modules, "ptlflow", package)
    monkeypatch.setattr("crossframe.flow.estimators.locate", lambda name: tmp_path / f"{name}.pth")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "gmflow.pth")
    flow = load_estimator("gmflow").forward(np.zeros((2, 16, 32, 3), np.uint8))
    assert torch.equal(flow, constant_flow(1, 16, 32, 5, 0))
    assert seen == {"name": "gmflow", "path": str(tmp_path / "gmflow.pth")}


def test_a_package_that_is_not_there_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ptlflow", None)
    monkeypatch.setattr("crossframe.flow.estimators.locate", lambda name: tmp_path)
    with pytest.raises(NotAvailable, match="needs ptlflow"):
        GmFlow()
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(NotAvailable, match="needs torchvision"):
        RaftFlow()
