"""Keys of scores: what a score depends on besides the frames; presets of metrics in specs."""

from dataclasses import replace

import pytest

from ablations.cards import ClipCard
from ablations.cellkeys import ScoreKeys
from ablations.check import load_spec
from ablations.choice import Choice, choose
from ablations.shipped import (
    PUBLISHED_ENCODER,
    encoder_identity,
    named_encoder,
    shipped_parts,
)
from crossframe.errors import UserError
from metrics import METRICS
from metrics.presets import BASE, LARGE, PRESETS

SPEC = """\
name: keys
method: source
clips: [world:heldout/0]
metrics: {metrics}
"""
CARD = ClipCard("world:heldout/0", "world:heldout/0", "s", "t", "a red star", {}, 8.0)
NAMES = (
    "clip_frame/consecutive",
    "clip_frame_acc/fatezero",
    "warp/source_flow",
    "motion/dynamic_degree",
    "flicker/mae",
)


def checked(tmp_path, metrics, *lines, parts=None):
    path = tmp_path / "s.yaml"
    path.write_text(SPEC.format(metrics=metrics) + "\n".join(lines), encoding="utf-8")
    return load_spec(path, (), parts or shipped_parts())


@pytest.fixture
def score_keys(tmp_path):
    """Function (card, settings) -> keys by metric, with an encoder that is only hashed."""

    def made(card=CARD, weights="a", **settings):
        parts = replace(
            shipped_parts(), encoder_identity=lambda name, geometry: [weights, geometry]
        )
        lines = [f"{field}: {value}" for field, value in settings.items()]
        spec = checked(tmp_path, list(NAMES), *lines, parts=parts)
        return ScoreKeys(spec, parts).of("cell", card)

    return made


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"card": replace(CARD, caption="a blue star")}, {"clip_frame_acc/fatezero"}),
        ({"card": replace(CARD, fps=4.0)}, {"motion/dynamic_degree"}),
        ({"weights": "b"}, {"clip_frame/consecutive", "clip_frame_acc/fatezero"}),
        ({"geometry": "tgve"}, {"clip_frame/consecutive", "clip_frame_acc/fatezero"}),
        ({"flow": "raft"}, {"warp/source_flow", "motion/dynamic_degree"}),
    ],
    ids=["caption", "fps", "weights", "geometry", "flow"],
)
def test_a_fact_moves_the_keys_of_the_metrics_that_need_it_only(score_keys, change, moved):
    before, after = score_keys(), score_keys(**change)
    assert {name for name in NAMES if before[name] != after[name]} == moved


def test_keys_of_one_cell_are_all_different_and_differ_between_cells(tmp_path):
    keys = ScoreKeys(checked(tmp_path, list(NAMES)), shipped_parts())
    found = [*keys.of("one", CARD).values(), *keys.of("two", CARD).values()]
    assert len(set(found)) == 2 * len(NAMES)


def test_the_identity_of_an_encoder_holds_weights_and_preprocessing(tmp_path):
    folder = named_encoder("miniature")
    plain, squashed = (encoder_identity(folder, name) for name in ("own", "tgve"))
    assert plain["weights"] == squashed["weights"]
    assert plain["preprocessing"]["squash"] is None
    assert squashed["preprocessing"]["squash"] == (480, 480)
    assert encoder_identity(str(tmp_path / "absent"), "own") is None
    assert encoder_identity("open_clip:ViT-B-32/absent.safetensors", "own") is None


def test_the_identity_of_open_clip_follows_its_file(tmp_path):
    (tmp_path / "one.bin").write_bytes(b"one")
    (tmp_path / "two.bin").write_bytes(b"two")
    one, two = (
        encoder_identity(f"open_clip:ViT-B-32/{tmp_path}/{n}.bin", "own") for n in ("one", "two")
    )
    assert one["weights"].keys() == {"ViT-B-32"}
    assert one != two


@pytest.mark.parametrize("form", ["{preset: tgve}", '["preset:tgve"]'])
def test_a_preset_chooses_metrics_encoder_geometry_and_flow(tmp_path, form):
    spec = checked(tmp_path, form).spec
    assert spec.metrics == PRESETS["tgve"].metrics
    assert (spec.encoder, spec.geometry, spec.flow) == (LARGE, "tgve", "dis")


def test_what_is_named_beside_a_preset_wins(tmp_path):
    spec = checked(tmp_path, '["preset:vbench"]', "encoder: miniature", "flow: dis").spec
    assert (spec.encoder, spec.geometry, spec.flow) == ("miniature", "vbench", "dis")


def test_without_a_preset_the_defaults_hold(tmp_path):
    spec = checked(tmp_path, "[flicker/mae]").spec
    assert (spec.encoder, spec.geometry, spec.flow) == ("auto", "own", "dis")


def test_presets_and_ids_mix_and_nothing_is_listed_twice():
    found = choose(["flicker/mae", "preset:fresco"], METRICS, "auto", "auto", "dis")
    assert found == Choice(("flicker/mae", *PRESETS["fresco"].metrics), BASE, "own", "dis")
    again = choose(["clip_frame/consecutive", "preset:fatezero"], METRICS, "auto", "auto", "auto")
    assert again.metrics == PRESETS["fatezero"].metrics


def test_a_preset_without_use_for_an_encoder_names_none():
    assert choose(["preset:lai2018"], METRICS, "auto", "auto", "auto").encoder == "auto"
    both = choose(["preset:lai2018", "preset:tgve"], METRICS, "auto", "auto", "auto")
    assert (both.encoder, both.geometry) == (PUBLISHED_ENCODER, "tgve")


def test_presets_that_disagree_are_told_until_the_setting_is_named():
    with pytest.raises(UserError) as caught:
        choose(["preset:tgve", "preset:fatezero"], METRICS, "auto", "auto", "auto")
    assert [problem.where for problem in caught.value.problems] == ["encoder", "geometry"]
    assert "tgve wants tgve, fatezero wants fatezero" in str(caught.value)
    found = choose(["preset:tgve", "preset:fatezero"], METRICS, BASE, "own", "auto")
    assert (found.encoder, found.geometry) == (BASE, "own")


@pytest.mark.parametrize(
    ("metrics", "lines", "message"),
    [
        (
            '["flicker/mae", "preset:tvge"]',
            [],
            "s.yaml:4:26: metrics[1]: unknown preset 'tvge' (allowed: tgve, fatezero, vbench, "
            "vbench_i2v, lai2018, controlvideo, fresco). did you mean 'tgve'?",
        ),
        ("[tgve]", [], "metrics[0]: unknown metric 'tgve'"),
        ("[tgve]", [], "write preset:tgve"),
        ("{presets: tgve}", [], "must be a list of metrics, or {preset: NAME}"),
        ("[flicker/mae]", ["geometry: squash"], "s.yaml:5:11: geometry: unknown geometry 'squash'"),
        ("[flicker/mae]", ["flow: rafft"], "did you mean 'raft'?"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, monkeypatch, metrics, lines, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        checked(tmp_path, metrics, *lines)
    assert message in str(caught.value)
