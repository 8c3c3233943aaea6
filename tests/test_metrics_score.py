import pytest
import torch
from test_metrics_clip import Angles, at_angles

from crossframe.errors import Diverged, NotAvailable, Problem, UserError
from crossframe.flow.fields import dis_flow, to_levels
from crossframe.registry import Entry, Registry
from metrics.base import MetricInputs, MetricValue, Unavailable
from metrics.encoders import CLIPEncoder
from metrics.score import measure, measure_all


def test_the_encoder_is_opened_when_asked_for_and_encodes_once():
    angles, asked = Angles(), []

    def open_encoder():
        asked.append(1)
        return angles

    frames, source = at_angles([0.0, 90.0, 0.0]), torch.rand(3, 3, 16, 16)
    inputs = MetricInputs(frames, source, "a")
    measure("motion/ratio", inputs, encoder=open_encoder)
    assert not asked
    ids = ["clip_frame/consecutive", "clip_frame/all_pairs", "clip_text/cosine"]
    scores = measure_all(ids, inputs, encoder=open_encoder)
    assert list(scores) == ids
    assert angles.passes == 1
    assert scores["clip_frame/consecutive"].value == pytest.approx(0, abs=1e-6)
    assert scores["clip_text/cosine"].value == pytest.approx(2 / 3)


def test_the_flow_is_made_when_asked_for():
    frames, asked = torch.rand(2, 3, 16, 16), []

    def make_flow():
        asked.append(1)
        return dis_flow(to_levels(frames))

    inputs = MetricInputs(frames, frames)
    measure("flicker/mae", inputs, flow=make_flow)
    assert not asked
    measure("pixel_mse/fresco", inputs, flow=make_flow)
    assert asked


def test_scoring_goes_on_without_the_encoder(tmp_path):
    inputs = MetricInputs(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16))
    ids = ["clip_frame/consecutive", "flicker/mae"]
    scores = measure_all(ids, inputs, encoder=lambda: CLIPEncoder.from_folder(tmp_path))
    assert isinstance(scores["clip_frame/consecutive"], Unavailable)
    assert "no CLIP weights" in scores["clip_frame/consecutive"].record()["unavailable"]
    assert scores["flicker/mae"].record()["value"] > 0
    assert isinstance(measure(ids[0], inputs), Unavailable)


def test_unknown_ids_are_errors():
    with pytest.raises(UserError, match="clip_frame/consecutive"):
        measure("clip_frame/consecutiv", MetricInputs(torch.rand(2, 3, 16, 16)))


def broken(inputs):
    raise UserError(Problem("weights", "are torn"))


def absent(inputs):
    raise NotAvailable("x", "is absent")


def infinite(inputs):
    return MetricValue(float("inf"), ())


def mistaken(inputs):
    raise ZeroDivisionError


def other(function):
    return Registry("metric", {"x": Entry(f"{__name__}:{function}", "")}, "none")


@pytest.mark.parametrize(("function", "reason"), [("broken", "are torn"), ("absent", "is absent")])
def test_what_a_metric_cannot_do_without_makes_it_unavailable(function, reason):
    inputs = MetricInputs(torch.rand(2, 3, 16, 16))
    assert reason in measure("x", inputs, registry=other(function)).reason


@pytest.mark.parametrize(
    ("function", "error"), [("infinite", Diverged), ("mistaken", ZeroDivisionError)]
)
def test_divergence_and_mistakes_are_not_hidden(function, error):
    with pytest.raises(error):
        measure("x", MetricInputs(torch.rand(2, 3, 16, 16)), registry=other(function))
