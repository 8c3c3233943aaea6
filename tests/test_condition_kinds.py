"""Names of controls: their spellings, their networks, scales by control."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from crossframe.errors import UserError
from methods.annotators import ANNOTATORS
from methods.axes import ControlScale, check_controls, scale_of
from methods.condition_kinds import CONDITIONS, THRESHOLDS, networks_for, parse_control, thresholds
from methods.controlvideo.config import ControlVideoConfig


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("canny", "canny"),
        (" canny [ 50, 150 ] ", "canny[50,150]"),
        ("canny[050,0150]", "canny[50,150]"),
        ("canny[100,200]", "canny"),
        ("depth[depth_midas]", "depth"),
        ("depth[depth_zoe]", "depth[depth_zoe]"),
    ],
)
def test_spellings_of_one_control_are_one_text(text: str, canonical: str) -> None:
    control = parse_control(text)
    assert str(control) == canonical
    assert str(parse_control(canonical)) == canonical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cany", r"unknown control 'cany'.*did you mean 'canny'"),
        ("depth[midas]", r"no option 'midas'.*depth_midas"),
        ("edges[1,2]", "edges has no option"),
        ("canny[200,100]", "LOW <= HIGH"),
        ("canny[1]", "no thresholds of canny"),
        ("canny[", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_what_is_no_control_is_told(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_control(text)


def test_every_row_of_the_table_is_whole() -> None:
    for kind, entry in CONDITIONS.entries.items():
        assert kind in networks_for(kind)
        options = entry.extra.get("options", ())
        assert options == (THRESHOLDS,) or set(options) <= set(ANNOTATORS)
        assert callable(CONDITIONS.load(kind))
    offered = {o for e in CONDITIONS.entries.values() for o in e.extra.get("options", ())}
    assert offered - {THRESHOLDS} == set(ANNOTATORS)


def test_thresholds_of_an_option() -> None:
    assert thresholds("") == (100, 200)
    assert thresholds("5,10") == (5, 10)


# --- Scales


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        (1, 1.0),
        (0.5, 0.5),
        ({"depth": 1}, 1.0),
        ({}, 1.0),
        ({"depth": 0.5, "canny [50,150]": 2, "edges": 1}, {"canny[50,150]": 2.0, "depth": 0.5}),
    ],
)
def test_a_scale_has_one_spelling(given: object, canonical: object) -> None:
    adapter = TypeAdapter(ControlScale)
    assert adapter.validate_python(given) == canonical
    assert adapter.validate_python(canonical) == canonical


@pytest.mark.parametrize("given", [-1, "1", True, None, [1], {"depth": -1}, {"cany": 1}])
def test_what_is_no_scale_is_one_problem(given: object) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(ControlScale).validate_python(given)
    assert caught.value.error_count() == 1


def test_scales_by_control() -> None:
    assert scale_of(0.5, "depth") == 0.5
    assert scale_of({"depth": 0.5}, "depth") == 0.5
    assert scale_of({"depth": 0.5}, "canny") == 1.0
    check_controls(("canny", "canny[50,150]"), {"canny": 0.5})
    with pytest.raises(ValueError, match="lists one kind twice"):
        check_controls(("canny", "canny"), 1.0)
    with pytest.raises(ValueError, match=r"names canny, which is not in controls \(depth\)"):
        check_controls(("depth",), {"canny": 0.5})


def test_a_number_leaves_the_configuration_as_it_was() -> None:
    plain = ControlVideoConfig().model_dump()
    assert ControlVideoConfig(controlnet_scale={"edges": 1}).model_dump() == plain
    assert plain["controlnet_scale"] == 1.0
    assert ControlVideoConfig(preset="repo").annotator_range == "repo_wrapped"
    assert ControlVideoConfig().annotator_range == "correct"
