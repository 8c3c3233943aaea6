"""LoRA: the closed form W + scale (alpha / r) B A, under every name that files give it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from crossframe.errors import UserError
from methods.backbone_config import parse_backbone, weights_identity
from methods.backbones import load_backbone
from methods.lora import add_lora
from tests.tiny_backbone import tiny_clip, tiny_unet, write_miniature

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "encoder.layers.0.self_attn.v_proj"
RANK, ALPHA, SCALE = 2, 6.0, 0.5

Pair = tuple[Tensor, Tensor]


def pairs() -> dict[str, Pair]:
    """(down, up) by module; the last is of the text encoder."""
    nets = networks()
    generator = torch.Generator().manual_seed(5)

    def pair(weight: Tensor) -> Pair:
        down = torch.randn((RANK, *weight.shape[1:]), generator=generator)
        ones = (1,) * (weight.ndim - 2)
        return down, torch.randn((len(weight), RANK, *ones), generator=generator)

    text = nets["text_encoder"].text_model
    made = {n: pair(nets["unet"].get_submodule(n).weight) for n in (QUERY, OUT, CONV)}
    return {**made, TEXT: pair(text.get_submodule(TEXT).weight)}


def networks() -> dict[str, Any]:
    return {"unet": tiny_unet(), "text_encoder": tiny_clip()}


def expected(pair: Pair, weight: Tensor, alpha: float | None) -> Tensor:
    """By einsum over the rank, apart from the code's matrix product."""
    down, up = pair
    change = torch.einsum("or,ri...->oi...", up.flatten(1), down)
    return weight + SCALE * (1.0 if alpha is None else alpha / RANK) * change


def kohya(name: str, pair: Pair) -> dict[str, Tensor]:
    prefix = "lora_te_text_model_" if name == TEXT else "lora_unet_"
    stem = prefix + name.replace(".", "_")
    return {
        f"{stem}.lora_down.weight": pair[0],
        f"{stem}.lora_up.weight": pair[1],
        f"{stem}.alpha": torch.tensor(ALPHA),
    }


def peft(name: str, pair: Pair) -> dict[str, Tensor]:
    stem = f"text_encoder.text_model.{name}" if name == TEXT else f"unet.{name}"
    return {f"{stem}.lora_A.weight": pair[0], f"{stem}.lora_B.weight": pair[1]}


def diffusers_old(name: str, pair: Pair) -> dict[str, Tensor]:
    """attn.processor.to_q_lora.down; text encoders: self_attn.to_v_lora.down."""
    if name == TEXT:
        stem = f"text_encoder.text_model.{name}".replace("v_proj", "to_v_lora")
    elif name == CONV:
        stem = f"unet.{name}.lora"
    else:
        head, _, tail = name.replace("to_out.0", "to_out").rpartition(".")
        stem = f"unet.{head}.processor.{tail}_lora"
    return {f"{stem}.down.weight": pair[0], f"{stem}.up.weight": pair[1]}


def linear_layer(name: str, pair: Pair) -> dict[str, Tensor]:
    stem = f"text_encoder.text_model.{name}" if name == TEXT else f"unet.{name}"
    return {
        f"{stem}.lora_linear_layer.down.weight": pair[0],
        f"{stem}.lora_linear_layer.up.weight": pair[1],
    }


@pytest.mark.parametrize(
    ("style", "alpha"),
    [(kohya, ALPHA), (peft, None), (diffusers_old, None), (linear_layer, None)],
)
def test_every_spelling_adds_the_closed_form(
    style: Callable[[str, Pair], dict[str, Tensor]], alpha: float | None, tmp_path: Path
) -> None:
    state = {n: t for name, pair in pairs().items() for n, t in style(name, pair).items()}
    save_file(state, tmp_path / "lora.safetensors")
    changed, before = networks(), networks()
    add_lora(changed, tmp_path / "lora.safetensors", SCALE, "backbone.lora.0")
    for name, pair in pairs().items():
        family, path = ("text_encoder", f"text_model.{name}") if name == TEXT else ("unet", name)
        old, new = (nets[family].get_submodule(path).weight for nets in (before, changed))
        torch.testing.assert_close(new, expected(pair, old, alpha), rtol=1e-5, atol=1e-6)
    touched = {f"{name}.weight" for name in pairs()}
    for name, parameter in before["unet"].state_dict().items():
        if name not in touched:
            assert torch.equal(parameter, changed["unet"].state_dict()[name]), name


