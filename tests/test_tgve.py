"""TGVE-2023 from a user's copy to a scored submission, on a copy of two clips made here."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fake_parts import fake_report
from PIL import Image
from scipy.ndimage import gaussian_filter

from crossframe.cli import Tools, main
from crossframe.files import read_json, write_json
from data_manifests.prompts import TGVE_CAPTION, TGVE_EDITS, TGVE_NAME
from data_manifests.submissions import entry_problems, wanted_entries, write_entry

SIDE, FRAMES = 32, 4
SUBSETS = {"stunt": "DAVIS_480p", "swans": "videvo_480p"}
PROMPTS = {
    "stunt": ["a red star on a striped background", "a blue ring on a dotted background",
              "a red ring on a striped background", "a blue ring on a dotted background"],
    "swans": ["a green ring", "a blue star", "a red cross", "a green star"],
}  # fmt: skip
SPEC = f"""
name: {{name}}
method: source
clips: ["tgve:stunt", "tgve:swans"]
clip: {{{{frames: {{frames}}, size: {SIDE}, start: {{start}}}}}}
prompt: [style, object, background, multiple]
metrics: [flicker/mae]
"""


def call(*words, code=0):
    """Run the command line; its report is a stand-in, since none is looked at here."""
    tools = Tools(write_report=fake_report)
    done = CliRunner().invoke(main, list(map(str, words)), obj=tools, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def clip_frames(seed):
    """Smooth coloured noise that drifts: JPEG keeps it well."""
    rng = np.random.default_rng(seed)
    wide = gaussian_filter(rng.random((SIDE, SIDE + FRAMES * 3, 3)), (4, 4, 0), mode="wrap")
    levels = (255 * (wide - wide.min()) / np.ptp(wide)).astype(np.uint8)
    return np.stack([levels[:, 3 * t : 3 * t + SIDE] for t in range(FRAMES)])


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A user's copy in the challenge's layout; $CROSSFRAME_DATA leads to it."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "tgve2023"
    rows = []
    for index, (clip, subset) in enumerate(SUBSETS.items()):
        place = folder / subset / "480p_frames" / clip
        place.mkdir(parents=True)
        for t, frame in enumerate(clip_frames(index)):
            Image.fromarray(frame).save(place / f"{t:05d}.png")
        rows += [[f"{subset[:5]} Videos:"], [clip, "a star", *PROMPTS[clip]]]
    with open(folder / "LOVEU-TGVE-2023_Dataset.csv", "w", newline="") as file:
        csv.writer(file).writerows([[TGVE_NAME, TGVE_CAPTION, *TGVE_EDITS.values()], *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFRAME_DATA", str(root))
        yield folder


@pytest.fixture(scope="module")
def run(copy, tmp_path_factory):
    """Function (name, frames, start) -> a finished run folder."""
    root = tmp_path_factory.mktemp("runs")

    def made(name, frames=FRAMES, start=0):
        (root / f"{name}.yaml").write_text(SPEC.format(name=name, frames=frames, start=start))
        call("run", root / f"{name}.yaml", "--out", root / name, "--engine", "inline")
        return root / name

    return made


@pytest.fixture(scope="module")
def whole(run):
    return run("whole")


def pictures(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.jpg"))]


def test_there_are_304_entries_in_three_subsets(tmp_path):
    entries = list(wanted_entries())
    assert len(entries) == len(set(entries)) == 304
    problems = entry_problems(tmp_path)
    assert len(problems) == 304
    counts = [sum(f"/{subset}_480p/" in p.where for p in problems)
              for subset in ("DAVIS", "youtube", "videvo")]  # fmt: skip
    assert counts == [16 * 4, 23 * 4, 37 * 4]


def test_four_kinds_of_prompt_are_planned_and_equal_ones_once(copy, whole):
    cells = read_json(whole / "plan.json")
    asked = {clip: {c["prompt"] for c in cells if c["clip"] == f"tgve:{clip}"} for clip in SUBSETS}
    assert asked == {clip: set(texts) for clip, texts in PROMPTS.items()}
    assert len(cells) == 3 + 4


def test_a_run_becomes_a_submission_that_scores(copy, whole, tmp_path):
    said = call("tgve", "export", whole, "--out", tmp_path / "mine")
    assert "8 of 304 videos written (2 style, 2 object, 2 background, 2 multiple)" in said
    assert "304 videos are absent or short" in said
    folders = sorted(path.relative_to(tmp_path / "mine") for path in tmp_path.glob("mine/*/*/*"))
    assert folders == sorted(
        Path(subset, clip, kind) for clip, subset in SUBSETS.items() for kind in TGVE_EDITS
    )
    for index, (clip, subset) in enumerate(SUBSETS.items()):
        for kind in TGVE_EDITS:
            folder = tmp_path / "mine" / subset / clip / kind
            assert [p.name for p in sorted(folder.iterdir())] == [
                f"{t:05d}.jpg" for t in range(FRAMES)
            ]
            error = np.abs(np.stack(pictures(folder)) - clip_frames(index).astype(float))
            assert error.mean() < 2
    told = call(
        "score", "--edited", tmp_path / "mine", "--source", copy, "--json",
        "--prompts", copy / "LOVEU-TGVE-2023_Dataset.csv", "--encoder", "miniature",
        "--preset", "tgve", "--metrics", "psnr",
    )  # fmt: skip
    scores = json.loads(told)
    assert len(scores["videos"]) == 8
    for video in scores["videos"]:
        kinds = dict(zip(TGVE_EDITS, PROMPTS[video["clip"]], strict=True))
        assert video["prompt"] == kinds[video["kind"]]
        assert video["metrics"]["psnr"]["value"] > 35
        assert -1 <= video["metrics"]["clip_frame/all_pairs"]["value"] <= 1
        assert "value" in video["metrics"]["clip_text/tgve"]
    same = {
        video["metrics"]["clip_text/tgve"]["value"]
        for video in scores["videos"]
        if video["clip"] == "stunt" and video["kind"] in ("object", "multiple")
    }
    assert len(same) == 1


def test_runs_on_stretches_of_clips_are_joined(copy, whole, run, tmp_path):
    first, second = run("first", 2), run("second", 2, 2)
    call("tgve", "export", second, first, "--out", tmp_path / "joined")
    call("tgve", "export", whole, "--out", tmp_path / "whole")
    for path in tmp_path.glob("whole/*/*/*/*.jpg"):
        other = tmp_path / "joined" / path.relative_to(tmp_path / "whole")
        assert other.read_bytes() == path.read_bytes()
    gap = call("tgve", "export", second, "--out", tmp_path / "gap", code=1)
    assert "stunt/style: frame 0 comes from no run" in gap
    twice = call("tgve", "export", first, first, "--out", tmp_path / "twice", code=1)
    assert "stunt/style: comes from two runs" in twice
    assert not list(tmp_path.glob("twice/*"))


def test_what_is_not_done_or_damaged_is_told_and_the_rest_written(run, tmp_path):
    root = run("hurt")
    cells = read_json(root / "plan.json")
    first, second = [cell for cell in cells if cell["clip"] == "tgve:swans"][:2]
    (root / "cells" / first["key"][:16] / "result.json").unlink()
    frame = next((root / "cells" / second["key"][:16] / "frames").glob("*.png"))
    Image.new("RGB", (SIDE, SIDE)).save(frame)
    said = call("tgve", "export", root, "--out", tmp_path / "mine", code=1)
    assert "6 of 304 videos written" in said
    assert "tgve:swans: 'a green ring': is not done: not run yet" in said
    assert "swans/object: its stored frames are damaged" in said


def test_rows_seeds_and_prompts_that_are_not_there_are_told(whole, tmp_path):
    out = tmp_path / "mine"
    export = ("tgve", "export", whole, "--out", out)
    assert "has no row 'sorce'" in call(*export, "--row", "sorce", code=2)
    assert "has no cell of seed 3" in call(*export, "--seed", 3, code=2)
    other = tmp_path / "run"
    for name in ("spec.json", "plan.json"):
        write_json(other / name, read_json(whole / name))
    spec = read_json(whole / "spec.json")
    rows = [{**spec["rows"][0], "label": label} for label in ("one", "two")]
    write_json(other / "spec.json", {**spec, "rows": rows})
    cells = [
        {**cell, "row": "one" if i else "two"}
        for i, cell in enumerate(read_json(whole / "plan.json"))
    ]
    write_json(other / "plan.json", cells)
    assert "has 2 rows (allowed: one, two). name one with --row" in call(
        "tgve", "export", other, "--out", out, code=2
    )
    own = [{**cell, "prompt": "my own words"} for cell in read_json(whole / "plan.json")]
    write_json(whole.parent / "own" / "plan.json", own)
    write_json(whole.parent / "own" / "spec.json", spec)
    for name in ("cells", "clips"):
        (whole.parent / "own" / name).symlink_to(whole / name)
    said = call("tgve", "export", whole.parent / "own", "--out", out, code=1)
    assert "tgve:stunt: was given a prompt of its own: 'my own words'" in said
    assert not out.exists()


def test_a_submission_is_checked_by_names_and_numbers(tmp_path):
    frames = np.zeros((32, 8, 8, 3), np.uint8)
    write_entry(tmp_path, "stunt", "style", frames)
    write_entry(tmp_path, "stunt", "object", frames[:30])
    folder = write_entry(tmp_path, "stunt", "multiple", frames)
    (folder / "00031.jpg").rename(folder / "00032.jpg")
    said = call("tgve", "check", tmp_path, code=1)
    assert f"{tmp_path}: 1 of 304 videos complete" in said
    told = [str(problem) for problem in entry_problems(tmp_path) if "/stunt/" in problem.where]
    assert told == [
        f"{tmp_path}/DAVIS_480p/stunt/object: holds 30 frames (allowed: 32)",
        f"{tmp_path}/DAVIS_480p/stunt/background: is absent, or holds no .jpg",
        f"{tmp_path}/DAVIS_480p/stunt/multiple: has files such as 00000.jpg, 00032.jpg "
        "(allowed: 00000.jpg to 00031.jpg)",
    ]


def test_a_video_appears_whole_in_place_of_an_older_one(tmp_path):
    frames = np.full((3, 8, 8, 3), (200, 40, 90), np.uint8)
    folder = write_entry(tmp_path, "stunt", "style", np.concatenate([frames, frames]))
    assert write_entry(tmp_path, "stunt", "style", frames) == folder
    assert [path.name for path in sorted(folder.parent.iterdir())] == ["style"]
    found = pictures(folder)
    assert len(found) == 3
    assert np.abs(np.stack(found) - frames.astype(int)).max() <= 3
