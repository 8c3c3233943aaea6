import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_case import GOLDEN, Golden

from crossframe.errors import UserError
from crossframe.sound import read_sound
from crossframe.voice import RATE, Voice
from methods.hallo.segments import padded_frames, padded_samples, sound_frames
from methods.hallo.sound import (
    BANDS,
    SpectralFeatures,
    Wav2VecFeatures,
    hear,
    interpolated,
    load_wav2vec,
    mel_triangles,
    normalised,
    windows,
)
from miniature.voices import draw_speech

CASES = json.loads((GOLDEN / "hallo/segments.json").read_text())["cases"]
AUDIO = Path(__file__).parents[2] / "shared" / "audio" / "driving-1.wav"


@pytest.fixture(scope="module")
def wav2vec():
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return Wav2Vec2Model(config).eval()


@pytest.mark.parametrize("reach", [0, 2])
def test_windows_are_neighbours_with_the_ends_repeated(reach):
    features = torch.arange(4.0)[:, None, None].expand(4, 2, 3)
    found = windows(features, reach)
    assert found.shape == (4, 2 * reach + 1, 2, 3)
    naive = [[min(max(i + j, 0), 3) for j in range(-reach, reach + 1)] for i in range(4)]
    assert found[..., 0, 0].tolist() == naive


def test_windows_are_those_of_the_released_code():
    case = Golden("hallo/audio_window")
    case.close(windows(case.input["audio_emb"]), "windows")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["samples"]))
def test_lengths_are_those_of_the_released_code(case):
    samples, length = case["samples"], case["clip_length"]
    assert sound_frames(samples) == case["audio_length"]
    assert padded_samples(samples, length) == case["padded_samples"]
    assert padded_frames(samples, length) == case["padded_length"]
    heard = hear(SpectralFeatures(), Voice(np.zeros(samples, np.float32)), length)
    assert len(heard) == case["padded_length"]


def test_bands_tile_the_spectrum():
    weights = mel_triangles()
    np.testing.assert_allclose(weights.sum(1), 1)
    hertz = np.fft.rfftfreq(1024, 1 / RATE)
    assert (np.diff(weights @ hertz) > 0).all()


def test_spectral_features_say_what_is_heard():
    speech = draw_speech(5)
    voice = speech.samples(0, 48 * 640)
    found = SpectralFeatures()(voice, 16)
    assert found.shape == (48, 1, SpectralFeatures().channels)
    assert found.dtype == torch.float32
    assert found.abs().max() < 2
    t = (np.arange(48) + 0.5) / 25
    loud, pitch = found[:, 0, BANDS].numpy(), found[:, 0, BANDS + 2].numpy()
    assert np.corrcoef(loud, speech.opening(t))[0, 1] > 0.99
    assert np.corrcoef(pitch, speech.head(t))[0, 1] > 0.95


def test_a_tone_is_loudest_in_its_band():
    t = np.arange(RATE) / RATE
    for hertz in (300.0, 2500.0):
        voice = Voice((0.3 * np.sin(2 * math.pi * hertz * t)).astype(np.float32))
        bands = SpectralFeatures()(voice)[5, 0, :BANDS]
        nearest = mel_triangles()[:, round(hertz * 1024 / RATE)].argmax()
        assert bands.argmax() == nearest


def test_what_is_added_at_the_end_is_silence():
    voice = draw_speech(0).samples(0, 10 * 640)
    found = SpectralFeatures()(voice, 16)
    assert torch.equal(found[:8], SpectralFeatures()(voice)[:8])
    silence = SpectralFeatures()(Voice(np.zeros(640, np.float32)))
    torch.testing.assert_close(found[12:], silence.expand(4, -1, -1))


def test_other_rates_are_refused(wav2vec):
    voice = Voice(np.zeros(800, np.float32), 8000)
    for encoder in (SpectralFeatures(), Wav2VecFeatures(wav2vec)):
        with pytest.raises(UserError, match="8000 samples per second"):
            encoder(voice)


def test_interpolation_keeps_both_ends():
    features = torch.randn(1, 49, 3, generator=torch.Generator().manual_seed(0))
    found = interpolated(features, 26)
    places = np.arange(26) * 48 / 25
    for channel in range(3):
        expected = np.interp(places, np.arange(49), features[0, :, channel].numpy())
        np.testing.assert_allclose(found[0, :, channel].numpy(), expected, atol=1e-5)


def test_normalised_is_what_the_feature_extractor_gives():
    from transformers import Wav2Vec2FeatureExtractor

    samples = draw_speech(2).samples(0, 4000).samples
    expected = Wav2Vec2FeatureExtractor()(samples, sampling_rate=RATE).input_values[0]
    np.testing.assert_allclose(normalised(torch.from_numpy(samples)), expected, atol=1e-5)


def naive_states(model, samples, frames):
    """The transformer layer by layer, written out for layers with the norm behind."""
    maps = model.feature_extractor(samples[None])
    maps = F.interpolate(maps, size=frames, mode="linear", align_corners=True)
    x, _ = model.feature_projection(maps.transpose(1, 2))
    encoder = model.encoder
    x = encoder.layer_norm(x + encoder.pos_conv_embed(x))
    states = []
    for layer in encoder.layers:
        attention = layer.attention
        heads = model.config.num_attention_heads
        q, k, v = (
            project(x).view(1, frames, heads, -1).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        mixed = attention.out_proj((weights @ v).transpose(1, 2).reshape(1, frames, -1))
        x = layer.layer_norm(x + mixed)
        feed = layer.feed_forward
        inner = F.gelu(feed.intermediate_dense(x))
        x = layer.final_layer_norm(x + feed.output_dense(inner))
        states.append(x)
    return torch.stack(states, 2)[0]


def test_wav2vec_states_equal_those_computed_step_by_step(wav2vec):
    voice = draw_speech(1).samples(0, 10 * 640 + 100)
    encoder = Wav2VecFeatures(wav2vec)
    found = encoder(voice, 16)
    assert found.shape == (16, encoder.blocks, encoder.channels) == (16, 3, 32)
    samples = torch.from_numpy(voice.samples)
    samples = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
    samples = F.pad(samples, (0, 5 * 640))
    with torch.no_grad():
        torch.testing.assert_close(found, naive_states(wav2vec, samples, 16), atol=1e-5, rtol=1e-4)
    assert not any(layer._forward_hooks for layer in wav2vec.encoder.layers)


def test_a_folder_with_wav2vec_is_loaded(wav2vec, tmp_path):
    wav2vec.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    loaded = load_wav2vec(tmp_path)
    assert not loaded.normalise
    voice = draw_speech(1).samples(0, 6400)
    expected = Wav2VecFeatures(wav2vec, normalise=False)(voice)
    torch.testing.assert_close(loaded(voice), expected)


def test_folders_without_wav2vec_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"config.json.*facebook/wav2vec2-base-960h"):
        load_wav2vec(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match="a model of type 'clip'"):
        load_wav2vec(tmp_path)


@pytest.mark.skipif(not AUDIO.exists(), reason=f"no recording at {AUDIO}")
def test_a_recording_can_be_heard(wav2vec):
    voice = read_sound(AUDIO).cut(0, 2.0)
    found = SpectralFeatures()(voice, 16)
    assert found.shape == (64, 1, BANDS + 4)
    loud, sure = found[:50, 0, BANDS], found[:50, 0, -1]
    assert loud.std() > 0.05
    assert (sure > 0.5).float().mean() > 0.2
    assert Wav2VecFeatures(wav2vec)(voice, 16).shape == (64, 3, 32)
