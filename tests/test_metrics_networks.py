"""DINO, PickScore and open_clip behind tiny models of the same classes."""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from test_metrics_clip import PREPROCESSING, tiny_model, tiny_tokenizer
from transformers import ViTConfig, ViTModel

from crossframe.errors import NotAvailable, UserError
from crossframe.files import write_json
from metrics.base import MetricInputs
from metrics.dino import DinoEncoder, subject
from metrics.encoders import load_encoder
from metrics.image_input import prepare
from metrics.pickscore import pickscore
from metrics.preprocessing import Preprocessing

SMALL = Preprocessing(32, None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", False)


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def tiny_vit():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    return ViTModel(config, add_pooling_layer=False)


def test_dino_takes_the_class_token_of_uncropped_pictures(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    encoder = DinoEncoder.from_folder(tmp_path)
    encoder.preprocessing = SMALL
    images = torch.rand(2, 3, 40, 60)
    features = encoder.encode_images(images)
    pixels = prepare(images, SMALL)
    assert pixels.shape[-2:] == (32, 48)
    token = tiny_vit().eval()(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    assert (features - torch.nn.functional.normalize(token, dim=-1)).abs().max() < 1e-5


def test_half_a_dino_is_not_filled_with_noise(tmp_path):
    model = tiny_vit()
    weights = {name: w for name, w in model.state_dict().items() if "layernorm.w" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(UserError, match="lack"):
        DinoEncoder.from_folder(tmp_path)


def test_subject_consistency_uses_the_resident_network():
    encoder = DinoEncoder(tiny_vit(), "tiny", SMALL)
    frozen = torch.rand(1, 3, 32, 32).expand(3, -1, -1, -1)
    inputs = MetricInputs(frozen)
    inputs.resident.get("dino", lambda: encoder)
    value = subject(inputs)
    assert value.series == pytest.approx((1, 1), abs=1e-6)
    assert value.detail == {"encoder": "tiny"}


def test_networks_that_are_not_here_come_with_their_commands():
    frames = torch.rand(2, 3, 32, 32)
    with pytest.raises(NotAvailable, match="hf download facebook/dino-vitb16"):
        subject(MetricInputs(frames))
    with pytest.raises(NotAvailable, match="hf download yuvalkirstain/PickScore_v1"):
        pickscore(MetricInputs(frames, prompt="a"))
    with pytest.raises(NotAvailable, match="no prompt"):
        pickscore(MetricInputs(frames))


def test_pickscore_scales_cosines_by_the_learned_temperature(monkeypatch, tmp_path):
    model, processor = tmp_path / "model", tmp_path / "processor"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(processor)
    write_json(processor / "preprocessor_config.json", PREPROCESSING)
    folders = {"pickscore": model, "pickscore-processor": processor}
    monkeypatch.setattr("metrics.pickscore.locate", folders.__getitem__)
    inputs = MetricInputs(torch.rand(2, 3, 32, 32), prompt="a red star")
    value = pickscore(inputs)
    encoder = inputs.resident.get("pickscore", lambda: None)
    cosines = encoder.encode_images(inputs.frames) @ encoder.encode_text(["a red star"])[0]
    scale = math.exp(tiny_model().logit_scale.item())
    assert value.series == pytest.approx((scale * cosines).tolist(), rel=1e-5)


class FakeOpenClip(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(math.log(50.0)))
        self.visual = SimpleNamespace(
            image_size=8, image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0)
        )

    def encode_image(self, pixels):
        assert pixels.shape[1:] == (3, 8, 8)
        return pixels.mean((2, 3))

    def encode_text(self, tokens):
        return tokens.float()


@pytest.fixture
def open_clip(monkeypatch):
    package = ModuleType("open_clip")
    package.create_model = lambda architecture, pretrained: FakeOpenClip()
    package.get_tokenizer = lambda name: lambda texts: torch.tensor([[3, 4, 0]] * len(texts))
    monkeypatch.setitem(sys.modules, "open_clip", package)


def test_open_clip_stands_behind_the_same_interface(open_clip, tmp_path):
    file = tmp_path / "weights.bin"
    torch.save({"visual.weight": torch.zeros(1)}, file)
    encoder = load_encoder(f"open_clip:ViT-B-32/{file}", "vbench")
    assert encoder.name == f"open_clip:ViT-B-32/{file}, vbench"
    assert not encoder.preprocessing.antialias
    assert encoder.temperature == pytest.approx(50)
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1
    assert encoder.encode_images(red).tolist() == [[1, 0, 0]]
    assert encoder.encode_text(["a"])[0].tolist() == pytest.approx([0.6, 0.8, 0])


def test_open_clip_is_not_guessed(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="open_clip:MODEL/FILE"):
        load_encoder("open_clip:ViT-B-32")
    with pytest.raises(NotAvailable, match="no open_clip weights"):
        load_encoder(f"open_clip:ViT-B-32/{tmp_path}/absent")
    file = tmp_path / "weights.bin"
    torch.save({"epoch": 3, "state_dict": {}}, file)
    with pytest.raises(UserError, match="more than tensors by name"):
        load_encoder(f"open_clip:ViT-B-32/{file}")
    torch.save({"visual.weight": torch.zeros(1)}, file)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(NotAvailable, match="needs open_clip"):
        load_encoder(f"open_clip:ViT-B-32/{file}")
