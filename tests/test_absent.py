"""What a machine lacks is told by the plan, row by row, and is no failure."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ablations.check import load_spec
from ablations.failures import record_failure
from ablations.plan import Plan, make_plan
from ablations.shipped import shipped_parts
from ablations.store import Store
from ablations.work import classify
from crossframe.errors import NotAvailable, UserError
from methods.backbone_config import miniature_weights

SPEC = """
name: lacking
backbone: miniature
method: controlvideo
base: {steps: 2}
include:
  - {label: plain}
  - {label: smoothed, smoother.on: true, smoother.at: 1.0}
  - {label: posed, controls: [pose]}
  - {label: estimated, controls: ["depth[depth_zoe]"]}
clips: ["world:heldout/0"]
clip: {frames: 2, size: 32}
metrics: [motion/ratio]
"""

needs_miniature = pytest.mark.skipif(
    not (miniature_weights() / "unet").is_dir(), reason="the miniature's weights are not here"
)


class Place:
    """A folder for a spec and its store."""

    def __init__(self, folder: Path) -> None:
        self.path, self.store = folder / "s.yaml", Store(folder / "run")
        self.path.write_text(SPEC, encoding="utf-8")

    def plan(self, *overrides: str) -> Plan:
        parts = shipped_parts()
        return make_plan(load_spec(self.path, overrides, parts), self.store, parts)

    def states(self) -> dict[str, tuple[str, str]]:
        """State and reason by row."""
        plan = self.plan()
        judged = zip(plan.cells, plan.states, plan.reasons, strict=True)
        return {cell.row.label: (state, reason) for cell, state, reason in judged}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("CROSSFRAME_RIFE", str(tmp_path / "flownet.pkl"))
    monkeypatch.setenv("CROSSFRAME_ANNOTATORS", str(tmp_path))
    return Place(tmp_path)


@needs_miniature
def test_rows_that_lack_something_are_skipped_with_the_reason(place: Place) -> None:
    states = place.states()
    assert states["plain"] == ("run", "")
    assert {states[row][0] for row in ("smoothed", "posed", "estimated")} == {"skipped"}
    assert "linear and dis need no weights" in states["smoothed"][1]
    assert "no ControlNet for 'pose' (allowed: edges, depth)" in states["posed"][1]
    assert "annotator openpose" in states["posed"][1]
    assert "annotator depth_zoe" in states["estimated"][1]
    assert "no ControlNet" not in states["estimated"][1]


@needs_miniature
def test_what_is_installed_later_runs_unasked(place: Place) -> None:
    for cell in place.plan().with_state("skipped"):
        record_failure(cell, place.store, "skipped", cell.problem)
    weights = place.path.with_name("flownet.pkl")
    weights.write_bytes(b"weights")
    states = place.states()
    assert states["smoothed"] == ("run", "")
    assert states["posed"][0] == "skipped"


def test_what_cannot_be_had_is_skipped_and_what_is_wrong_has_failed() -> None:
    assert classify(NotAvailable("rife", "not here", "get it"))[0] == "skipped"
    assert classify(UserError(NotAvailable("x", "y").problems))[0] == "failed"


def test_absence_survives_process_borders() -> None:
    error = NotAvailable("controls", "none", "give one", "edges")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is NotAvailable
    assert again.problems == error.problems
    assert str(again) == "controls: none (allowed: edges). give one"


@needs_miniature
def test_a_clip_too_short_for_the_options_is_told_by_the_spec(place: Place) -> None:
    with pytest.raises(UserError, match=r"row 'plain': hierarchical\.window: sqrt of 2 frames"):
        place.plan("base.hierarchical={on: true}")
    with pytest.raises(UserError, match=r"attention\.pattern: key frame 8 is outside"):
        place.plan("base.attention={pattern: 'keyframes[0,8]'}")
