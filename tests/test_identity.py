"""Identity: what shapes a result is in its key, nothing else is, and no field is forgotten."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from fake_parts import FakeConfig, fake_parts, load_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import spec_text
from pydantic import BaseModel

from ablations import cellkeys
from ablations.cards import ClipCard
from ablations.check import load_spec
from ablations.plan import make_plan
from ablations.spec import FIELD_ROLES, Role, Spec
from ablations.store import Store
from crossframe.keys import identity
from crossframe.registry import Registry
from data_manifests.clips import Clip
from methods import METHODS, method_config
from methods.backbone_config import ROLES, BackboneConfig, weights_identity
from methods.controlvideo.config import ControlVideoConfig
from methods.families import FAMILIES

TEXT = spec_text(name="identity", base={}, metrics=["brightness", "clip/aligned"])

BACKBONE_ROLES = {
    **dict.fromkeys(("name", "root", *ROLES), "files"),
    **dict.fromkeys(("controlnet", "variant", "lora.source", "tuned"), "files"),
    "lora.scale": "identity",
    "dtype": "identity",
    "device": "runtime",
    "chunk": "runtime",
    "allow_download": "runtime",
    "offload": "runtime",
    "forward_chunk": "runtime",
    "gradient_checkpointing": "runtime",
}
"""`files`: in keys through the sha256 of the files it leads to, wherever they lie."""


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(TEXT, encoding="utf-8")

    def make(*overrides, **changed):
        parts = replace(fake_parts(), **changed)
        plan = make_plan(load_spec(path, overrides, parts), Store(tmp_path / "run"), parts)
        return [(cell.row.label, cell.clip.id, cell.key, cell.metric_keys) for cell in plan.cells]

    return make


def leaves(model: type[BaseModel], prefix: str = ""):
    """Dotted paths of all fields, those of inner models included."""
    for name, info in model.model_fields.items():
        arguments = (info.annotation, *get_args(info.annotation))
        inner = [a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)]
        if inner:
            yield from (path for each in inner for path in leaves(each, f"{prefix}{name}."))
        else:
            yield prefix + name


def dumped(value: Any, prefix: str = ""):
    for name, inner in value.items():
        yield prefix + name
        if isinstance(inner, dict):
            yield from dumped(inner, f"{prefix}{name}.")


def unclassified(model, roles):
    return sorted(set(leaves(model)) ^ set(roles))


def test_every_field_of_a_spec_and_of_a_backbone_is_classified():
    assert unclassified(Spec, FIELD_ROLES) == []
    assert unclassified(BackboneConfig, BACKBONE_ROLES) == []
    assert set(FIELD_ROLES.values()) == set(get_args(Role))
    runtime = {name for name, role in BACKBONE_ROLES.items() if role == "runtime"}
    assert runtime == BackboneConfig.RUNTIME_FIELDS


def test_a_new_field_fails_the_classification():
    class WiderSpec(Spec):
        colour: str = ""

    class WiderBackbone(BackboneConfig):
        compile: bool = False

    assert unclassified(WiderSpec, FIELD_ROLES) == ["colour"]
    assert unclassified(WiderBackbone, BACKBONE_ROLES) == ["compile"]


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_a_method_is_in_the_resolved_configuration(method):
    """Keys hash the resolved configuration, so an option can only escape by not being dumped."""
    config = method_config(method)
    data = config().model_dump(mode="json")
    shown = dict(zip(dumped(data), _flat(data), strict=True))
    null = tuple(f"{path}." for path, value in shown.items() if value is None)
    assert [p for p in leaves(config) if p not in shown and not p.startswith(null)] == []


def leaf_values(config):
    return {
        path: value
        for path, value in zip(dumped(config), _flat(config), strict=True)
        if not isinstance(value, dict)
    }


def _flat(value):
    for inner in value.values():
        yield inner
        if isinstance(inner, dict):
            yield from _flat(inner)


@pytest.mark.parametrize("method", METHODS)
def test_a_changed_default_changes_the_key(method):
    parts = replace(fake_parts(), methods=METHODS)
    found = cellkeys.Keys.__new__(cellkeys.Keys)
    found.parts, found._backbones, found._stages = parts, dict.fromkeys(FAMILIES, "b"), {}
    found._networks = {method: {}}  # a value of no meaning is no option to ask for networks
    row = Row(method, method_config(method)().model_dump(mode="json"))
    before = found.cell(row, CARD, "p", 0)
    for path in leaf_values(row.config):
        changed = Row(method, _with(row.config, path.split("."), "changed"))
        assert found.cell(changed, CARD, "p", 0) != before, path


class Row:
    def __init__(self, method, config):
        self.label, self.method, self.config = method, method, config


CARD = ClipCard("world:heldout/0", "0", "0")


def _with(config, path, value):
    head, *rest = path
    return {**config, head: _with(config[head], rest, value) if rest else value}


def test_a_default_changed_in_the_code_changes_the_key(keys):
    class Later(FakeConfig):
        sleep: float = 1.0

    configs = {"noisy": Later, "source": fake_parts().method_config("source")}
    before, after = keys(), keys(method_config=configs.__getitem__)
    same = [a[2] == b[2] for a, b in zip(before, after, strict=True)]
    assert same == [label == "source" for label, *_ in before]


def test_a_preset_changed_in_the_code_changes_the_configuration():
    class Later(ControlVideoConfig):
        PRESETS = {"paper": {**ControlVideoConfig.PRESETS["paper"], "steps": 51}}  # noqa: RUF012

    assert ControlVideoConfig().steps == 50
    assert identity(Later()) != identity(ControlVideoConfig())


def test_a_default_written_out_keeps_the_key(keys):
    assert keys() == keys("base={attention: {alpha: 1.0}, preset: paper}", "threads=3")


def changed_keys(before, after):
    """Which of (cells, scores) differ."""
    cells = {a[2] for a in before} != {b[2] for b in after}
    scores = [a[3] for a in before] != [b[3] for b in after]
    return cells, scores


def test_weights_count_by_their_bytes(keys):
    before = keys()
    other = keys(backbone_identity=lambda config, family: {"unet": "other sha"})
    assert changed_keys(before, other) == (True, True)
    untouched = [a[2] == b[2] for a, b in zip(before, other, strict=True)]
    assert untouched == [label == "source" for label, *_ in before]


def test_an_encoder_counts_for_its_scores_only(keys):
    before, after = keys(), keys(encoder_identity=lambda folder, geometry: "other sha")
    assert changed_keys(before, after) == (False, True)
    assert all(a[3]["brightness"] == b[3]["brightness"] for a, b in zip(before, after, strict=True))


def test_a_clip_counts_by_its_decoded_frames(keys):
    def darker(request):
        clip = load_clip(request)
        frames = clip.frames.copy()
        frames[-1, -1, -1, -1] ^= 1
        return Clip(clip.id, frames, clip.fps, clip.caption, clip.edits)

    def renamed(request):
        clip = load_clip(request)
        return Clip(clip.id + "x", clip.frames, clip.fps + 1, clip.caption, clip.edits)

    def recaptioned(request):
        clip = load_clip(request)
        return Clip(clip.id, clip.frames, clip.fps, "another caption", clip.edits)

    assert changed_keys(keys(), keys(load_clip=darker)) == (True, True)
    assert changed_keys(keys(), keys(load_clip=renamed)) == (False, False)
    assert changed_keys(keys(), keys(load_clip=recaptioned)) == (True, True), "methods are told it"


def raised(registry, name):
    entry = registry.entry(name)
    entries = {**registry.entries, name: replace(entry, extra={**entry.extra, "version": 99})}
    return Registry(registry.kind, entries, registry.group)


def test_versions_of_methods_metrics_and_stages_count(keys, monkeypatch):
    before, parts = keys(), fake_parts()
    assert changed_keys(before, keys(methods=raised(parts.methods, "noisy"))) == (True, True)
    assert changed_keys(before, keys(metrics=raised(parts.metrics, "brightness"))) == (False, True)
    for stage, expected in (("sampling", (True, True)), ("features", (False, True))):
        monkeypatch.setattr(cellkeys, "STAGES", {**cellkeys.STAGES, stage: 99})
        assert changed_keys(before, keys()) == expected
        monkeypatch.undo()


def test_a_changed_byte_of_a_weight_file_changes_the_backbone(tmp_path):
    for role in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / role).mkdir()
        (tmp_path / role / "config.json").write_text("{}")
        (tmp_path / role / "model.bin").write_bytes(role.encode())
    (tmp_path / "tokenizer" / "vocab.json").write_text("{}")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    config = BackboneConfig(root=str(tmp_path))
    before = weights_identity(config)
    (tmp_path / "unet" / "model.bin").write_bytes(b"uneT")
    after = weights_identity(config)
    assert [name for name in before if before[name] != after[name]] == ["unet/model.bin"]
    (tmp_path / "unet" / "model.bin").write_bytes(b"unet")
    assert weights_identity(config) == before
    runtime = config.model_copy(update={"device": "cpu", "chunk": 1, "allow_download": True})
    assert weights_identity(runtime) == before
    assert weights_identity(config.model_copy(update={"dtype": "float16"})) != before


AXES = st.dictionaries(
    st.sampled_from(["attention.pattern", "attention.alpha", "steps", "sleep", "fail"]),
    st.integers(0, 2),
    min_size=1,
)
VALUES = {
    "attention.pattern": ["[individual]", "[first, full]", "[full, first, individual]"],
    "attention.alpha": ["[0.0]", "[0.25, 1.0]", "[0.1, 0.2, 0.3]"],
    "steps": ["[1]", "[2, 3]", "[9, 8, 7]"],
    "sleep": ["[0.0]", "[1.0, 2.0]", "[3.0]"],
    "fail": ["[true]", "[false, true]", "[false]"],
}


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("seeds") / "s.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def seeds_of(path, *overrides):
    parts = fake_parts()
    plan = make_plan(load_spec(path, overrides, parts), Store(path.parent / "none"), parts)
    return {(cell.clip.id, cell.seed_index, cell.seed) for cell in plan.cells}


@settings(max_examples=25, derandomize=True, deadline=None)
@given(axes=AXES, base=AXES)
def test_seeds_never_depend_on_what_is_ablated(spec_file, axes, base):
    grid = ", ".join(f"{name}: {VALUES[name][index]}" for name, index in axes.items())
    options = ", ".join(
        f"{name}: {VALUES[name][index].strip('[]').split(',')[0]}" for name, index in base.items()
    )
    found = seeds_of(spec_file, f"grid={{{grid}}}", f"base={{{options}}}", "prompts=[other]")
    assert found == seeds_of(spec_file)


@pytest.mark.parametrize("override", ["seeds.base=1", "clip.start=1"])
def test_seeds_depend_on_their_base_and_on_the_pixels(spec_file, override):
    before, after = seeds_of(spec_file), seeds_of(spec_file, override)
    assert not {seed for *_, seed in before} & {seed for *_, seed in after}


def test_an_annotator_counts_where_it_draws_and_nowhere_else(keys):
    def weights(sha):
        return lambda control, files, exact: {"net": sha} if control == "depth" else None

    plain = keys("base.controls=[canny]")
    assert keys("base.controls=[canny]", annotator_identity=weights("a")) == plain
    first = keys("base.controls=[canny, depth]", annotator_identity=weights("a"))
    second = keys("base.controls=[canny, depth]", annotator_identity=weights("b"))
    same = {a[0] for a, b in zip(first, second, strict=True) if a[2] == b[2]}
    assert same == {"source"}, "every row with a control map has another key"


def test_marked_objects_count_and_clips_without_them_keep_their_keys(keys):
    def marked(level):
        masks = np.full((2, 1, 8, 8), level)
        return lambda request: replace(load_clip(request), masks=masks)

    plain, some, others = keys(), keys(load_clip=marked(False)), keys(load_clip=marked(True))
    assert len({each[0][2] for each in (plain, some, others)}) == 3
