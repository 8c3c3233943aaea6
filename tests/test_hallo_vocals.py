"""The voice alone, by a separator that stands in for audio-separator."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from crossframe.errors import NotAvailable, UserError
from crossframe.sound import read_sound
from crossframe.voice import Voice
from methods.base import SampleRequest
from methods.hallo.backbone import HalloBackbone
from methods.hallo.config import HalloConfig
from methods.hallo.portrait import listen
from methods.hallo.sound import SpectralFeatures
from methods.hallo.vocals import Vocals, load_vocals, write_wav

VOICE = Voice((0.5 * np.sin(np.arange(3_200) / 9)).astype(np.float32))
NETWORK = Path("models/Kim_Vocal_2.onnx")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is asked of a Separator with audio-separator's interface, which halves the loudness."""
    seen: dict[str, Any] = {"silent": False}

    class Separator:
        def __init__(self, **given: Any) -> None:
            seen.update(given)

        def load_model(self, name: str) -> None:
            seen["model"] = name

        def separate(self, sound: str) -> list[str]:
            if seen["silent"]:
                return []
            seen["heard"] = heard = read_sound(sound)
            half = np.concatenate([heard.samples / 2, np.ones(40, np.float32)])
            write_wav(Path(seen["output_dir"], "sound_(Vocals).wav"), Voice(half))
            return ["sound_(Vocals).wav"]

    module: Any = ModuleType("audio_separator.separator")
    module.Separator = Separator
    monkeypatch.setitem(sys.modules, "audio_separator", ModuleType("audio_separator"))
    monkeypatch.setitem(sys.modules, "audio_separator.separator", module)
    return seen


def test_the_separated_voice_is_as_long_as_what_was_given(asked: dict[str, Any]) -> None:
    found = load_vocals(NETWORK, {})(VOICE)
    assert (asked["model_file_dir"], asked["model"]) == ("models", "Kim_Vocal_2.onnx")
    assert asked["output_single_stem"] == "Vocals"
    np.testing.assert_allclose(asked["heard"].samples, VOICE.samples, atol=1e-4)
    np.testing.assert_allclose(found.samples, VOICE.samples / 2, atol=1e-4)
    assert not Path(asked["output_dir"]).exists()


def test_a_separator_that_writes_nothing_is_told(asked: dict[str, Any]) -> None:
    asked["silent"] = True
    with pytest.raises(UserError, match="found no voice"):
        load_vocals(NETWORK, {})(VOICE)


def test_the_package_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "audio_separator", None)
    with pytest.raises(NotAvailable, match=r"audio-separator.*crossframe\[vocals\]"):
        load_vocals(NETWORK, {})


def test_hallo_hears_the_separated_voice_where_one_is_named() -> None:
    keys: list[Any] = []

    def shared(stage: str, parts: Any, make: Any) -> Any:
        keys.append(parts)
        return make()

    quiet = Voice(VOICE.samples / 2)
    quieter = Vocals(_halved, {"vocals/a": "1"})
    nets: Any = type("Nets", (), {"sizes": type("Sizes", (), {"window": 5})})
    plain = HalloBackbone(nets, None, SpectralFeatures())
    alone = replace(plain, vocals=quieter)
    request = SampleRequest(torch.zeros(5, 3, 8, 8), "", shared=shared)
    config = HalloConfig()
    heard = [listen(b, request, v, config) for b, v in ((plain, quiet), (alone, VOICE))]
    torch.testing.assert_close(heard[0], heard[1], atol=1e-2, rtol=0)
    assert not torch.allclose(heard[0], listen(plain, request, VOICE, config), atol=1e-2)
    assert len(keys[0]) == 4
    assert keys[1][4:] == [{"vocals/a": "1"}]


def _halved(sound: Path, folder: Path) -> Path:
    made = folder / "voice.wav"
    write_wav(made, Voice(read_sound(sound).samples / 2))
    return made
