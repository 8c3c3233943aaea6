"""Tune-A-Video's checkpoints: names as the authors' code has them, round trips, clear refusals."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossframe.errors import UserError
from crossframe.files import read_json
from methods.backbone_config import parse_backbone, weights_identity
from methods.backbones import load_backbone
from methods.base import SampleRequest
from methods.options import merge
from methods.tuneavideo.checkpoints import (
    WEIGHTS,
    image_config,
    is_video_config,
    read_folder,
    read_tuned,
    shapes_of,
    temporal_shapes,
    tuned_shapes,
    video_config,
    write_folder,
    write_network,
    write_tuned,
)
from methods.tuneavideo.config import TuneAVideoConfig
from methods.tuneavideo.sampler import sample, tuned_network
from tests.tiny_backbone import SCHEDULER, SIZE, tiny_unet, write_miniature

GOLDEN = Path(__file__).parent / "golden" / "tuneavideo"
PARTS = {"vae": "vae", "text_encoder": "clip", "tokenizer": "clip", "scheduler": "scheduler"}


def on_meta(**options: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes_of(UNet2DConditionModel(**options).state_dict())


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def video_tensors(seed: int = 0) -> dict[str, Tensor]:
    """The tiny UNet with random temporal attention."""
    generator = torch.Generator().manual_seed(seed)
    image = tiny_unet(seed).state_dict()
    return image | {
        name: torch.randn(shape, generator=generator)
        for name, shape in temporal_shapes(shapes_of(image)).items()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    write_miniature(root)
    return root


def backbone(root: Path, unet: Path, **extra: Any) -> Any:
    parts = {role: str(root / name) for role, name in PARTS.items()}
    return parse_backbone({**parts, "unet": str(unet), **extra})


# --- Names


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"cross_attention_dim": 768}, 909_120_004),
        (
            {
                "cross_attention_dim": 1024,
                "attention_head_dim": (5, 10, 20, 20),
                "use_linear_projection": True,
            },
            915_509_764,
        ),
    ],
    ids=["sd1", "sd2"],
)
def test_stable_diffusion_has_686_and_112_tensors(options: dict[str, Any], total: int) -> None:
    image = on_meta(sample_size=64, **options)
    added, tuned = temporal_shapes(image), tuned_shapes(image)
    assert (len(image), len(added), len(tuned)) == (686, 112, 112)
    assert not set(image) & set(added)
    both = image | added
    assert count(both) == total
    assert count(tuned) == 74_354_880


def test_names_are_those_of_the_authors_code() -> None:
    layout = json.loads((GOLDEN / "train_grads.json").read_text())["layouts"]["sd14"]
    image = on_meta(**layout["unet"])
    added = temporal_shapes(image)
    assert sorted(added) == sorted(layout["new_keys"])
    assert sorted(tuned_shapes(image)) == sorted(layout["trainable"])
    assert len(image) + len(added) == layout["total_keys"]


def test_a_state_dict_of_the_authors_code_is_read_and_written_alike(tmp_path: Path) -> None:
    with safe_open(GOLDEN / "unet3d.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])["unet"]
    stored = load_file(GOLDEN / "unet3d.safetensors").items()
    original = {
        name.removeprefix("weights/"): t for name, t in stored if name.startswith("weights/")
    }
    assert is_video_config(config)
    image = on_meta(**image_config(config))
    folder = write_folder(tmp_path, image_config(config), original)
    found = read_folder(folder, [folder / WEIGHTS], image)
    assert found.image.keys() == image.keys()
    both = {**found.image, **found.temporal}
    assert both.keys() == original.keys()
    assert all(torch.equal(both[name], original[name]) for name in original)
    said = read_json(folder / "config.json")
    assert {name: said[name] for name in config} == config
    assert (said["_class_name"], "mid_block_type" in said) == ("UNet3DConditionModel", False)


def test_configurations_go_there_and_back() -> None:
    config = dict(tiny_unet().config)
    said = json.loads(json.dumps(video_config(config)))
    assert is_video_config(said)
    assert not is_video_config(config)
    again = UNet2DConditionModel.from_config(image_config(said))
    assert shapes_of(again.state_dict()) == shapes_of(tiny_unet().state_dict())
    newer = said | {"mid_block_type": "UNetMidBlock2DCrossAttn"}
    assert image_config(newer)["mid_block_type"] == "UNetMidBlock2DCrossAttn"


# --- Round trips


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_tuned_tensors_come_back_with_a_first_norm(tmp_path: Path, suffix: str) -> None:
    tensors, path = video_tensors(), tmp_path / f"tuneavideo-300{suffix}"
    write_tuned(path, tensors)
    found = read_tuned(path, shapes_of(tiny_unet().state_dict()))
    names = tuned_shapes(shapes_of(tiny_unet().state_dict()))
    assert found.keys() == names.keys() | temporal_shapes(names).keys()
    assert all(torch.equal(found[name], tensors[name]) for name in names)
    norms = {name: tensor for name, tensor in found.items() if name not in names}
    assert {name.rpartition("norm_temp.")[2] for name in norms} == {"weight", "bias"}
    assert all((t == (1 if n.endswith("weight") else 0)).all() for n, t in norms.items())


def test_a_pickle_holds_no_more_than_its_tensors(tmp_path: Path) -> None:
    tensors = video_tensors()
    wide = {name: torch.empty(100, *t.shape).copy_(t)[3] for name, t in tensors.items()}
    write_tuned(tmp_path / "wide.pth", wide)
    write_tuned(tmp_path / "plain.pth", tensors)
    assert (tmp_path / "wide.pth").stat().st_size == (tmp_path / "plain.pth").stat().st_size


def test_the_prefix_of_distributed_training_is_dropped(tmp_path: Path) -> None:
    tensors = video_tensors()
    names = list(tuned_shapes(shapes_of(tensors)))
    torch.save({f"module.{name}": tensors[name] for name in names}, tmp_path / "t.pth")
    found = read_tuned(tmp_path / "t.pth", shapes_of(tiny_unet().state_dict()))
    assert torch.equal(found[names[0]], tensors[names[0]])


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_backbone_reads_the_released_folder(tmp_path: Path, written: Path, suffix: str) -> None:
    tensors = video_tensors(5)
    folder = write_folder(tmp_path, tiny_unet().config, tensors)
    if suffix == ".safetensors":
        save_file(torch.load(folder / WEIGHTS), folder / "diffusion_pytorch_model.safetensors")
        (folder / WEIGHTS).unlink()
    found = load_backbone(backbone(written, folder))
    assert all(torch.equal(t, tensors[n]) for n, t in found.unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in found.unet.parameters())
    assert found.temporal.keys() == tensors.keys() - found.unet.state_dict().keys()
    assert all(torch.equal(t, tensors[n]) for n, t in found.temporal.items())
    assert not load_backbone(backbone(written, written / "unet")).temporal


def test_a_released_pipeline_is_a_backbone_as_it_stands(tmp_path: Path) -> None:
    """As the authors' training script saves it: pickles, PNDM, their class in the index."""
    write_miniature(tmp_path / "parts", safe=False)
    root = tmp_path / "pipeline"
    for role, name in PARTS.items():
        shutil.copytree(tmp_path / "parts" / name, root / role)
    tensors = video_tensors(7)
    write_folder(root, tiny_unet().config, tensors)
    index = {"_class_name": "TuneAVideoPipeline", "unet": ["models", "UNet3DConditionModel"]}
    (root / "model_index.json").write_text(json.dumps(index))
    pndm = {**SCHEDULER, "_class_name": "PNDMScheduler", "skip_prk_steps": True}
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(pndm))
    found = load_backbone(parse_backbone(str(root)))
    assert found.temporal.keys() == tensors.keys() - found.unet.state_dict().keys()
    frames = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    request = SampleRequest(frames, "a blue star", source_prompt="a red star")
    options = {"preset": "repo", "steps": 2, "tuning": {"steps": 0}}
    out = [
        sample(backbone, request, TuneAVideoConfig.model_validate(options), lambda *step: None)
        for backbone in (found, replace(found, temporal={}))
    ]
    assert out[0].shape == frames.shape
    assert not torch.equal(*out)


