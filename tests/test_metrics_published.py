"""Metrics of downloadable networks from file to value: random weights in the published layout.

Every network is placed as its publisher lays it out (a snapshot of the hub's cache, or a checkpoint
whose name tells its sha256), found by its name, and the score is compared with a computation that
follows the definition step by step in NumPy.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from crossframe.files import write_json
from crossframe.flow.estimators import load_estimator
from crossframe.flow.table import FLOWS
from crossframe.keys import file_sha256
from crossframe.weights import NETWORKS, Network, networks_identity
from metrics import METRICS
from metrics.base import MetricInputs, MetricValue, Unavailable
from metrics.encoders import load_encoder
from metrics.lpips import linear_weights
from metrics.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from metrics.presets import BASE, LARGE
from metrics.score import measure
from metrics.trunks import alexnet, vgg16_to_relu4_3

REVISION = "0123456789abcdef0123456789abcdef01234567"
SIDE, TOKENS = 32, 8
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
PROMPT, CAPTION = "a red star", "a star"


@pytest.fixture(autouse=True)
def own_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def snapshot(tmp_path: Path, name: str) -> Path:
    """A folder of the hub's cache into which a repository is laid, as `hf download` does."""
    repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(REVISION)
    folder = repository / "snapshots" / REVISION
    folder.mkdir(parents=True)
    return folder


def checkpoint(tmp_path: Path, monkeypatch, name: str, state: dict[str, torch.Tensor]) -> None:
    """A file of torchvision's sort: its name ends with the beginning of its sha256."""
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "new.pth")
    stem = NETWORKS[name].id.rpartition("-")[0]
    path = folder / f"{stem}-{file_sha256(folder / 'new.pth')[:8]}.pth"
    (folder / "new.pth").rename(path)
    monkeypatch.setitem(NETWORKS, name, Network(path.name))


def video(seed: int, frames: int = 3, side: int = SIDE) -> torch.Tensor:
    return torch.rand(frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def unit(vectors: torch.Tensor) -> np.ndarray:
    found = vectors.detach().double().numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def scored(name: str, inputs: MetricInputs, **given) -> MetricValue:
    found = measure(name, inputs, **given)
    assert isinstance(found, MetricValue), found
    return found


# --- CLIP and PickScore ---
def write_tokenizer(folder: Path) -> None:
    """OpenAI's files: merges of bytes, begin and end of text as the last two words, padding by the
    end."""
    begin, end = "<|startoftext|>", "<|endoftext|>"
    pieces = ["a</w>", "red</w>", "star</w>", "r", "e", "d</w>", "s", "t", "ar</w>", "a", "re",
              "st", "r</w>"]  # fmt: skip
    write_json(folder / "vocab.json", {word: i for i, word in enumerate([*pieces, begin, end])})
    merges = ["#version: 0.2", "r e", "re d</w>", "s t", "a r</w>", "st ar</w>"]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    facts = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": end}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **facts},
    )


