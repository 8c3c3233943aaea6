import pytest

from crossframe.errors import UserError
from crossframe.flow.table import FLOWS
from metrics import METRICS
from metrics.preprocessing import GEOMETRIES
from metrics.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_choice_exists(name):
    chosen = preset(name)
    assert chosen.metrics
    assert set(chosen.metrics) <= set(METRICS.names())
    assert chosen.geometry in GEOMETRIES
    assert chosen.flow in FLOWS
    needs = {need for metric in chosen.metrics for need in METRICS.entry(metric).extra["needs"]}
    assert bool(chosen.encoder) == ("clip" in needs)


def test_the_published_evaluations_are_there():
    known = {"tgve", "fatezero", "vbench", "vbench_i2v", "lai2018", "controlvideo", "fresco"}
    assert set(PRESETS) == known


def test_other_names_are_errors():
    with pytest.raises(UserError, match="did you mean 'tgve'"):
        preset("tgv")
