"""Rows: counted by hand, labelled, deduplicated."""

import pytest
from fake_parts import CONFIGS

from ablations.grid import axis_value, drafts, nest, resolve
from ablations.spec import Spec
from ablations.specfile import Document


def rows(**fields):
    text = {"name": "x", "method": "noisy", "clips": ("c",), "metrics": ("m",)}
    spec = Spec.model_validate({**text, **fields})
    found, problems = resolve(drafts(spec), CONFIGS.__getitem__, Document("s.yaml"))
    assert problems == []
    return found


def labels(**fields):
    return [row.label for row in rows(**fields)]


def test_no_axis_is_one_row():
    assert labels() == ["noisy"]


def test_the_grid_is_a_product_in_file_order():
    grid = {"attention.pattern": ("full", "first"), "steps": (1, 2)}
    assert labels(grid=grid) == [
        "pattern=full, steps=1",
        "pattern=full, steps=2",
        "pattern=first, steps=1",
        "pattern=first, steps=2",
    ]


def test_one_axis_is_labelled_by_its_values():
    assert labels(grid={"attention.pattern": ("full", "first")}) == ["full", "first"]


def test_zip_advances_together_and_multiplies_with_the_grid():
    found = rows(
        grid={"attention.pattern": ("full", "first")},
        zip={"steps": (1, 2, 3), "sleep": (0.1, 0.2, 0.3)},
    )
    assert len(found) == 6
    assert {(row.config["steps"], row.config["sleep"]) for row in found} == {
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
    }


def test_exclude_drops_rows_that_match_every_key():
    grid = {"attention.pattern": ("full", "first"), "steps": (1, 2, 3)}
    found = labels(grid=grid, exclude=({"attention.pattern": "full", "steps": [2, 3]},))
    assert len(found) == 4
    assert "pattern=full, steps=1" in found


def test_include_adds_rows_on_top_of_the_base():
    found = rows(
        base={"sleep": 0.5},
        grid={"attention.pattern": ("full",)},
        include=(
            {"attention.pattern": "first", "attention.alpha": 0.5},
            {"label": "other", "method": "source"},
        ),
    )
    assert [row.label for row in found] == ["full", "first, alpha=0.5", "other"]
    assert found[1].config["sleep"] == 0.5
    assert found[2].config == {}


def test_the_same_configuration_is_one_row():
    found = rows(grid={"steps": (2, 3, 2)}, include=({"label": "again", "steps": 3},))
    assert [row.label for row in found] == ["2", "3"]


def test_sentinels_come_first_and_take_no_options():
    found = rows(sentinels=("source",), base={"steps": 4})
    assert [(row.label, row.sentinel) for row in found] == [("source", True), ("noisy", False)]


def test_axes_win_over_the_base_in_either_spelling():
    for base in ({"attention": {"pattern": "first"}}, {"attention.pattern": "first"}):
        (row,) = rows(base=base, grid={"attention.pattern": ("full",)})
        assert row.config["attention"] == {"pattern": "full", "alpha": 1.0}


@pytest.mark.parametrize(
    ("options", "nested"),
    [
        ({"a.b": 1, "a.c": 2}, {"a": {"b": 1, "c": 2}}),
        ({"a": {"b": 1}, "a.c": 2}, {"a": {"b": 1, "c": 2}}),
        ({"a.c": 2, "a": {"b": 1}}, {"a": {"b": 1, "c": 2}}),
        ({"a": 1, "a.b": 2}, {"a": {"b": 2}}),
        ({"a.p": "x", "a.p.q": {"k": [0]}}, {"a": {"p": {"q": {"k": [0]}}}}),
    ],
)
def test_dotted_paths_nest(options, nested):
    assert nest(options) == nested


def test_nesting_copies():
    value = {"b": [1]}
    nest({"a": value, "a.c": 2})
    assert value == {"b": [1]}


def test_axis_values_of_mappings_are_canonical():
    config = {"attention": {"pattern": "keyframes[0,-1]"}}
    assert axis_value(config, "attention.pattern", {"keyframes": [0, -1]}) == "keyframes[0,-1]"
    assert axis_value(config, "attention.pattern", "x") == "x"
    assert axis_value(config, "attention", {"y": 1}) == {"y": 1}