def test_a_backbone_lays_tuned_tensors_over_its_unet(tmp_path: Path, written: Path) -> None:
    tensors, path = video_tensors(6), tmp_path / "t.pth"
    write_tuned(path, tensors)
    found = load_backbone(backbone(written, written / "unet", tuned=str(path)))
    names, plain = set(tuned_shapes(shapes_of(tensors))), tiny_unet().state_dict()
    for name, tensor in found.unet.state_dict().items():
        assert torch.equal(tensor, tensors[name] if name in names else plain[name]), name
    assert found.temporal.keys() == temporal_shapes(shapes_of(plain)).keys()
    assert all(torch.equal(found.temporal[n], tensors[n]) for n in found.temporal.keys() & names)


def test_the_hash_of_a_checkpoint_is_part_of_the_identity(tmp_path: Path, written: Path) -> None:
    path = tmp_path / "t.pth"
    write_tuned(path, video_tensors(1))
    plain = weights_identity(backbone(written, written / "unet"))
    tuned = weights_identity(backbone(written, written / "unet", tuned=str(path)))
    assert {name: sha for name, sha in tuned.items() if name != "tuned"} == plain
    shutil.copy(path, tmp_path / "moved.pth")
    moved = backbone(written, written / "unet", tuned=str(tmp_path / "moved.pth"))
    assert weights_identity(moved) == tuned
    write_tuned(path, video_tensors(2))
    other = weights_identity(backbone(written, written / "unet", tuned=str(path)))
    assert other["tuned"] != tuned["tuned"]


