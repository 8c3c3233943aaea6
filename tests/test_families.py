"""Families of networks: one backbone for rows of several, and errors for what fits none."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_parts import EmptyConfig, FakeConfig, fake_parts
from lab import Lab, spec_text

from ablations.check import load_spec
from ablations.plan import make_plan
from ablations.store import Store
from crossframe.errors import Problem, UserError
from crossframe.registry import Entry, Registry
from methods import METHODS, backbone_config, families
from methods.backbone_config import (
    ROLES,
    BackboneConfig,
    family_problems,
    locate_all,
    parse_backbone,
    parts,
    weights_identity,
)
from methods.backbones import load_backbone
from methods.families import FAMILIES

SVD = ("unet", "vae", "image_encoder", "feature_extractor", "scheduler")


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{{}} {folder.name}/{name}")


def svd_root(root: Path) -> Path:
    """The published layout: fp16 files beside the whole ones, and single files on top."""
    weights = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
    for role in ("unet", "vae"):
        touch(root / role, "config.json", *weights)
    touch(root / "image_encoder", "config.json", "model.safetensors", "model.fp16.safetensors")
    touch(root / "feature_extractor", "preprocessor_config.json")
    touch(root / "scheduler", "scheduler_config.json")
    touch(root, "svd.safetensors", "model_index.json")
    return root


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of these tests hold no tensors; only their names and bytes count."""
    monkeypatch.setattr("methods.weight_files.require_whole", lambda path, where: None)


# --- The table


def test_every_role_and_option_is_a_field_of_the_backbone() -> None:
    known = set(BackboneConfig.model_fields)
    assert {field for family in FAMILIES.values() for field in family.fields} <= known
    assert set(ROLES) <= known
    everywhere = {"name", "root", "variant", "dtype", "device", "chunk", "allow_download"}
    assert {name for name in known if not families.owners(name)} == everywhere


def test_families_of_methods_exist() -> None:
    found = {families.family_of(METHODS.entry(name).extra) for name in METHODS}
    assert found - {None} <= set(FAMILIES)
    assert families.family_of({}) == "image"
    assert families.family_of({"needs_backbone": False}) is None
    with pytest.raises(UserError, match="did you mean 'hallo'"):
        families.family("halo")


@pytest.mark.parametrize("name", ["image", "svd"])
def test_loaders_lie_where_the_table_says(name: str) -> None:
    module, _, attribute = FAMILIES[name].loader.partition(":")
    assert importlib.util.find_spec(module)
    assert hasattr(importlib.import_module(module), attribute)


# --- Where parts lie


def test_parts_lie_in_the_published_layout(tmp_path: Path) -> None:
    root = svd_root(tmp_path / "svd")
    config = parse_backbone({"root": str(root), "variant": "fp16"})
    found = {part.role: path for part, path in locate_all(config, "svd").items()}
    assert found == {role: root / role for role in SVD}
    (vae,) = (part for part in parts(config, "svd") if part.role == "vae")
    assert vae.variant == "fp16"
    other = parse_backbone({"root": str(root), "vae": str(root / "unet")})
    assert {p.role: f for p, f in locate_all(other, "svd").items()}["vae"] == root / "unet"


def test_identity_is_that_of_the_files_that_are_read(tmp_path: Path, unread: None) -> None:
    root = svd_root(tmp_path / "svd")
    half = weights_identity(parse_backbone({"root": str(root), "variant": "fp16"}), "svd")
    assert set(half) == {
        "dtype",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "image_encoder/config.json",
        "image_encoder/model.fp16.safetensors",
        "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json",
    }
    whole = weights_identity(parse_backbone(str(root)), "svd")
    assert whole["unet/config.json"] == half["unet/config.json"]
    moved = root.rename(tmp_path / "moved")
    assert weights_identity(parse_backbone(str(moved)), "svd") == whole
    (moved / "unet" / "config.json").write_text("{} other")
    assert weights_identity(parse_backbone(str(moved)), "svd") != whole


def test_the_miniature_is_that_of_the_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_config, "miniature_weights", lambda: tmp_path)
    touch(tmp_path / "controlnet-edges", "config.json")
    config = parse_backbone("miniature")
    folders = {part.role: Path(part.source).name for part in parts(config, "svd")}
    assert folders == {
        "unet": "svd-unet",
        "vae": "svd-vae",
        "image_encoder": "clip",
        "feature_extractor": "clip",
        "scheduler": "svd-scheduler",
    }
    assert "controlnet.edges" in {part.role for part in parts(config)}
    with pytest.raises(UserError, match="no weights for unet, vae, image_encoder") as caught:
        locate_all(config, "svd")
    assert "crossframe miniature train" in str(caught.value)


