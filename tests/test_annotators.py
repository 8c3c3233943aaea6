"""Annotators: what is asked of controlnet-aux, and what is said when something is absent."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossframe.errors import UserError
from methods import annotators
from methods.annotator_files import ANNOTATORS, VARIABLE
from methods.annotators import annotate
from methods.conditions import control_map


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No annotator of another test stays loaded."""
    annotators._detector.cache_clear()
    yield
    annotators._detector.cache_clear()


class StandIn:
    """A detector that answers with the picture's brightness, at its own working size."""

    asked: list[dict[str, Any]]

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @classmethod
    def from_pretrained(cls, folder: str) -> StandIn:
        return cls(folder)

    def __call__(self, frame: np.ndarray, **options: Any) -> np.ndarray:
        self.asked.append(options)
        assert frame.dtype == np.uint8
        side = options["image_resolution"]
        return np.full((side, side), frame.mean(), np.uint8)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A controlnet_aux whose detectors are all stand-ins; returns what they are asked."""
    module = types.ModuleType("controlnet_aux")
    StandIn.asked = []
    for annotator in ANNOTATORS.values():
        setattr(module, annotator.detector, StandIn)
    monkeypatch.setitem(sys.modules, "controlnet_aux", module)
    return StandIn.asked


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for annotator in ANNOTATORS.values():
        for file in annotator.files:
            torch.save({"weight": torch.zeros(1)}, tmp_path / file)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


FRAMES = np.stack([np.full((48, 64, 3), 51 * k, np.uint8) for k in range(3)])


def test_maps_have_the_frames_size_and_range(package: list[dict[str, Any]], weights: Path) -> None:
    maps = annotate(FRAMES, "softedge_hedsafe")
    assert maps.shape == FRAMES.shape
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps[:, 0, 0, 0], [0, 0.2, 0.4], atol=1e-6)
    wanted = {"detect_resolution": 512, "image_resolution": 512, "output_type": "np", "safe": True}
    assert package == [wanted] * 3


def test_controls_choose_their_annotator(package: list[dict[str, Any]], weights: Path) -> None:
    control_map("pose", FRAMES[:1])
    control_map("pose[openpose_full]", FRAMES[:1])
    control_map("scribble", FRAMES[:1])
    assert [asked.get("include_hand") for asked in package] == [False, True, None]
    assert package[2]["scribble"] is True


def test_the_wrapped_range_reaches_the_network(
    package: list[dict[str, Any]], weights: Path
) -> None:
    dark = np.full((1, 48, 64, 3), 10, np.uint8)
    shown = control_map("depth", dark, annotator_range="repo_wrapped")
    assert float(shown[0, 0, 0, 0]) == pytest.approx(21 / 255)


def test_a_missing_package_is_told(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)
    with pytest.raises(UserError, match="needs controlnet-aux") as caught:
        control_map("depth", FRAMES)
    (problem,) = caught.value.problems
    assert "crossframe[annotators]" in problem.fix
    assert "controls: {depth: FOLDER}" in problem.fix


def test_missing_weights_are_told_with_the_command(
    package: list[dict[str, Any]], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights / "hand_pose_model.pth").unlink()
    with pytest.raises(UserError, match=r"lacks its weights hand_pose_model\.pth") as caught:
        annotate(FRAMES, "openpose")
    assert "hf download lllyasviel/Annotators hand_pose_model.pth" in str(caught.value)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(UserError, match=r"lacks its weights ControlNetHED\.pth"):
        annotate(FRAMES, "softedge_hed")


class Hostile:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_weights_that_hold_code_are_refused(
    package: list[dict[str, Any]], weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (weights / "ControlNetHED.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match="annotator softedge_hed"):
        annotate(FRAMES, "softedge_hed")
    assert capsys.readouterr().out == ""


def test_the_real_detector_runs_on_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HED of controlnet-aux itself, where it can be imported."""
    try:
        from controlnet_aux.hed import ControlNetHED_Apache2
    except Exception as error:  # without torchvision, or with one of another torch
        pytest.skip(f"controlnet-aux cannot be imported: {error}")
    torch.manual_seed(0)
    torch.save(ControlNetHED_Apache2().state_dict(), tmp_path / "ControlNetHED.pth")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(annotators, "RESOLUTION", 64)
    maps = annotate(FRAMES[:1], "softedge_hed")
    assert maps.shape == (1, 48, 64, 3)
    assert 0 <= maps.min() <= maps.max() <= 1
