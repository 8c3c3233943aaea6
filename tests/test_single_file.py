"""Single-file checkpoints: every original name finds its place, and what is missing is told."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from crossframe.errors import UserError
from methods import backbone_config, single_file, weight_files
from methods.backbone_config import parse_backbone, weights_identity
from methods.backbones import load_backbone
from methods.single_file import converted, empty_network, load_single_file, read_state
from methods.weight_files import Part, locate
from tests import ldm_layout
from tests.ldm_layout import Size
from tests.tiny_backbone import (
    SCHEDULER,
    TOKENS,
    WIDTH,
    WORDS,
    tiny_clip,
    tiny_controlnet,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
)

# The names of the hint's branch are those of four widths.
HINT = (4, 4, 4, 4)
TINY = Size(channels=8, mult=(1, 1), blocks=1, attention=(0,), context=WIDTH)

# Family -> (layout of the original code, number of tensors that the network has).
PUBLISHED = {
    "unet": (ldm_layout.unet, 686),
    "controlnet": (ldm_layout.controlnet, 340),
    "vae": (ldm_layout.vae, 248),
    "text_encoder": (ldm_layout.text_encoder, 196),
}
PARAMETERS = {
    "unet": 859_520_964,
    "controlnet": 361_279_120,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
}
# Places that shapes alone would not tell apart.
PLACES = {
    "unet": {
        "time_embed.2.weight": "time_embedding.linear_2.weight",
        "input_blocks.1.0.in_layers.2.weight": "down_blocks.0.resnets.0.conv1.weight",
        "input_blocks.1.0.out_layers.3.weight": "down_blocks.0.resnets.0.conv2.weight",
        "input_blocks.2.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
        "input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight": "down_blocks.0.attentions.0."
        "transformer_blocks.0.attn1.to_k.weight",
        "middle_block.2.out_layers.3.weight": "mid_block.resnets.1.conv2.weight",
        "output_blocks.1.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
        "output_blocks.3.1.transformer_blocks.0.attn2.to_v.weight": "up_blocks.1.attentions.1."
        "transformer_blocks.0.attn2.to_v.weight",
        "out.2.weight": "conv_out.weight",
    },
    "controlnet": {
        "input_hint_block.0.weight": "controlnet_cond_embedding.conv_in.weight",
        "input_hint_block.4.weight": "controlnet_cond_embedding.blocks.1.weight",
        "zero_convs.1.0.weight": "controlnet_down_blocks.1.weight",
        "middle_block_out.0.weight": "controlnet_mid_block.weight",
    },
    "vae": {
        "encoder.mid.attn_1.q.bias": "encoder.mid_block.attentions.0.to_q.bias",
        "encoder.mid.attn_1.proj_out.bias": "encoder.mid_block.attentions.0.to_out.0.bias",
        "decoder.up.1.block.0.conv1.weight": "decoder.up_blocks.0.resnets.0.conv1.weight",
        "decoder.up.0.block.1.conv2.weight": "decoder.up_blocks.1.resnets.1.conv2.weight",
    },
    "text_encoder": {
        "encoder.layers.0.self_attn.v_proj.weight": "encoder.layers.0.self_attn.v_proj.weight",
        "encoder.layers.0.layer_norm2.bias": "encoder.layers.0.layer_norm2.bias",
    },
}
PREFIXES = {
    "unet": "model.diffusion_model.",
    "controlnet": "control_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.text_model.",
}


def whole_model() -> dict[str, torch.Size | tuple[int, ...]]:
    return {**ldm_layout.unet(), **ldm_layout.vae(), **ldm_layout.text_encoder()}


@pytest.mark.parametrize("family", PUBLISHED)
def test_every_published_name_and_shape_finds_its_place(family: str) -> None:
    layout, count = PUBLISHED[family]
    names = layout() if family == "controlnet" else whole_model()
    state = {name: torch.empty(shape, device="meta") for name, shape in names.items()}
    net, config = empty_network(family)
    wanted = net.state_dict()
    assert len(wanted) == count
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[family]
    found = converted(family, state, config, wanted)
    extra = {"embeddings.position_ids"} if family == "text_encoder" else set()
    assert found.keys() - extra == wanted.keys()
    assert all(found[name].shape == wanted[name].shape for name in wanted)


@pytest.mark.parametrize("form", ["v1.0, with its model", "without its prefix"])
def test_controlnets_are_passed_on_in_three_forms(form: str) -> None:
    names = {**whole_model(), **ldm_layout.controlnet()}
    if form == "without its prefix":
        names = ldm_layout.controlnet(prefix="")
    state = {name: torch.empty(shape, device="meta") for name, shape in names.items()}
    net, config = empty_network("controlnet")
    assert (
        converted("controlnet", state, config, net.state_dict()).keys() == net.state_dict().keys()
    )


def test_the_whole_model_has_as_many_tensors_as_the_published_one() -> None:
    """v1-5-pruned-emaonly: 686 + 248 + 196, and one table of positions."""
    assert len(whole_model()) == 1131


# --- Tiny files


def tiny_layouts() -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        "unet": ldm_layout.unet(TINY),
        "controlnet": ldm_layout.controlnet(TINY, HINT),
        "vae": ldm_layout.vae((4, 4), 1),
        "text_encoder": ldm_layout.text_encoder(WIDTH, 8, 1, len(WORDS), TOKENS),
    }


def tiny_state(*families: str) -> dict[str, torch.Tensor]:
    """Random tensors under their original names, each unlike all others."""
    generator = torch.Generator().manual_seed(0)
    layouts = tiny_layouts()
    names = {n: s for family in families for n, s in layouts[family].items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in names.items()}


@pytest.fixture
def tiny_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Single files are taken for ones of the tiny networks."""
    root = tmp_path / "shapes"
    nets = {"unet": tiny_unet(), "controlnet": tiny_controlnet(), "vae": tiny_vae()}
    for name, net in nets.items():
        net.save_config(root / name)
    config = root / "controlnet" / "config.json"
    widths = {"conditioning_embedding_out_channels": HINT}
    config.write_text(json.dumps({**json.loads(config.read_text()), **widths}))
    tiny_clip().config.text_config.save_pretrained(root / "text_encoder")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    for module in (single_file, weight_files, backbone_config):
        monkeypatch.setattr(module, "SD15", root)
    return root