def test_alpha_of_pefts_settings_counts(tmp_path: Path) -> None:
    pair = pairs()[QUERY]
    file = tmp_path / "lora.safetensors"
    settings = {"unet.r": RANK, "unet.lora_alpha": ALPHA, "unet.use_dora": False}
    save_file(peft(QUERY, pair), file, {"lora_adapter_metadata": json.dumps(settings)})
    changed, before = networks(), networks()
    add_lora(changed, file, SCALE, "backbone.lora.0")
    old, new = (nets["unet"].get_submodule(QUERY).weight for nets in (before, changed))
    torch.testing.assert_close(new, expected(pair, old, ALPHA), rtol=1e-5, atol=1e-6)
    settings["unet.use_dora"] = True
    save_file(peft(QUERY, pair), file, {"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(UserError, match="use_dora"):
        add_lora(changed, file, SCALE, "backbone.lora.0")


def test_diffusers_and_peft_agree(tmp_path: Path) -> None:
    """Whole path of the reference: `load_lora_adapter`, then `fuse_lora`."""
    pytest.importorskip("peft", reason="the reference needs peft")
    state = {n: t for name in (QUERY, OUT, CONV) for n, t in peft(name, pairs()[name]).items()}
    save_file(state, tmp_path / "lora.safetensors")
    ours, theirs = networks()["unet"], networks()["unet"]
    add_lora({**networks(), "unet": ours}, tmp_path / "lora.safetensors", SCALE, "lora")
    theirs.load_lora_adapter(dict(state), prefix="unet")
    theirs.fuse_lora(lora_scale=SCALE)
    theirs.unload_lora()
    for name, parameter in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], parameter, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"unet.nowhere.lora_A.weight": (2, 8), "unet.nowhere.lora_B.weight": (8, 2)}, "no module"),
        ({f"unet.{QUERY}.lora_A.weight": (2, 8)}, "only half of its pair"),
        (
            {f"unet.{QUERY}.lora_A.weight": (2, 9), f"unet.{QUERY}.lora_B.weight": (8, 2)},
            r"shape \(8, 8\), the change \(8, 9\)",
        ),
        (
            {f"unet.{QUERY}.lora_A.weight": (3, 8), f"unet.{QUERY}.lora_B.weight": (8, 2)},
            "ranks 2 and 3",
        ),
        ({"lora_unet_x.hada_w1_a": (2, 2)}, "not a plain LoRA.*hada_w1_a"),
        ({}, "not a plain LoRA"),
    ],
)
def test_what_cannot_be_added_is_told(
    state: dict[str, tuple[int, ...]], said: str, tmp_path: Path
) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in state.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match=said):
        add_lora(networks(), tmp_path / "lora.safetensors", 1.0, "backbone.lora.0")


def test_a_backbone_with_a_lora_is_another_backbone(tmp_path: Path) -> None:
    write_miniature(tmp_path)
    parts = {"unet": "unet", "vae": "vae", "text_encoder": "clip", "tokenizer": "clip"}
    options = {role: str(tmp_path / name) for role, name in parts.items()}
    options["scheduler"] = str(tmp_path / "scheduler")
    folder = tmp_path / "lora"
    folder.mkdir()
    save_file(kohya(QUERY, pairs()[QUERY]), folder / "pytorch_lora_weights.safetensors")
    lora = [{"source": str(folder), "scale": SCALE}]
    config = parse_backbone({**options, "lora": lora})
    loaded = load_backbone(config)
    weight = loaded.unet.get_submodule(QUERY).weight
    old = tiny_unet().get_submodule(QUERY).weight
    torch.testing.assert_close(weight, expected(pairs()[QUERY], old, ALPHA), rtol=1e-5, atol=1e-6)
    plain, with_lora = weights_identity(parse_backbone(options)), weights_identity(config)
    assert with_lora.items() > plain.items()
    assert with_lora["lora.0/scale"] == "0.5"
    short = parse_backbone({**options, "lora": str(folder)})
    assert weights_identity(short)["lora.0/scale"] == "1.0"
    with pytest.raises(UserError, match=r"backbone\.lora\.0: there is no file"):
        weights_identity(parse_backbone({**options, "lora": str(folder / "absent.safetensors")}))
