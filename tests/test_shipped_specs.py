"""Every spec and paper that is shipped, at each of its scales: good, in a run folder of its own."""

from __future__ import annotations

import pytest

from ablations.check import CheckedSpec, load_spec
from ablations.shipped import shipped_parts
from ablations.specfile import read_document
from crossframe.verbs.common import find_spec, shipped_papers, shipped_specs
from reports.claims import MIN_CLIPS

SHIPPED = sorted({*shipped_specs(), *shipped_papers()})


def scales_of(name: str) -> list[str]:
    """The scales of a spec, the one that applies unless told otherwise first."""
    return list(read_document(find_spec(name)).data.get("scales", {"": {}}))


def at_scale(name: str, scale: str) -> CheckedSpec:
    return load_spec(find_spec(name), [f'scale="{scale}"'] if scale else [], shipped_parts())


@pytest.mark.parametrize(
    ("name", "scale"), [(name, scale) for name in SHIPPED for scale in scales_of(name)]
)
def test_it_is_good_and_its_run_has_a_name_of_its_own(name: str, scale: str) -> None:
    checked, first = at_scale(name, scale), scales_of(name)[0]
    assert checked.rows
    assert checked.spec.name == name if scale == first else checked.spec.name.startswith(f"{name}-")
    if scale in ("", "miniature", first):
        assert checked.spec.backbone == "miniature"
    if name in shipped_papers():
        assert (checked.spec.backbone == "miniature") == (scale == "miniature")
        assert checked.spec.name == name + ("" if scale == "miniature" else f"-{scale}")
        assert checked.spec.paper is not None
        assert {"source", "frozen"} <= {row.label for row in checked.rows}


@pytest.mark.parametrize("name", SHIPPED)
def test_claims_have_the_clips_that_a_verdict_takes(name: str) -> None:
    checked = at_scale(name, scales_of(name)[0])
    assert not checked.spec.claims or len(checked.clips) >= MIN_CLIPS


@pytest.mark.parametrize("name", sorted(shipped_papers()))
def test_published_tables_have_the_miniature_and_a_real_scale(name: str) -> None:
    assert scales_of(name)[0] == "miniature"
    assert len(scales_of(name)) > 1


@pytest.mark.parametrize("name", [name for name in SHIPPED if len(scales_of(name)) > 1])
def test_no_two_scales_share_a_run_folder(name: str) -> None:
    data = read_document(find_spec(name)).data
    assert data["scale"] == scales_of(name)[0]
    names = [fields.get("name", data["name"]) for fields in data["scales"].values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("tuneavideo-")])
def test_rows_of_tune_a_video_differ_as_they_say_at_every_scale(name: str) -> None:
    """Sampling is the same in all rows; kinds of prompt are four."""
    checked = at_scale(name, "sd15")
    assert checked.spec.prompt == ("style", "object", "background", "multiple")
    configs = [row.config for row in checked.rows if row.method in ("tuneavideo", "ddim")]
    assert {config["steps"] for config in configs} == {50}
    assert {config["guidance"]["scale"] for config in configs} == {12.5}


def test_four_times_the_steps_are_four_times_those_of_sampling() -> None:
    for scale in ("miniature", "sd15"):
        rows = {row.label: row.config for row in at_scale("tuneavideo-inversion", scale).rows}
        row = rows["DDIM, four times the steps"]
        assert row["inversion"]["steps"] == 4 * row["steps"] == 4 * rows["DDIM"]["steps"]


def test_the_challenge_is_run_as_its_baseline_was() -> None:
    for scale in ("sd15", "sd15-long"):
        (row,) = [r for r in at_scale("tgve-leaderboard", scale).rows if r.method == "tuneavideo"]
        tuning = row.config["tuning"]
        assert (tuning["steps"], tuning["repeat"], tuning["train"]) == (300, 100, "mid_up")
