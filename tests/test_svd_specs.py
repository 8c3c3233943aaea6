"""The shipped studies of Stable Video Diffusion: they load, and their rows are what they say."""

import pytest

from ablations.check import load_spec
from ablations.shipped import shipped_parts
from ablations.specfile import read_document
from crossframe.verbs.common import find_spec, shipped_specs
from methods.svd.config import SvdConfig
from methods.svd.ramp import frame_scales

STUDIES = sorted(name for name in shipped_specs() if name.startswith("svd-"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_a_good_spec_at_every_scale(name):
    for scale in read_document(find_spec(name)).data.get("scales", {"": {}}):
        chosen = [f"scale={scale}"] if scale else []
        checked = load_spec(find_spec(name), chosen, shipped_parts())
        assert {row.method for row in checked.rows} == {"svd", "source", "frozen"}


def test_shapes_of_the_ramp_study_are_equally_strong():
    """Constant, linear and cosine have one mean; the triangle's is as low as the text says."""
    checked = load_spec(find_spec("svd-ramp"), (), shipped_parts())
    means = {}
    for row in checked.rows:
        if "guidance.ramp.shape" in row.axes:
            ramp = SvdConfig.model_validate(row.config).guidance.ramp
            place = row.axes["guidance.ramp.max"], row.axes["guidance.ramp.shape"]
            means[place] = frame_scales(ramp, checked.spec.clip.frames).mean().item()
    for highest in (2.0, 3.0, 7.0):
        for shape in ("constant", "linear", "cosine"):
            assert means[highest, shape] == pytest.approx((1 + highest) / 2)
    assert means[3.0, "triangle"] == pytest.approx(1.86, abs=0.005)


def test_the_network_as_trained_is_one_row_of_the_alpha_study():
    rows = load_spec(find_spec("svd-alpha"), (), shipped_parts()).rows
    assert [r.label for r in rows if r.axes.get("alpha.gain") == 1.0] == [
        "gain=1.0, layers=[resnet, attention]"
    ]
    assert sum("alpha.gain" in r.axes for r in rows) == 16


@pytest.mark.parametrize("name", [*STUDIES, "sv3d-fig4", "svd-guidance"])
def test_released_checkpoints_are_one_line_away(name):
    """As trained, 1024x576 and 14 or 25 frames (windows of them), with the published protocol."""
    for scale in ("svd", "svd-xt", "svd-xt-1-1"):
        frames, steps = (14, 25) if scale == "svd" else (25, 30)
        checked = load_spec(find_spec(name), [f"scale={scale}"], shipped_parts())
        spec, long = checked.spec, name == "svd-long"
        assert spec.name == f"{name}-{scale}"
        assert spec.clip.size == (1024, 576)
        assert spec.clip.frames == ({14: 42, 25: 50}[frames] if long else frames)
        assert {"i2v_subject", "i2v_background", "fvd"} < set(spec.metrics)
        configs = [SvdConfig.model_validate(r.config) for r in checked.rows if r.method == "svd"]
        assert {c.long.window for c in configs} == ({None, frames} if long else {None})
        if name != "svd-speed":
            assert {c.steps for c in configs} == {steps}


def test_the_triangle_of_sv3d_is_also_there_as_strong_as_the_line():
    rows = {r.label: r for r in load_spec(find_spec("sv3d-fig4"), (), shipped_parts()).rows}
    means = {
        label: frame_scales(SvdConfig.model_validate(row.config).guidance.ramp, 8).mean().item()
        for label, row in rows.items()
        if row.method == "svd"
    }
    assert means["triangle as strong"] == pytest.approx(means["linear"])
    assert means["triangle"] < means["linear"]