@pytest.mark.parametrize(
    ("name", "train", "alpha"),
    [("t.pth", "all", 1.0), ("whole", "mid_up", 1.0), ("half.pth", "all", 0.5)],
)
def test_what_was_tuned_here_samples_alike_as_a_backbone(
    tmp_path: Path, written: Path, name: str, train: str, alpha: float
) -> None:
    plain = load_backbone(backbone(written, written / "unet"))
    frames = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    request = SampleRequest(frames, "a blue star", source_prompt="a red star", seed=3)
    tuning = {"precision": "float32", "train": train, "latents": "mode"}
    options = {"preset": "repo", "steps": 2, "tuning": tuning}
    tuned = merge(options, {"tuning": {"steps": 2, "learning_rate": 0.01}})
    tuned["temporal"] = {"alpha": alpha}
    config = TuneAVideoConfig.model_validate(tuned)
    ours = sample(plain, request, config, lambda done, total: None)
    steps: list[tuple[int, int]] = []
    tensors = tuned_network(plain, request, config, lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
    path = write_network(tmp_path / name, plain.unet.config, tensors)
    said = {"tuned": str(path)} if path.is_file() else {}
    again = load_backbone(backbone(written, path if path.is_dir() else written / "unet", **said))
    untuned = TuneAVideoConfig.model_validate(merge(options, {"tuning": {"steps": 0}}))
    frames_again = sample(again, request, untuned, lambda done, total: None)
    assert torch.equal(frames_again, ours)
    assert not torch.equal(sample(plain, request, untuned, lambda done, total: None), ours)


# --- Refusals


def changed(kind: str) -> dict[str, Tensor]:
    tensors = video_tensors()
    names = list(tuned_shapes(shapes_of(tensors)))
    made = {name: tensors[name] for name in names}
    if kind == "incomplete":
        return {name: made[name] for name in names[2:]}
    if kind == "foreign":
        return made | {"mid_block.transformer_in.weight": torch.ones(2)}
    if kind == "misshapen":
        return made | {names[0]: torch.ones(3, 3)}
    return {"state_dict": torch.ones(1)}


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("incomplete", r"2 of 28 tensors are missing, among them down_blocks.0"),
        ("foreign", r"1 are unknown, among them mid_block.transformer_in.weight"),
        ("misshapen", r"1 have another shape, among them .*attn1.to_q.weight with \(3, 3\), not"),
        ("another", r"28 of 28 tensors are missing.*1 are unknown, among them state_dict"),
    ],
)
def test_other_tensors_are_refused_in_one_line(tmp_path: Path, kind: str, told: str) -> None:
    torch.save(changed(kind), tmp_path / "t.pth")
    with pytest.raises(UserError, match=told) as caught:
        read_tuned(tmp_path / "t.pth", shapes_of(tiny_unet().state_dict()))
    (problem,) = caught.value.problems
    assert problem.where == "backbone.tuned"
    assert "\n" not in str(problem)


def test_a_folder_without_its_temporal_attention_is_refused(tmp_path: Path, written: Path) -> None:
    folder = write_folder(tmp_path, tiny_unet().config, video_tensors())
    torch.save(tiny_unet().state_dict(), folder / WEIGHTS)
    with pytest.raises(UserError, match=r"28 of .* tensors are missing, among them .*attn_temp"):
        load_backbone(backbone(written, folder))


def test_modelscopes_network_of_the_same_name_is_refused(tmp_path: Path, written: Path) -> None:
    folder = write_folder(tmp_path, tiny_unet().config, video_tensors())
    extra = {"down_blocks.0.temp_convs.0.conv1.0.weight": torch.ones(4)}
    torch.save(video_tensors() | extra, folder / WEIGHTS)
    with pytest.raises(UserError, match="ModelScope's network of the same class name"):
        load_backbone(backbone(written, folder))


class _Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_code_in_a_pickle_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Hostile()}, tmp_path / "t.pth")
    with pytest.raises(UserError, match="only plain tensors are read"):
        load_backbone(backbone(written, written / "unet", tuned=str(tmp_path / "t.pth")))
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_told_by_the_plan(tmp_path: Path, written: Path) -> None:
    config = backbone(written, written / "unet", tuned=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"backbone.tuned: .*none.pth' cannot be read: No such"):
        weights_identity(config)


def test_nothing_incomplete_is_written(tmp_path: Path) -> None:
    tensors = video_tensors()
    gone = next(name for name in tensors if "attn_temp.to_k" in name)
    less = {name: tensor for name, tensor in tensors.items() if name != gone}
    with pytest.raises(ValueError, match=r"attn_temp\.to_k"):
        write_folder(tmp_path, tiny_unet().config, less)
    with pytest.raises(ValueError, match="1 tuned tensors are absent"):
        write_tuned(tmp_path / "t.safetensors", less)
    assert list(tmp_path.iterdir()) == []
    write_tuned(tmp_path / "t.safetensors", tensors)
    assert len(load_file(tmp_path / "t.safetensors")) == 28
