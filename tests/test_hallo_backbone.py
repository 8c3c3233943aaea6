"""Hallo's networks as a run gets them: found as published, loaded whole or refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from hallo_sizes import NANO
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from crossframe.errors import NotAvailable, UserError
from crossframe.voice import Voice
from methods import backbone_config
from methods.backbone_config import parse_backbone, weights_identity
from methods.backbones import load_backbone
from methods.hallo.backbone import HalloBackbone
from methods.hallo.checkpoints import write_net
from methods.hallo.faces import DETECTOR, InsightFaces, load_face_encoder
from methods.hallo.networks import HalloNets
from methods.hallo.sizes import Sizes, read_sizes
from methods.hallo.sound import SpectralFeatures
from tests.tiny_backbone import randomize


def sizes(blocks: int, channels: int) -> Sizes:
    return read_sizes(NANO.plain() | {"audio_blocks": blocks, "audio_channels": channels})


def write_vae(folder: Path, channels: int = 4) -> None:
    net = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=channels)
    randomize(net, 0).save_pretrained(folder)


def write_wav2vec(folder: Path) -> None:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=4,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published layout."""
    root = tmp_path_factory.mktemp("hallo")
    torch.manual_seed(0)
    write_net(root / "hallo" / "net.pth", HalloNets(sizes(3, 16)), torch.float16)
    write_vae(root / "sd-vae-ft-mse")
    write_wav2vec(root / "wav2vec" / "wav2vec2-base-960h")
    return root


@pytest.fixture
def weights(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "weights"))


def load(given: Any) -> HalloBackbone:
    found = load_backbone(parse_backbone(given), "hallo")
    assert isinstance(found, HalloBackbone)
    return found


def test_the_published_layout_loads(weights: Path, models: Path) -> None:
    found = load({"root": str(weights), "face_encoder": str(models)})
    assert found.nets.sizes == sizes(3, 16)
    assert {p.dtype for p in found.nets.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in [*found.nets.parameters(), *found.vae.parameters()])
    assert not found.nets.training
    assert isinstance(found.face_encoder, InsightFaces)
    assert found.factor == 1
    assert "face_encoder/checkpoint" in found.identity
    assert found.identity.items() >= weights_identity(parse_backbone(str(weights)), "hallo").items()
    heard = found.audio_encoder(Voice(np.zeros(3200, np.float32)), 4)
    assert heard.shape == (8, 3, 16)
    assert set(found.audio_encoder.identity()[1]) <= set(found.identity)


def test_what_is_missing_is_told_at_once_with_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(str(tmp_path))
    told = str(caught.value)
    for word in ("net.pth", "sd-vae-ft-mse", "wav2vec2-base-960h", "antelopev2", "hf download"):
        assert word in told


def test_parts_that_do_not_fit_each_other_are_refused(weights: Path) -> None:
    torch.manual_seed(0)
    write_net(weights / "hallo" / "net.pth", HalloNets(sizes(12, 16)), torch.float16)
    shutil.rmtree(weights / "sd-vae-ft-mse")
    write_vae(weights / "sd-vae-ft-mse", channels=8)
    with pytest.raises(UserError) as caught:
        load(str(weights))
    told = [str(problem) for problem in caught.value.problems]
    assert told == [
        "backbone.vae: it has 8 latent channels, the networks take 4",
        "backbone.audio_encoder: it has 3 hidden states, the networks take 12",
    ]


def test_the_miniature_hears_without_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = SpectralFeatures()
    torch.manual_seed(0)
    nets = HalloNets(sizes(features.blocks, features.channels))
    write_net(tmp_path / "hallo" / "net.safetensors", nets, torch.float16)
    write_vae(tmp_path / "hallo-vae")
    monkeypatch.setattr(backbone_config, "miniature_weights", lambda: tmp_path)
    found = load("miniature")
    assert found.audio_encoder == features
    assert found.face_encoder is None
    assert any(name.startswith("net/") for name in found.identity)


class FakeAnalysis:
    """As insightface.app.FaceAnalysis, with two faces in every picture that is not black."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **given: Any) -> None:
        self.made.append(given)

    def prepare(self, **given: Any) -> None:
        self.made.append(given)

    def get(self, pixels: np.ndarray) -> list[dict[str, Any]]:
        if not pixels.any():
            return []
        blue, _, red = pixels[0, 0]
        small = {"bbox": [0, 0, 2, 2], "embedding": np.zeros(512)}
        return [small, {"bbox": [1, 1, 9, 9], "embedding": np.full(512, red - 2.0 * blue)}]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The released folder of face networks, and a stand-in for insightface."""
    app = ModuleType("insightface.app")
    app.FaceAnalysis = FakeAnalysis  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "insightface", ModuleType("insightface"))
    monkeypatch.setitem(sys.modules, "insightface.app", app)
    folder = tmp_path / "face_analysis" / "models"
    folder.mkdir(parents=True)
    for name in ("glintr100.onnx", DETECTOR):
        (folder / name).write_bytes(b"net")
    return folder


def test_the_largest_face_counts(models: Path) -> None:
    encode = load_face_encoder(models / "glintr100.onnx")
    assert FakeAnalysis.made[-2]["root"] == str(models.parent)
    image = torch.zeros(3, 16, 16)
    image[0], image[2] = 200 / 255, 50 / 255
    assert encode(image).tolist() == [100.0] * 512
    with pytest.raises(UserError, match="finds no face"):
        encode(torch.zeros(3, 16, 16))


def test_a_face_encoder_that_cannot_be_had_is_refused(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (models / DETECTOR).unlink()
    with pytest.raises(UserError, match="lacks scrfd"):
        load_face_encoder(models / "glintr100.onnx")
    (models / DETECTOR).write_bytes(b"net")
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(NotAvailable, match=r"insightface.*crossframe\[portraits\]"):
        load_face_encoder(models / "glintr100.onnx")
