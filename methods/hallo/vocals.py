"""Voices without the music behind them, which the released script separates before anything else.

It uses audio-separator with Kim_Vocal_2.onnx, a network for 44.1 kHz, on the file of the sound;
here it is given the 16 kHz that clips carry. Off unless `backbone.vocals` names the network.
"""

from __future__ import annotations

import importlib
import tempfile
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossframe.errors import NotAvailable, Problem, UserError
from crossframe.sound import read_sound
from crossframe.voice import Voice

LOUDEST = 2**15 - 1


@dataclass(frozen=True, eq=False)
class Vocals:
    """separate: (sound file, folder for what is made) -> file with the voice in it.

    weights: what identifies the network.
    """

    separate: Callable[[Path, Path], Path]
    weights: Mapping[str, Any]

    def __call__(self, voice: Voice) -> Voice:
        """Return the voice in a sound, at its rate and as long."""
        with tempfile.TemporaryDirectory() as folder:
            sound = Path(folder, "sound.wav")
            write_wav(sound, voice)
            return read_sound(self.separate(sound, Path(folder)), voice.rate).cut(0, voice.seconds)


def load_vocals(path: Path, weights: Mapping[str, Any]) -> Vocals:
    """Return the separation by a network's file; raises NotAvailable without audio-separator."""
    try:
        separators = importlib.import_module("audio_separator.separator")
    except ImportError as error:
        what, fix = f"audio-separator: {error}", "install it: pip install 'crossframe[vocals]'"
        raise NotAvailable("backbone.vocals", what, fix) from error

    def separate(sound: Path, folder: Path) -> Path:
        """The file in `folder` with the voice of `sound`; UserError when none was written."""
        separator = separators.Separator(
            output_dir=str(folder), output_single_stem="Vocals", model_file_dir=str(path.parent)
        )
        separator.load_model(path.name)
        made = separator.separate(str(sound))
        if not made:
            raise UserError(Problem("backbone.vocals", "audio-separator found no voice to write"))
        return folder / made[0]

    return Vocals(separate, weights)


def write_wav(path: Path, voice: Voice) -> None:
    """Write a voice as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(voice.rate)
        file.writeframes(np.round(voice.samples * LOUDEST).astype("<i2").tobytes())
