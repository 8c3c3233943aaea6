import math
import wave
from itertools import pairwise

import av
import numpy as np
import pytest

from crossframe.errors import UserError
from crossframe.sound import has_sound, read_sound
from crossframe.video import probe, read_video, write_mp4
from crossframe.voice import RATE, Voice, envelope, pitch
from data_manifests.clips import Clip, ClipRequest, load_clip
from miniature.voices import HUM, LOUDNESS, draw_speech


def tone(hertz, seconds, rate=RATE, loud=0.5):
    t = np.arange(round(seconds * rate)) / rate
    return (loud * np.sin(2 * math.pi * hertz * t)).astype(np.float32)


def write_wav(path, samples, rate=RATE, channels=1):
    levels = np.round(np.repeat(samples, channels) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(levels.tobytes())
    return path


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(4, np.float64), "float32 samples"),
        (np.zeros((2, 4), np.float32), "shape"),
        (np.zeros(0, np.float32), "shape"),
        (np.full(4, 1.5, np.float32), "as large as 1.5"),
        (np.full(4, np.nan, np.float32), "nan"),
    ],
)
def test_a_voice_is_a_waveform(samples, message):
    with pytest.raises(UserError, match=message):
        Voice(samples)


def test_a_cut_is_as_long_as_asked_for_and_silent_where_nothing_is():
    voice = Voice(tone(200, 0.5))
    part = voice.cut(0.25, 0.5)
    assert part.seconds == 0.5
    np.testing.assert_array_equal(part.samples[:4000], voice.samples[4000:])
    assert not part.samples[4000:].any()
    assert not voice.cut(2.0, 0.1).samples.any()


def test_identity_holds_samples_and_rate():
    samples = tone(200, 0.1)
    assert Voice(samples).sha256 == Voice(samples.copy()).sha256
    marks = {Voice(samples).sha256, Voice(samples, 8000).sha256, Voice(-samples).sha256}
    assert len(marks) == 3


@pytest.mark.parametrize("fps", [25.0, 29.97])
def test_the_envelope_is_the_root_mean_square_of_each_frame(fps):
    samples = np.random.default_rng(0).uniform(-1, 1, 8000).astype(np.float32)
    found = envelope(Voice(samples), 10, fps)
    edges = [round(i * RATE / fps) for i in range(11)]
    naive = [math.sqrt(np.mean(samples[a:b].astype(float) ** 2)) for a, b in pairwise(edges)]
    np.testing.assert_allclose(found, naive, rtol=1e-5)


def test_beyond_the_voice_the_envelope_is_silent():
    found = envelope(Voice(np.full(640, 0.5, np.float32)), 3, 25)
    np.testing.assert_allclose(found, [0.5, 0, 0])


@pytest.mark.parametrize("hertz", [85.0, 140.0, 231.7])
def test_the_pitch_of_a_tone(hertz):
    harmonics = sum(tone(n * hertz, 0.4, loud=0.2 / n) for n in range(1, 5))
    found, sure = pitch(Voice(harmonics.astype(np.float32)), 10, 25)
    np.testing.assert_allclose(found[1:-1], hertz, rtol=0.005)
    assert sure[1:-1].min() > 0.95


def test_silence_and_noise_have_no_pitch():
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 6400).astype(np.float32)
    for samples in (np.zeros(6400, np.float32), noise):
        assert not pitch(Voice(samples), 10, 25)[0].any()


def test_parts_of_a_synthesised_voice_fit_together():
    speech = draw_speech(3)
    whole = speech.samples(0, 3000).samples
    np.testing.assert_array_equal(speech.samples(1000, 500).samples, whole[1000:1500])
    assert not np.array_equal(whole, draw_speech(4).samples(0, 3000).samples)


@pytest.mark.parametrize("seed", range(4))
def test_a_synthesised_voice_says_how_mouth_and_head_move(seed):
    speech, frames = draw_speech(seed), 75
    voice = speech.samples(0, frames * 640)
    t = (np.arange(frames) + 0.5) / 25
    loud = envelope(voice, frames, 25)
    assert np.corrcoef(loud, speech.opening(t))[0, 1] > 0.99
    np.testing.assert_allclose(loud, LOUDNESS * (HUM + (1 - HUM) * speech.opening(t)), atol=0.02)
    hertz, _ = pitch(voice, frames, 25)
    heard = hertz > 0
    assert heard.mean() > 0.9
    np.testing.assert_allclose(hertz[heard], speech.pitch(t)[heard], rtol=0.05)
    assert np.corrcoef(hertz[heard], speech.head(t)[heard])[0, 1] > 0.98
    assert -1 <= speech.head(t).min() < speech.head(t).max() <= 1
    assert np.abs(voice.samples).max() < 0.95


def test_reading_a_wav_resamples_and_mixes(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(440, 0.5, 44100), 44100, channels=2)
    voice = read_sound(path)
    assert voice.rate == RATE
    assert voice.seconds == pytest.approx(0.5, abs=0.002)
    middle = voice.samples[1000:7000]
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / math.sqrt(2), rel=0.01)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(6000)))
    assert spectrum.argmax() * RATE / 6000 == pytest.approx(440, abs=2)


