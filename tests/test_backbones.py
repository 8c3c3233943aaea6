"""Backbones: found, identified, loaded whole, or refused with the reason."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from crossframe.errors import UserError
from methods import backbone_config
from methods.backbone_config import (
    ROLES,
    BackboneConfig,
    locate_all,
    miniature_weights,
    parse_backbone,
    weights_identity,
)
from methods.backbones import (
    decode_latents,
    encode_frames,
    encode_prompts,
    load_backbone,
)
from methods.loading import pick_device
from methods.weight_files import Part, locate, weight_files
from tests.tiny_backbone import (
    SIZE,
    TOKENS,
    WIDTH,
    old_attention_name,
    tiny_backbone,
    tiny_clip,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
    write_miniature,
)

PARTS = {
    "unet": "unet",
    "vae": "vae",
    "text_encoder": "clip",
    "tokenizer": "clip",
    "scheduler": "scheduler",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    write_miniature(root)
    return root


@pytest.fixture
def weights(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "weights"))


def options(root: Path, **extra: Any) -> dict[str, Any]:
    return {**{role: str(root / name) for role, name in PARTS.items()}, **extra}


def config(root: Path, **extra: Any) -> BackboneConfig:
    return parse_backbone(options(root, **extra))


def same_parameters(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# --- Loading


def test_miniature_loads_from_its_folder(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_config, "miniature_weights", lambda: weights)
    loaded, made = load_backbone(parse_backbone("miniature")), tiny_backbone()
    assert same_parameters(loaded.unet, made.unet)
    assert same_parameters(loaded.vae, made.vae)
    assert same_parameters(loaded.text_encoder, made.text_encoder)
    assert same_parameters(loaded.controlnets["edges"], made.controlnets["edges"])
    assert list(loaded.controlnets) == ["edges"]
    assert (loaded.size, loaded.factor, loaded.text_mask) == (SIZE, 2, True)
    assert not loaded.unet.training
    assert not any(parameter.requires_grad for parameter in loaded.unet.parameters())


def test_absent_miniature_says_how_to_train_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_config, "miniature_weights", lambda: tmp_path / "weights")
    with pytest.raises(UserError, match="crossframe miniature train") as caught:
        load_backbone(parse_backbone("miniature"))
    (problem,) = caught.value.problems
    assert "unet, vae, text_encoder, tokenizer, scheduler" in problem.what


def test_miniature_weights_lie_in_its_package() -> None:
    assert miniature_weights().parts[-2:] == ("miniature", "weights")


def test_pytorch_files_load_where_there_are_no_safetensors(tmp_path: Path) -> None:
    write_miniature(tmp_path, safe=False)
    assert weight_files(tmp_path / "unet")[0].suffix == ".bin"
    nets = {"edges": str(tmp_path / "controlnet-edges")}
    loaded = load_backbone(config(tmp_path, controlnet=nets))
    assert same_parameters(loaded.unet, tiny_unet())


def test_one_root_in_the_layout_of_stable_diffusion(weights: Path) -> None:
    shutil.copytree(weights / "clip", weights / "text_encoder")
    (weights / "clip").rename(weights / "tokenizer")
    loaded = load_backbone(parse_backbone(str(weights)))
    assert same_parameters(loaded.unet, tiny_unet())
    assert not loaded.controlnets
    nets = str(weights / "controlnet-edges")
    alone = load_backbone(parse_backbone({"root": str(weights), "controlnet": nets}))
    assert alone.controlnet_for("depth") == alone.controlnet_for("edges") == "*"


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_encoder_of_its_own_with_old_and_new_names(weights: Path, prefix: str) -> None:
    """Released text encoders name their tensors text_model.*, current transformers does not."""
    folder = weights / "text"
    whole = tiny_clip()
    CLIPTextModel(whole.config.text_config).save_pretrained(folder)
    tensors = {prefix + name: value for name, value in whole.text_model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    loaded = load_backbone(config(weights, text_encoder=str(folder)))
    assert not loaded.text_mask
    assert same_parameters(loaded.text_encoder, whole.text_model)


def test_autoencoder_with_the_attention_names_of_old_releases(weights: Path) -> None:
    """The released autoencoder of Stable Diffusion 1.5 has query, key, value and proj_attn."""
    file = weights / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = {old_attention_name(name): value for name, value in load_file(file).items()}
    assert any(".query." in name for name in tensors)
    save_file(tensors, file, {"format": "pt"})
    assert same_parameters(load_backbone(config(weights)).vae, tiny_vae())


def test_arithmetic_is_that_of_the_config(weights: Path) -> None:
    loaded = load_backbone(config(weights, dtype="bfloat16"))
    nets = (loaded.unet, loaded.vae, loaded.text_encoder)
    assert {parameter.dtype for net in nets for parameter in net.parameters()} == {torch.bfloat16}


def test_incomplete_and_broken_checkpoints_are_refused(weights: Path) -> None:
    file = weights / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    dropped = tensors.pop("conv_in.weight")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"leaves 1 tensors unset, among them conv_in\.weight"):
        load_backbone(config(weights))
    save_file({**tensors, "conv_in.weight": dropped[:4].clone()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"backbone\.unet.*cannot be loaded"):
        load_backbone(config(weights))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot be loaded.*100 B"):
        load_backbone(config(weights))


def test_everything_that_is_missing_is_said_at_once(weights: Path) -> None:
    (weights / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (weights / "vae" / "config.json").unlink()
    shutil.rmtree(weights / "scheduler")
    with pytest.raises(UserError) as caught:
        locate_all(config(weights))
    text = str(caught.value)
    assert [p.where for p in caught.value.problems] == [
        "backbone.unet",
        "backbone.vae",
        "backbone.scheduler",
    ]
    assert "model.safetensors" in text
    assert "config.json" in text
    assert "no folder" in text
    assert "holds config.json" in text


def test_a_missing_root_is_said_once() -> None:
    with pytest.raises(UserError) as caught:
        locate_all(parse_backbone({"root": "/nowhere/at/all"}))
    (problem,) = caught.value.problems
    assert "backbone.unet, backbone.vae" in problem.where


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu() -> None:
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="no CUDA device"):
        pick_device("cuda")


def test_control_kinds_and_networks() -> None:
    backbone = tiny_backbone()
    assert backbone.controlnet_for("edges") == backbone.controlnet_for("canny") == "edges"
    assert backbone.controlnet_for("depth") == "depth"
    with pytest.raises(UserError, match=r"no ControlNet for 'pose' \(allowed: edges, depth\)"):
        backbone.controlnet_for("pose")


# --- Latent space and text


@torch.inference_mode()
def test_prompts_are_padded_masked_and_encoded() -> None:
    backbone, clip = tiny_backbone(), tiny_clip()
    states = encode_prompts(backbone, ["a red star", ""])
    assert states.shape == (2, TOKENS, WIDTH)
    ids = torch.tensor([[2, 3, 5, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    mask = (torch.arange(TOKENS) < torch.tensor([[3], [0]])).long()
    expected = clip.text_model(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(states, expected)
    assert torch.isfinite(states).all()


def test_a_cut_prompt_is_announced() -> None:
    with pytest.warns(UserWarning, match="has 7 tokens and is cut to 6"):
        encode_prompts(tiny_backbone(), ["a red star on blue stripes a"])


@torch.inference_mode()
def test_images_pass_in_chunks_as_one_by_one() -> None:
    backbone = tiny_backbone()
    frames = torch.rand((5, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    latents = encode_frames(backbone, frames)
    assert latents.shape == (5, 4, SIZE // 2, SIZE // 2)
    scale = backbone.vae.config.scaling_factor
    for i in range(5):
        mean = backbone.vae.encode(frames[i : i + 1] * 2 - 1).latent_dist.mean
        torch.testing.assert_close(latents[i : i + 1], mean * scale, rtol=1e-5, atol=1e-6)
    decoded = decode_latents(backbone, latents)
    image = backbone.vae.decode(latents[4:] / scale).sample / 2 + 0.5
    torch.testing.assert_close(decoded[4:], image.clamp(0, 1), rtol=1e-5, atol=1e-6)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


# --- Identity


def test_identity_follows_the_files_and_not_their_place(weights: Path, tmp_path: Path) -> None:
    before = weights_identity(config(weights))
    moved = Path(shutil.copytree(weights, tmp_path / "elsewhere"))
    assert weights_identity(config(moved)) == before
    assert before["dtype"] == "float32"
    file = moved / "unet" / "diffusion_pytorch_model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    after = weights_identity(config(moved))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"unet/diffusion_pytorch_model.safetensors"}
    (moved / "unet" / "README.md").write_text("not a weight")
    assert weights_identity(config(moved)) == after


def test_every_field_is_runtime_or_reaches_the_identity(weights: Path) -> None:
    plain = weights_identity(config(weights))
    runtime = {"device": "cpu", "chunk": 3, "allow_download": True}
    runtime |= {"offload": True, "forward_chunk": 2, "gradient_checkpointing": True}
    assert set(runtime) == BackboneConfig.RUNTIME_FIELDS
    assert weights_identity(config(weights, **runtime)) == plain
    assert weights_identity(config(weights, dtype="float16")) != plain
    nets = {"edges": str(weights / "controlnet-edges")}
    assert weights_identity(config(weights, controlnet=nets)) != plain
    for role, name in PARTS.items():
        files = [found for found in plain if found.startswith(f"{role}/")]
        assert files, f"{role} ({name}) takes no part in the identity"
    through_files = {*ROLES, "name", "root", "controlnet", "lora", "variant", "tuned"}
    assert through_files | {"dtype"} | set(runtime) == set(BackboneConfig.model_fields)


def test_variants_are_told_apart(weights: Path) -> None:
    folder = weights / "unet"
    plain = folder / "diffusion_pytorch_model.safetensors"
    half = folder / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(plain, half)
    assert weight_files(folder) == (plain,)
    assert weight_files(folder, "fp16") == (half,)
    plain.unlink()
    with pytest.raises(UserError, match="lacks"):
        locate(Part("unet", str(folder)))
    assert locate(Part("unet", str(folder), variant="fp16")) == folder


def test_shards_count_in_order(tmp_path: Path) -> None:
    names = [f"model-0000{i}-of-00002.safetensors" for i in (2, 1)]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in weight_files(tmp_path)] == sorted(names)


# --- Hub ids


@pytest.mark.parametrize("allowed", [False, True])
def test_hub_ids_stay_local_unless_allowed(
    weights: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    asked: list[tuple[str, list[str], bool]] = []

    def snapshot(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, allow_patterns, local_files_only))
        return str(weights)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    part = Part("unet", "owner/name", "unet")
    assert locate(part, allow_download=allowed) == weights / "unet"
    ((name, patterns, local_only),) = asked
    assert (name, local_only) == ("owner/name", not allowed)
    assert "unet/diffusion_pytorch_model.safetensors" in patterns
    assert not any(pattern.endswith(".bin") for pattern in patterns)


def test_hub_ids_without_safetensors_fall_back_to_pytorch_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "config.json").write_text("{}")

    def snapshot(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        if "unet/diffusion_pytorch_model.bin" in allow_patterns:
            (folder / "diffusion_pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert locate(Part("unet", "owner/name", "unet"), allow_download=True) == folder


def test_hub_ids_that_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, **_: Any) -> str:
        raise OSError("offline\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match=r"nor in the local hub cache.*allow_download"):
        locate(Part("unet", "owner/name"))
    with pytest.raises(UserError, match=r"cannot be downloaded: offline$"):
        locate(Part("unet", "owner/name"), allow_download=True)


# --- Reading the spec


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("miniatur", "did you mean 'miniature'"),
        ({"unet": "a"}, "vae, text_encoder, tokenizer, scheduler missing"),
        ({"root": "a", "dtyp": "float16"}, "did you mean 'dtype'"),
        ({"root": "a", "device": "tpu"}, "'auto', 'cpu' or 'cuda'"),
        ({"root": ""}, "backbone.root"),
        ({"name": "miniature", "unet": "a"}, "the miniature has its own unet"),
        ({"root": "a", "controlnet": ["a"]}, "backbone.controlnet"),
    ],
)
def test_wrong_backbones_say_what_is_wrong(value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_backbone(value)


def test_spellings_of_a_backbone(tmp_path: Path) -> None:
    assert parse_backbone("miniature") == parse_backbone({"name": "miniature"})
    assert parse_backbone(str(tmp_path)).root == str(tmp_path)
    assert parse_backbone("owner/name").root == "owner/name"
    given = parse_backbone({"root": "a", "controlnet": "b"})
    assert given.controlnet == {"*": "b"}
    assert parse_backbone(given) is given
    assert parse_backbone(json.loads(given.model_dump_json())) == given


def test_options_and_identity_need_no_torch(weights: Path) -> None:
    code = (
        "import json, sys\n"
        "from methods import METHODS, method_config\n"
        "from methods.backbone_config import parse_backbone, weights_identity\n"
        "[method_config(name) for name in METHODS.entries]\n"
        f"weights_identity(parse_backbone(json.loads({json.dumps(options(weights))!r})))\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)\n"
    )
    root = Path(backbone_config.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_tiny_tokenizer_survives_its_folder(weights: Path) -> None:
    loaded = load_backbone(config(weights)).tokenizer
    assert loaded("a red star")["input_ids"] == tiny_tokenizer()("a red star")["input_ids"]