def test_a_family_may_keep_all_in_one_file(tmp_path: Path, unread: None) -> None:
    touch(tmp_path / "hallo", "net.pth", "config.json")
    touch(tmp_path / "vae", "config.json", "diffusion_pytorch_model.safetensors")
    touch(tmp_path / "sound", "config.json", "model.safetensors")
    given = {"vae": str(tmp_path / "vae"), "audio_encoder": str(tmp_path / "sound")}
    config = parse_backbone({"root": str(tmp_path), **given})
    found = {part.role: path for part, path in locate_all(config, "hallo").items()}
    assert found["net"] == tmp_path / "hallo" / "net.pth"
    assert "face_encoder" not in found
    before = weights_identity(config, "hallo")
    assert {"net/checkpoint", "net/config.json"} < set(before)
    touch(tmp_path / "faces", "glintr100.onnx")
    face = parse_backbone({"root": str(tmp_path), **given, "face_encoder": str(tmp_path / "faces")})
    assert weights_identity(face, "hallo").keys() - before.keys() == {"face_encoder/checkpoint"}
    (tmp_path / "hallo" / "net.pth").unlink()
    with pytest.raises(UserError, match=r"lacks net\.safetensors or net\.pth"):
        locate_all(config, "hallo")


def test_everything_that_is_missing_is_said_with_where_to_get_it(tmp_path: Path) -> None:
    root = svd_root(tmp_path / "svd")
    for name in (
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "scheduler/scheduler_config.json",
    ):
        (root / name).unlink()
    with pytest.raises(UserError) as caught:
        locate_all(parse_backbone({"root": str(root), "variant": "fp16"}), "svd")
    places = [problem.where for problem in caught.value.problems]
    assert places == ["backbone.unet", "backbone.scheduler"]
    for words in ("img2vid-xt-1-1", "behind a gate", "licence"):
        assert words in caught.value.problems[-1].fix


def test_original_single_files_are_refused_for_other_families(tmp_path: Path) -> None:
    root = svd_root(tmp_path / "svd")
    config = parse_backbone(str(root / "svd.safetensors"))
    with pytest.raises(UserError, match=r"is read for Stable Diffusion 1\.x only"):
        locate_all(config, "svd")


# --- Fields and rows


@pytest.mark.parametrize(
    ("given", "run", "said"),
    [
        ({"root": "a", "controlnet": "b"}, ["svd"], "controlnet: is for Stable Diffusion 1.x"),
        ({"root": "a", "lora": "b"}, ["svd"], "lora: is for Stable Diffusion 1.x"),
        ({"root": "a", "image_encoder": "b"}, ["image"], "image_encoder: is for Stable Video"),
        ({"root": "a", "offload": True}, ["image"], "offload: is for Stable Video Diffusion"),
        ({"name": "miniature", "lora": "b"}, ["svd"], "lora: is for Stable Diffusion 1.x"),
        ({"root": "a"}, ["image", "svd"], "root: could be for any of image, svd"),
        ({"root": {"image": "a"}}, ["image", "svd"], "root: rows run networks of the family svd"),
        (
            {"root": {"image": "a", "svd": "b"}, "vae": "c"},
            ["image", "svd"],
            "vae: could be for any of image, svd",
        ),
    ],
)
def test_fields_that_fit_no_row_are_errors(given: Any, run: list[str], said: str) -> None:
    (problem,) = family_problems(parse_backbone(given), run)
    assert f"backbone.{said}" in str(problem)


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ("miniature", ["image", "svd", "hallo"]),
        ({"name": "miniature", "lora": "b"}, ["image", "svd"]),
        ({"root": {"image": "a", "svd": "b"}, "controlnet": "c"}, ["image", "svd"]),
        ({"root": {"image": "a", "svd": "b"}, "controlnet": "c", "vae": "d"}, ["image"]),
        ({"root": "a", "forward_chunk": 2}, ["svd"]),
        ({"root": "a", "controlnet": "b"}, []),
    ],
)
def test_fields_that_fit_a_row_are_none(given: Any, run: list[str]) -> None:
    assert family_problems(parse_backbone(given), run) == []