def test_an_mp4_carries_the_voice(tmp_path):
    frames = np.zeros((25, 32, 32, 3), np.uint8)
    given = draw_speech(0).samples(0, RATE)
    write_mp4(tmp_path / "talk.mp4", frames, 25, given)
    assert has_sound(tmp_path / "talk.mp4")
    with av.open(tmp_path / "talk.mp4") as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    found = read_sound(tmp_path / "talk.mp4")
    assert found.seconds == pytest.approx(1.0, abs=0.07)
    loud = [envelope(voice, 25, 25) for voice in (given, found)]
    assert np.corrcoef(*loud)[0, 1] > 0.98
    assert probe(tmp_path / "talk.mp4").frames == 25
    assert len(read_video(tmp_path / "talk.mp4", frames=25)[0]) == 25


def test_a_silent_mp4_has_no_sound_track(tmp_path):
    write_mp4(tmp_path / "still.mp4", np.zeros((3, 32, 32, 3), np.uint8), 25)
    assert not has_sound(tmp_path / "still.mp4")
    with pytest.raises(UserError, match="has no sound track, only video"):
        read_sound(tmp_path / "still.mp4")


def test_unreadable_sounds_are_named(tmp_path, text_mp4):
    (tmp_path / "empty.wav").touch()
    for path, message in (
        (tmp_path / "nowhere.wav", "no such file"),
        (tmp_path / "empty.wav", "is empty"),
        (tmp_path, "is a folder"),
        (text_mp4, "FFmpeg cannot read its sound"),
    ):
        with pytest.raises(UserError, match=message):
            read_sound(path)
    assert not has_sound(text_mp4)
    assert not has_sound(tmp_path / "nowhere.wav")


def test_the_voice_is_part_of_a_clip():
    frames, samples = np.zeros((2, 4, 4, 3), np.uint8), tone(200, 0.08)
    silent, one = Clip("a", frames, 25.0), Clip("a", frames, 25.0, voice=Voice(samples))
    assert (
        len({silent.sha256, one.sha256, Clip("a", frames, 25.0, voice=Voice(-samples)).sha256}) == 3
    )


def test_a_video_is_a_clip_with_its_own_sound(tmp_path):
    given = draw_speech(1).samples(0, RATE)
    write_mp4(tmp_path / "talk.mp4", np.zeros((25, 32, 32, 3), np.uint8), 25, given)
    clip = load_clip(ClipRequest(str(tmp_path / "talk.mp4"), frames=5, size=32, start=10, stride=2))
    assert clip.fps == 12.5
    assert clip.voice.seconds == pytest.approx(0.4)
    whole = read_sound(tmp_path / "talk.mp4")
    np.testing.assert_array_equal(clip.voice.samples, whole.samples[6400:12800])


def test_a_sidecar_may_name_another_voice(tmp_path):
    write_mp4(tmp_path / "talk.mp4", np.zeros((5, 32, 32, 3), np.uint8), 25)
    write_wav(tmp_path / "said.wav", tone(200, 0.1))
    (tmp_path / "talk.yaml").write_text("voice: said.wav\n")
    clip = load_clip(ClipRequest(str(tmp_path / "talk.mp4"), frames=5, size=32))
    assert clip.voice.seconds == pytest.approx(0.2)
    assert clip.voice.samples[:1600].any()
    assert not clip.voice.samples[1600:].any()


def test_a_picture_and_a_voice_are_a_clip(tmp_path):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "me.png")
    write_wav(tmp_path / "said.wav", tone(200, 0.5))
    (tmp_path / "me.yaml").write_text("voice: said.wav\ncaption: me\n")
    clip = load_clip(ClipRequest(str(tmp_path / "me.png"), frames=10, size=40, start=2))
    assert (clip.fps, clip.caption) == (25.0, "me")
    np.testing.assert_array_equal(clip.frames, np.repeat(picture[None], 10, 0))
    np.testing.assert_allclose(clip.voice.samples, tone(200, 0.5)[1280:7680], atol=1e-4)
    with pytest.raises(UserError, match=r"said.wav: lasts 0.50 s.*frames up to 13"):
        load_clip(ClipRequest(str(tmp_path / "me.png"), frames=14, size=40))


def test_a_bad_voice_in_a_sidecar_is_told(tmp_path):
    write_mp4(tmp_path / "talk.mp4", np.zeros((5, 32, 32, 3), np.uint8), 25)
    (tmp_path / "talk.yaml").write_text("voice: [a]\n")
    with pytest.raises(UserError, match=r"voice.*is not a text"):
        load_clip(ClipRequest(str(tmp_path / "talk.mp4"), frames=5, size=32))
    (tmp_path / "talk.yaml").write_text("voice: nowhere.wav\n")
    with pytest.raises(UserError, match=r"nowhere.wav.*no such file"):
        load_clip(ClipRequest(str(tmp_path / "talk.mp4"), frames=5, size=32))
