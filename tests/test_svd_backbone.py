"""The networks of Stable Video Diffusion: found as published, loaded whole or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    UNetSpatioTemporalConditionModel,
)
from lab import Lab, spec_text
from transformers import CLIPVisionModelWithProjection

from ablations.shipped import shipped_parts
from crossframe.errors import UserError
from methods import backbone_config
from methods.backbone_config import parse_backbone, weights_identity
from methods.backbones import load_backbone
from methods.norm_groups import KEY, norm_groups
from methods.svd.backbone import SvdBackbone, image_half, upcast
from tests.tiny_backbone import randomize, tiny_clip, write_miniature

PROJECTION, GROUPS = 4, 4
SCHEDULER = {
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
}


def svd_unet(seed: int = 5) -> Any:
    """Two levels, eight channels; its context is as wide as the projection of `tiny_clip`."""
    with norm_groups(GROUPS):
        net = UNetSpatioTemporalConditionModel(
            sample_size=8,
            block_out_channels=(8, 8),
            num_attention_heads=2,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=PROJECTION,
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12,
            num_frames=4,
        )
    net.register_to_config(**{KEY: GROUPS})
    return randomize(net, seed)


def svd_vae(seed: int = 6) -> Any:
    with norm_groups(GROUPS):
        net = AutoencoderKLTemporalDecoder(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            layers_per_block=1,
            force_upcast=True,
        )
    net.register_to_config(**{KEY: GROUPS})
    return randomize(net, seed)


def write_svd(root: Path, names: tuple[str, str, str] = ("unet", "vae", "scheduler")) -> None:
    svd_unet().save_pretrained(root / names[0])
    svd_vae().save_pretrained(root / names[1])
    EulerDiscreteScheduler(**SCHEDULER).save_pretrained(root / names[2])


def write_extractor(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published layout: an image encoder without its text half."""
    root = tmp_path_factory.mktemp("svd")
    write_svd(root)
    image_half(tiny_clip()).save_pretrained(root / "image_encoder")
    write_extractor(root / "feature_extractor")
    return root


@pytest.fixture
def weights(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "weights"))


def load(given: Any) -> SvdBackbone:
    found = load_backbone(parse_backbone(given), "svd")
    assert isinstance(found, SvdBackbone)
    return found


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_the_published_layout_loads(weights: Path) -> None:
    found = load({"root": str(weights), "chunk": 3, "forward_chunk": 2})
    assert same(found.unet, svd_unet())
    assert same(found.vae, svd_vae())
    assert same(found.image_encoder, image_half(tiny_clip()))
    assert (found.image_mean, found.image_std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert found.scheduler_config["sigma_max"] == 700
    assert (found.factor, found.latent_channels, found.trained_frames) == (2, 4, 4)
    assert (found.chunk, found.memory.forward_chunk, found.memory.offload) == (3, 2, False)
    assert found.identity == weights_identity(parse_backbone(str(weights)), "svd")
    assert not found.unet.training
    assert not any(parameter.requires_grad for parameter in found.unet.parameters())


def test_the_image_half_of_a_clip_is_its_image_features() -> None:
    clip = tiny_clip()
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = image_half(clip)(images).image_embeds
    whole = clip.get_image_features(pixel_values=images)
    expected = getattr(whole, "pooler_output", whole)
    torch.testing.assert_close(made, expected)
    assert isinstance(image_half(clip), CLIPVisionModelWithProjection)


def test_the_image_encoder_may_be_a_whole_clip(weights: Path, tmp_path: Path) -> None:
    tiny_clip().save_pretrained(tmp_path / "clip")
    found = load({"root": str(weights), "image_encoder": str(tmp_path / "clip")})
    assert same(found.image_encoder, image_half(tiny_clip()))


def test_half_precision_files_are_read_by_their_variant(weights: Path) -> None:
    for role in ("unet", "vae"):
        file = weights / role / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    encoder = weights / "image_encoder" / "model.safetensors"
    encoder.rename(encoder.with_name("model.fp16.safetensors"))
    with pytest.raises(UserError, match="lacks"):
        load(str(weights))
    found = load({"root": str(weights), "variant": "fp16", "dtype": "float16"})
    nets = (found.unet, found.vae, found.image_encoder)
    assert {parameter.dtype for net in nets for parameter in net.parameters()} == {torch.float16}


def test_the_autoencoder_encodes_in_single_precision_where_it_says_so(weights: Path) -> None:
    found = load({"root": str(weights), "dtype": "float16"})
    with upcast(found) as dtype:
        assert dtype == found.vae.dtype == torch.float32
    assert found.vae.dtype == torch.float16
    found.vae.register_to_config(force_upcast=False)
    with upcast(found) as dtype:
        assert dtype == found.vae.dtype == torch.float16


def test_networks_that_do_not_belong_together_are_refused(weights: Path) -> None:
    other = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32),
        num_attention_heads=2,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=6,
        in_channels=9,
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=16,
    )
    other.save_pretrained(weights / "unet")
    with pytest.raises(UserError) as caught:
        load(str(weights))
    text = str(caught.value)
    assert "backbone.unet: has 9 channels of latents and image (allowed: 8)" in text
    assert "backbone.image_encoder: has 4 numbers per image (allowed: 6)" in text
    assert "has 4 numbers told besides the noise level (allowed: 3)" in text


def test_a_network_that_lacks_tensors_is_refused(weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = weights / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_in.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"leaves 1 tensors unset, among them conv_in\.weight"):
        load(str(weights))


def test_rows_of_two_families_share_the_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real methods and real loaders on tiny networks: ControlVideo beside SVD on one clip."""
    root = tmp_path / "weights"
    write_miniature(root)
    write_extractor(root / "clip")
    write_svd(root, ("svd-unet", "svd-vae", "svd-scheduler"))
    monkeypatch.setattr(backbone_config, "miniature_weights", lambda: root)
    text = spec_text(
        method="controlvideo",
        sentinels=[],
        base={"controls": ["edges"], "steps": 1},
        grid={},
        include=[{"label": "cv", "steps": 1}, {"method": "svd", "label": "svd", "steps": 2}],
        clips=["world:heldout/0"],
        clip={"frames": 3, "size": 16},
        prompts=["a red star"],
        seeds={"count": 1},
        backbone="miniature",
        metrics=["flicker/mae"],
    )
    lab = Lab(tmp_path / "lab", text)
    lab.parts = shipped_parts()
    outcome = lab.run()
    assert [str(reason) for _, reason in outcome.failed] == []
    assert outcome.done == 2
    notes = {record["method"]: record["notes"] for record in lab.results()}
    facts = {"frames": 3, "trained_frames": 4, "windows": 1, "unet_calls": 2, "unet_frames": 12}
    assert notes["svd"]["svd"] == facts
    assert notes["svd"]["memory"] == {"forward_chunk": None, "offload": False}