def test_a_root_by_family(tmp_path: Path) -> None:
    root = svd_root(tmp_path / "svd")
    config = parse_backbone({"root": {"image": "owner/sd15", "svd": str(root)}})
    assert config.root_of("svd") == str(root)
    assert config.root_of("hallo") is None
    assert {part.source for part in parts(config)} == {"owner/sd15"}
    assert parse_backbone(config.model_dump()) == config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"root": {"svt": "a"}}, r"backbone\.root: there is no family 'svt'.*did you mean 'svd'"),
        ({"root": {"svd": ""}}, r"backbone\.root: give a folder"),
        ({"root": {}}, r"backbone\.root: give a folder"),
        ({"image_encoder": "a"}, "unet, vae, feature_extractor, scheduler missing"),
        ({"name": "miniature", "image_encoder": "a"}, "has its own image_encoder"),
    ],
)
def test_wrong_roots_and_roles(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse_backbone(given)
    assert len(caught.value.problems) == 1


def test_loading_an_unknown_family_is_an_error() -> None:
    with pytest.raises(UserError, match="unknown family of networks 'videos'"):
        load_backbone(parse_backbone("miniature"), "videos")


# --- Runs


def still(backbone: Any, request: Any, config: Any, progress: Any) -> Any:
    """A method of another family, which is given that family's networks."""
    assert backbone == "networks of svd"
    return request.frames


def noisy(backbone: Any, request: Any, config: Any, progress: Any) -> Any:
    assert backbone == "networks of image"
    return request.frames * 0.5


def mixed_parts(**changed: Any) -> Any:
    """The fake parts with a second method, of the family svd."""
    entries = {
        "noisy": Entry("test_families:noisy", "noise", {"version": 1}),
        "still": Entry("test_families:still", "a still", {"version": 1, "family": "svd"}),
        "source": Entry("fake_parts:source", "the source", {"needs_backbone": False}),
    }
    configs = {"noisy": FakeConfig, "still": EmptyConfig, "source": EmptyConfig}
    made = {
        "methods": Registry("method", entries, group="crossframe.tests.none"),
        "method_config": configs.__getitem__,
        "backbone_identity": lambda config, family: {"unet": f"{family} {config}"},
        "load_backbone": lambda config, family: f"networks of {family}",
    }
    return replace(fake_parts(), **{**made, **changed})


MIXED = {
    "grid": {},
    "include": [{"steps": 2}, {"method": "still"}],
    "seeds": {"count": 1},
    "base": {},
}


def test_rows_of_two_families_run_side_by_side(tmp_path: Path) -> None:
    lab = Lab(tmp_path, spec_text(**MIXED))
    loaded: list[str] = []

    def load(config: Any, family: str) -> str:
        loaded.append(family)
        return f"networks of {family}"

    lab.parts = mixed_parts(load_backbone=load)
    outcome = lab.run()
    assert (outcome.done, outcome.failed) == (6, [])
    assert sorted(loaded) == ["image", "svd"]
    assert {record["method"] for record in lab.results()} == {"noisy", "still", "source"}


def plan(folder: Path, made: Any) -> Any:
    path = folder / "s.yaml"
    path.write_text(spec_text(**MIXED), encoding="utf-8")
    return make_plan(load_spec(path, (), made), Store(folder / "run"), made)


def test_a_row_depends_on_the_networks_of_its_own_family_alone(tmp_path: Path) -> None:
    def other(config: Any, family: str) -> dict[str, str]:
        return {"unet": "new" if family == "svd" else f"{family} {config}"}

    one = plan(tmp_path, mixed_parts())
    two = plan(tmp_path, mixed_parts(backbone_identity=other))
    changed = {a.row.method for a, b in zip(one.cells, two.cells, strict=True) if a.key != b.key}
    assert changed == {"still"}


def test_missing_networks_cost_the_rows_of_their_family(tmp_path: Path) -> None:
    def absent(config: Any, family: str) -> dict[str, str]:
        if family == "svd":
            raise UserError(Problem("backbone.unet", "no such folder"))
        return {"unet": "sha"}

    found = plan(tmp_path, mixed_parts(backbone_identity=absent))
    assert {cell.row.method for cell in found.with_state("skipped")} == {"still"}
    assert "no such folder" in str(found.obstacle)


def test_a_field_that_fits_no_row_is_told_at_its_line(tmp_path: Path) -> None:
    text = spec_text(**MIXED, backbone={"root": {"image": "a"}})
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    made = mixed_parts(parse_backbone=parse_backbone, backbone_problems=family_problems)
    with pytest.raises(UserError, match=r"s\.yaml:\d+:\d+: backbone\.root: rows run .* svd"):
        load_spec(tmp_path / "s.yaml", (), made)
