"""The voice of a clip in the page: silent until asked for, and then one video alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from reports_store import INFOS, Shape, write_store

from crossframe.video import read_frames, write_mp4
from crossframe.voice import Voice
from reports import write_report
from reports.load import load_run

MUTED = "[...document.querySelectorAll('.stage video')].map(v => v.muted)"


def sounding(root: Path) -> Path:
    """Give every clip and cell of a store a sound track."""
    t = np.arange(16_000) / 16_000
    voice = Voice((0.3 * np.sin(2 * np.pi * 200 * t)).astype(np.float32))
    for video in root.glob("*/*/video.mp4"):
        write_mp4(video, read_frames(video.parent / "frames"), 8.0, voice)
    for path in root.glob("clips/*/clip.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "sound": True}))
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(clips=1, seeds=1, frames=6, videos=True)
    return sounding(write_store(tmp_path_factory.mktemp("talking"), shape))


def test_a_run_knows_which_clips_have_a_voice(store: Path) -> None:
    assert [clip.sound for clip in load_run(store).clips] == [True]
    path = write_report(store, INFOS)
    assert '"sound":true' in path.read_text(encoding="utf-8")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_videos_are_silent_until_one_is_asked_for(store: Path) -> None:
    with Browser() as browser:
        browser.open(write_report(store, INFOS).as_uri())
        browser.run("document.getElementById('watch').scrollIntoView()")
        browser.until("document.querySelectorAll('.stage video').length > 2")
        assert all(browser.run(MUTED))
        assert not browser.run("document.getElementById('sound').hidden")
        browser.run("document.getElementById('sound').click()")
        assert browser.run("document.getElementById('sound').ariaPressed") == "true"
        assert browser.run(MUTED).count(False) == 1
        browser.run("document.getElementById('sound').click()")
        assert all(browser.run(MUTED))
        assert browser.troubles == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_without_a_voice_there_is_no_button(tmp_path: Path) -> None:
    shape = Shape(clips=1, seeds=1, frames=4, videos=True)
    with Browser() as browser:
        browser.open(write_report(write_store(tmp_path, shape), INFOS).as_uri())
        browser.until("document.querySelectorAll('.line').length > 0")
        assert browser.run("document.getElementById('sound').hidden")
        browser.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 's'}))")
        assert browser.run("document.getElementById('sound').ariaPressed") == "false"
        assert browser.troubles == []
