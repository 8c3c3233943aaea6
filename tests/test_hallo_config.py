"""Options of Hallo: what the presets differ in, and what cannot be asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from ablations.stage_versions import OF_FAMILY, STAGES, frame_stages
from methods import METHODS, method_config
from methods.families import FAMILIES
from methods.hallo.config import HalloConfig


def config(**given: Any) -> HalloConfig:
    return HalloConfig.model_validate(given)


def flat(options: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def differences(one: str, other: str) -> set[str]:
    """Paths of the options in which two presets differ."""
    first, second = (
        dict(flat(config(preset=name).model_dump(exclude={"preset"}))) for name in (one, other)
    )
    assert first.keys() == second.keys()
    return {path for path in first if first[path] != second[path]}


def test_it_is_a_method_of_its_family() -> None:
    assert method_config("hallo") is HalloConfig
    assert METHODS.entry("hallo").extra["family"] in FAMILIES


def test_presets_differ_in_what_they_are_named_for() -> None:
    rows = {"quirks.reference_rows", "quirks.token_rows"}
    rounded = {"quirks.half_bank", "regions.levels_8bit"}
    pictures = {"quirks.large_boxes", "quirks.bright_twice"}
    assert differences("repo", "paper") == rows | rounded | pictures
    assert differences("paper", "fixed") == {"schedule.betas"}


def test_released_settings() -> None:
    made = config(preset="repo")
    assert (made.steps, made.eta, made.guidance.scale) == (40, 0.0, 3.5)
    assert (made.segment.length, made.motion.frames, made.motion.source) == (16, 2, "previous")
    assert (made.regions.face_ratio, made.regions.lip_ratio) == (1.2, 2.0)
    assert (made.schedule.betas, made.schedule.zero_snr) == ("linear", True)
    assert config(preset="fixed").schedule.betas == "scaled_linear"


def test_a_part_of_a_group_leaves_the_rest_to_the_preset() -> None:
    made = config(preset="repo", quirks={"token_rows": "fixed"}, scales={"lip": 0})
    assert made.quirks.reference_rows == "parity"
    assert tuple(made.scales.model_dump().values()) == (1.0, 1.0, 0.0)


def test_every_switch_is_described() -> None:
    schema = HalloConfig.model_json_schema()
    groups = [schema, *schema["$defs"].values()]
    bare = [name for group in groups for name, p in group["properties"].items()
            if "description" not in p and name not in ("min", "max", "shape")]  # fmt: skip
    assert bare == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"motion": {"frames": 5}, "segment": {"length": 4}}, "more than a segment's 4"),
        ({"preset": "repo", "reference": {"pattern": "first+reference"}}, "released order of rows"),
        ({"reference": {"pattern": "frist"}}, "frist"),
        ({"regions": {"face": [0.1, 0.9, 0.1, 0.9]}}, "both boxes"),
        (
            {"regions": {"face": [0.9, 0.1, 0.1, 0.9], "lip": [0.4, 0.6, 0.6, 0.7]}},
            "x0 < x1",
        ),
        (
            {
                "guidance": {
                    "identity": "kept",
                    "audio": "kept",
                    "reference": "kept",
                    "locator": "kept",
                }
            },
            "keeps everything",
        ),
    ],
)
def test_what_cannot_be_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**given)


def test_patterns_are_free_where_rows_are_right() -> None:
    pattern = {"pattern": "first+reference"}
    assert config(preset="fixed", reference=pattern).reference.pattern == "first+reference"
    assert not config(preset="repo", guidance={"scale": 1.0}, reference=pattern).guided


def test_sound_is_shared_by_what_pads_it() -> None:
    whole, short = config(), config(segment={"padding": "shorter"})
    assert (whole.shared_work(0), short.shared_work(0)) == ({"sound": 16}, {"sound": 1})
    assert config(segment={"length": 8}).padded_to == 8
    assert set(whole.shared_work(0)) <= set(STAGES)
    assert OF_FAMILY["sound"] == METHODS.entry("hallo").extra["family"]


def test_the_stage_of_sound_is_no_part_of_the_keys_of_other_families() -> None:
    assert frame_stages(STAGES, "hallo") == {n: v for n, v in STAGES.items() if n != "features"}
    for other in ("image", "svd", None):
        assert frame_stages(STAGES, other).keys() == STAGES.keys() - {"features", "sound"}