def write_processor(folder: Path) -> None:
    """OpenAI's file in its older form, with plain numbers as sizes."""
    write_json(
        folder / "preprocessor_config.json",
        {"size": SIDE, "crop_size": SIDE, "resample": 3, "do_center_crop": True,
         "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    )  # fmt: skip


def write_clip(folder: Path, seed: int) -> CLIPModel:
    layer = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    # The published files keep an end token of 2, by which the text is pooled at its largest id.
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    text = {**layer, **ids, "vocab_size": 15, "max_position_embeddings": TOKENS}
    vision = {**layer, "image_size": SIDE, "patch_size": 16}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    model.logit_scale.data.fill_(math.log(80 + seed))
    model.save_pretrained(folder)
    return model


def naive_pictures(model: CLIPModel, frames: torch.Tensor) -> np.ndarray:
    """Frames that already have the network's size: normalise, encode, project, scale."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        pooled = model.vision_model((frames - mean) / std).pooler_output
        return unit(pooled @ model.visual_projection.weight.T)


def naive_text(model: CLIPModel, ids: list[int]) -> np.ndarray:
    """The state at the end token, projected and scaled."""
    with torch.no_grad():
        states = model.text_model(torch.tensor([ids])).last_hidden_state
        return unit(states[:, ids.index(max(ids))] @ model.text_projection.weight.T)[0]


IDS = {PROMPT: [13, 0, 1, 2, 14], CAPTION: [13, 0, 2, 14]}


@pytest.mark.parametrize("name", [LARGE, BASE])
def test_clip_from_the_hub(name, tmp_path):
    folder = snapshot(tmp_path, name)
    write_tokenizer(folder)
    write_processor(folder)
    model = write_clip(folder, 1)
    encoder = load_encoder(name)
    assert encoder.name == f"{name}@01234567"
    frames = video(1, 4)
    f = naive_pictures(model, frames)
    g, h = (naive_text(model, IDS[text]) for text in (PROMPT, CAPTION))
    inputs = MetricInputs(frames, prompt=PROMPT, source_prompt=CAPTION, encoder=encoder)
    following = [f[t] @ f[t + 1] for t in range(3)]
    others = [np.mean([f[t] @ f[s] for s in range(4) if s != t]) for t in range(4)]
    expected = {
        "clip_frame/consecutive": following,
        "clip_frame/all_pairs": others,
        "clip_frame/first": [f[0] @ f[t] for t in (1, 2, 3)],
        "clip_frame/vbench": [
            (max(0, f[t - 1] @ f[t]) + max(0, f[0] @ f[t])) / 2 for t in (1, 2, 3)
        ],
        "clip_text/cosine": f @ g,
        "clip_text/x100": 100 * (f @ g),
        "clip_text/tgve": 81 * (f @ g),
        "clip_frame_acc/fatezero": [float(one @ g >= one @ h) for one in f],
    }
    for metric, series in expected.items():
        found = scored(metric, inputs)
        assert found.series == pytest.approx(list(series), abs=2e-5 * max(1, abs(series[0])))
        assert found.value == pytest.approx(np.mean(found.series))


def test_pickscore_from_the_hub(tmp_path):
    model = write_clip(snapshot(tmp_path, NETWORKS["pickscore"].id), 2)
    processor = snapshot(tmp_path, NETWORKS["pickscore-processor"].id)
    write_tokenizer(processor)
    write_processor(processor)
    frames = video(2)
    found = scored("pickscore", MetricInputs(frames, prompt=PROMPT))
    expected = 82 * (naive_pictures(model, frames) @ naive_text(model, IDS[PROMPT]))
    assert found.series == pytest.approx(expected.tolist(), abs=2e-3)
    assert found.detail["encoder"] == "yuvalkirstain/PickScore_v1@01234567"


# --- DINO ---
def test_dino_from_the_hub(tmp_path):
    config = ViTConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                       num_attention_heads=2, image_size=224, patch_size=16)  # fmt: skip
    torch.manual_seed(3)
    model = ViTModel(config).eval()  # the published files hold a pooling layer too
    model.save_pretrained(snapshot(tmp_path, NETWORKS["dino"].id))
    frames = video(3, 3, 56)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    enlarged = np.stack([[bilinear(plane, 224) for plane in frame] for frame in frames.numpy()])
    pixels = (torch.from_numpy(enlarged).float() - mean) / std
    with torch.no_grad():
        f = unit(model(pixels).last_hidden_state[:, 0])
    expected = [(max(0, f[t - 1] @ f[t]) + max(0, f[0] @ f[t])) / 2 for t in (1, 2)]
    found = scored("dino_subject/vbench", MetricInputs(frames))
    assert found.series == pytest.approx(expected, abs=2e-5)
    assert found.detail["encoder"] == "facebook/dino-vitb16@01234567"


def bilinear(plane: np.ndarray, side: int) -> np.ndarray:
    """(h, w) sampled at the centres of side x side pixels, the border repeated."""

    def weights(length: int) -> np.ndarray:
        made = np.zeros((side, length))
        for i in range(side):
            x = (i + 0.5) * length / side - 0.5
            low = math.floor(x)
            for index, share in ((low, 1 - (x - low)), (low + 1, x - low)):
                made[i, min(max(index, 0), length - 1)] += share
        return made

    return weights(plane.shape[0]) @ plane @ weights(plane.shape[1]).T


# --- LPIPS and FRESCO's spatial consistency ---
def naive_lpips(trunk: nn.Module, one: torch.Tensor, two: torch.Tensor) -> float:
    shift, scale = (np.array(v).reshape(3, 1, 1) for v in ((-0.030, -0.088, -0.188),
                                                           (0.458, 0.448, 0.450)))  # fmt: skip
    state = torch.load(linear_weights(), map_location="cpu", weights_only=True)
    taps = [
        trunk(torch.from_numpy((2 * x.double().numpy() - 1 - shift) / scale).float()[None])
        for x in (one, two)
    ]
    total = 0.0
    for layer, (a, b) in enumerate(zip(*taps, strict=True)):
        a, b = (v[0].double().numpy() for v in (a, b))
        a, b = (v / np.maximum(np.sqrt((v**2).sum(0)), 1e-10) for v in (a, b))
        weight = state[f"lin{layer}.model.1.weight"].double().numpy().reshape(-1, 1, 1)
        total += (weight * (a - b) ** 2).sum(0).mean()
    return total


def test_lpips_from_torchvisions_alexnet(monkeypatch, tmp_path):
    torch.manual_seed(4)
    trunk = alexnet()
    rest = {"classifier.1.weight": torch.zeros(2, 2), "classifier.1.bias": torch.zeros(2)}
    checkpoint(tmp_path, monkeypatch, "alexnet", {**trunk.state_dict(), **rest})
    frames, source = video(4, 3, 40), video(5, 3, 40)
    inputs = MetricInputs(frames, source)
    pairs = [naive_lpips(trunk, frames[t], frames[t + 1]) for t in (0, 1)]
    theirs = [naive_lpips(trunk, source[t], source[t + 1]) for t in (0, 1)]
    expected = {
        "lpips/consecutive": pairs,
        "lpips/to_source": [naive_lpips(trunk, frames[t], source[t]) for t in range(3)],
        "tlpips": [100 * abs(a - b) for a, b in zip(pairs, theirs, strict=True)],
    }
    for metric, series in expected.items():
        assert scored(metric, inputs).series == pytest.approx(series, rel=2e-4, abs=1e-4), metric
    assert networks_identity(["alexnet"]) == {"alexnet": NETWORKS["alexnet"].id}


def test_spatial_consistency_from_torchvisions_vgg(monkeypatch, tmp_path):
    torch.manual_seed(5)
    trunk = vgg16_to_relu4_3()
    rest = {"features.24.weight": torch.zeros(1), "classifier.0.weight": torch.zeros(1)}
    checkpoint(tmp_path, monkeypatch, "vgg16", {**trunk.state_dict(), **rest})
    frames, source = video(6, 1), video(7, 1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    tables = []
    for pictures in (frames, source):
        cells = unit(trunk((pictures - mean) / std)[-1][0].flatten(1).T)
        tables.append([[a @ b for b in cells] for a in cells])
    expected = np.abs(np.subtract(*map(np.array, tables))).mean()
    found = scored("spat_con/fresco", MetricInputs(frames, source))
    assert found.value == pytest.approx(expected, rel=1e-3)


def test_a_checkpoint_that_lacks_layers_or_holds_code_is_told_in_the_score(monkeypatch, tmp_path):
    state = alexnet().state_dict()
    del state["features.3.bias"]
    checkpoint(tmp_path, monkeypatch, "alexnet", state)
    inputs = MetricInputs(video(8, 2))
    found = measure("lpips/consecutive", inputs)
    assert isinstance(found, Unavailable)
    assert "lacks features.3.bias" in found.reason
    checkpoint(tmp_path, monkeypatch, "alexnet", {"net": alexnet()})
    found = measure("lpips/consecutive", MetricInputs(video(8, 2)))
    assert isinstance(found, Unavailable)
    assert "metrics.trunks.Trunk" in found.reason


# --- flow ---
class Raft(nn.Module):
    """torchvision's interface over a single number: as many flows as steps, the last one right."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.zeros(()))

    def forward(
        self, one: torch.Tensor, two: torch.Tensor, num_flow_updates: int = 12
    ) -> list[torch.Tensor]:
        assert one.shape[-1] % 8 == 0
        assert one.min() >= -1
        assert one.min() < -0.5  # not [0, 1] as it came
        flow = torch.zeros(len(one), 2, *one.shape[-2:])
        return [flow + self.step * n / num_flow_updates for n in range(1, num_flow_updates + 1)]


def test_raft_from_torchvisions_file(monkeypatch, tmp_path):
    package = ModuleType("torchvision.models.optical_flow")
    package.raft_large = Raft
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    checkpoint(tmp_path, monkeypatch, "raft", {"step": torch.tensor(1.0)})
    estimator = load_estimator("raft")
    frames, source = video(9, 3, 20), video(10, 3, 20)
    inputs = MetricInputs(frames, source, estimator=estimator)
    found = measure("warp/source_flow", inputs)
    # Forward and backward flow are both (1, 1): they contradict each other everywhere.
    assert isinstance(found, Unavailable)
    assert "only 0%" in found.reason
    shifted = frames[1:, :, 1:, 1:].double().numpy() - frames[:-1, :, :-1, :-1].double().numpy()
    mse = scored("pixel_mse/fresco", inputs)
    inside = [np.square(pair).sum() for pair in shifted]
    # What leaves the picture is compared with its repeated border: the last row and column.
    for t, total in enumerate(inside):
        one, two = frames[t].double().numpy(), frames[t + 1].double().numpy()
        edges = np.square(two[:, -1:, 1:] - one[:, -1:, :-1]).sum()
        edges += np.square(two[:, 1:, -1:] - one[:, :-1, -1:]).sum()
        edges += np.square(two[:, -1, -1] - one[:, -1, -1]).sum()
        assert mse.series[t] == pytest.approx((total + edges) / one.size, rel=1e-5)
    assert mse.detail["flow"] == "raft"


@pytest.mark.slow
def test_raft_of_torchvision_itself(monkeypatch, tmp_path):
    flows = pytest.importorskip("torchvision.models.optical_flow")
    torch.manual_seed(6)
    network = flows.raft_large().eval()
    checkpoint(tmp_path, monkeypatch, "raft", network.state_dict())
    frames = (video(11, 2, 128).permute(0, 2, 3, 1) * 255).byte().numpy()
    found = load_estimator("raft").forward(frames)
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    with torch.no_grad():
        expected = network(pictures[:1], pictures[1:], num_flow_updates=20)[-1]
    assert (found - expected).abs().max() < 1e-4


def test_every_network_of_a_metric_is_exercised_here_or_beside():
    """A new downloadable network wants a test of this kind."""
    entries = [table.entry(name) for table in (METRICS, FLOWS) for name in table.names()]
    wanted = {name for entry in entries for name in entry.extra.get("networks", ())}
    assert {"alexnet", "gmflow", "i3d"} <= wanted
    others = ("test_metrics_fvd.py", "test_metrics_i2v.py")
    files = [Path(__file__), *(Path(__file__).parent / name for name in others)]
    text = "".join(file.read_text() for file in files)
    beside = {"gmflow"}  # through ptlflow, in test_flow_estimators.py
    assert [name for name in wanted if f'"{name}"' not in text and name not in beside] == []
    json.dumps(networks_identity(wanted))