@pytest.mark.parametrize("family", PLACES)
def test_a_tiny_file_fills_its_network(family: str, tiny_shapes: Path, tmp_path: Path) -> None:
    state = tiny_state(family)
    save_file(state, tmp_path / "net.safetensors")
    role = "controlnet.canny" if family == "controlnet" else family
    net = load_single_file(Part(role, ""), tmp_path / "net.safetensors", torch.float32)
    filled = net.state_dict()
    for old, new in PLACES[family].items():
        assert torch.equal(filled[new], state[PREFIXES[family] + old]), old
    # Nothing is used twice and nothing is left over, the table of positions apart.
    values = {round(float(t.double().sum()), 9) for t in filled.values()}
    given = {round(float(t.double().sum()), 9) for n, t in state.items() if "position_ids" not in n}
    assert values == given
    assert not any(buffer.is_meta for buffer in net.buffers())


def test_one_file_is_a_whole_backbone(tiny_shapes: Path, tmp_path: Path) -> None:
    """As released: tensors below `state_dict`, pickled, with other entries beside it."""
    file, side = tmp_path / "model.ckpt", tmp_path / "control.pth"
    state = tiny_state("unet", "vae", "text_encoder")
    torch.save({"state_dict": state, "global_step": 840000}, file)
    torch.save(tiny_state("controlnet"), side)
    tiny_tokenizer().save_pretrained(tmp_path / "words")
    options = {"root": str(file), "tokenizer": str(tmp_path / "words"), "controlnet": str(side)}
    backbone = load_backbone(parse_backbone(options))
    assert backbone.scheduler_config["prediction_type"] == "epsilon"
    assert backbone.controlnet_for("pose") == "*"
    key = "model.diffusion_model.out.2.bias"
    assert torch.equal(backbone.unet.state_dict()["conv_out.bias"], state[key])
    before = weights_identity(parse_backbone(options))
    renamed = file.rename(tmp_path / "other.ckpt")
    assert weights_identity(parse_backbone({**options, "root": str(renamed)})) == before
    torch.save({"state_dict": {**state, key: state[key] + 1}}, renamed)
    after = weights_identity(parse_backbone({**options, "root": str(renamed)}))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"unet/checkpoint", "vae/checkpoint", "text_encoder/checkpoint"}


def test_a_file_with_new_names_is_taken_as_it_is(tiny_shapes: Path, tmp_path: Path) -> None:
    net = tiny_vae()
    save_file(net.state_dict(), tmp_path / "vae.safetensors")
    loaded = load_single_file(Part("vae", ""), tmp_path / "vae.safetensors", torch.float16)
    assert torch.equal(loaded.state_dict()["quant_conv.bias"], net.quant_conv.bias.half())


def test_text_encoders_without_their_middle_name(tiny_shapes: Path, tmp_path: Path) -> None:
    state = {n.replace("text_model.", ""): t for n, t in tiny_state("text_encoder").items()}
    save_file(state, tmp_path / "text.safetensors")
    net = load_single_file(Part("text_encoder", ""), tmp_path / "text.safetensors", torch.float32)
    name = "final_layer_norm.weight"
    assert torch.equal(net.state_dict()[name], state["cond_stage_model.transformer." + name])


def test_another_model_and_half_a_model_are_told(tiny_shapes: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    state = tiny_state("unet")
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({**state, name: torch.zeros(8, 2 * WIDTH)}, file)
    with pytest.raises(UserError, match=r"no Stable Diffusion 1\.x.*\(8, 16\) instead of \(8, 8\)"):
        load_single_file(Part("unet", ""), file, torch.float32)
    state.pop(name)
    save_file(state, file)
    with pytest.raises(UserError, match=r"lacks 1 of .* tensors, among them down_blocks"):
        load_single_file(Part("unet", ""), file, torch.float32)
    with pytest.raises(UserError, match=r"backbone\.vae: .* lacks"):
        load_single_file(Part("vae", ""), file, torch.float32)


class Hostile:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_pickled_files_run_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.ckpt"
    with open(file, "wb") as opened:
        pickle.dump({"state_dict": Hostile()}, opened)
    with pytest.raises(UserError, match=r"backbone\.unet"):
        read_state(file, "backbone.unet")
    assert capsys.readouterr().out == ""
    torch.save([torch.zeros(1)], file)
    with pytest.raises(UserError, match="holds a list"):
        read_state(file, "backbone.unet")


def test_what_a_file_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        locate(Part("unet", str(tmp_path / "absent.safetensors")))
    (tmp_path / "weights.h5").touch()
    with pytest.raises(UserError, match=r"is a file, but none of \.safetensors"):
        locate(Part("unet", str(tmp_path / "weights.h5")))
    (tmp_path / "words.safetensors").touch()
    with pytest.raises(UserError, match="holds no tokenizer"):
        locate(Part("tokenizer", str(tmp_path / "words.safetensors")))
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.ckpt").touch()
    with pytest.raises(UserError, match=r"model\.ckpt is a single file; name it"):
        locate(Part("unet", str(folder)))


def test_a_file_needs_clips_tokenizer(tiny_shapes: Path, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"clip-vit-large-patch14.*neither a folder nor"):
        weights_identity(parse_backbone(str(tmp_path / "model.safetensors")))
