"""Verbs, exit codes and what they print."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_parts import fake_parts, fake_report

from crossframe.cli import Tools, main

SPEC = """\
name: tiny
title: A tiny grid
method: noisy
sentinels: [source]
grid: {attention.pattern: [individual, full]}
clips: [world:tiny/0]
clip: {frames: 2, size: 8}
metrics: [psnr/mean_error]
"""


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("tiny.yaml").write_text(SPEC, encoding="utf-8")

    def invoke(*words):
        return CliRunner().invoke(main, words, obj=Tools(fake_parts, fake_report))

    return invoke


def test_run_reports_and_says_where(cli):
    result = cli("run", "tiny.yaml")
    assert result.exit_code == 0, result.output
    assert "3 cells: 3 run; time: unknown" in result.output
    assert "cells: 3 done" in result.output
    assert "| row |" in result.output
    assert f"page: {Path('runs/tiny/report/index.html').resolve()}" in result.output
    assert "3 cells: 3 cached" in cli("run", "tiny.yaml").output


def test_run_with_failures_exits_1_and_reports_still(cli):
    result = cli("run", "tiny.yaml", "--set", "base.fail=true")
    assert result.exit_code == 1
    assert "failed (2 cells" in result.output
    assert "the fake was told to fail" in result.output
    assert "page:" in result.output


def test_bad_specs_exit_2(cli):
    result = cli("run", "tiny.yaml", "--set", "metrics=[psnr]", "--set", "seed=1")
    assert result.exit_code == 2
    assert "2 problems:" in result.output
    assert "Traceback" not in result.output


def test_an_unknown_spec_exits_2(cli):
    result = cli("plan", "nothing.yaml")
    assert result.exit_code == 2
    assert "neither a file nor a shipped spec" in result.output


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "words",
    [("plan", "s"), ("run", "s"), ("score", "--edited", "v"), ("tuned", "s", "t", "--clip", "c")],
)
def test_an_interrupt_ends_any_verb_with_130_and_a_line(cli, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["crossframe", *words])
    result = CliRunner().invoke(main, words, obj=Tools(interrupted, fake_report))
    assert result.exit_code == 130
    assert result.output.startswith("\ninterrupted")
    assert "Aborted" not in result.output
    assert ("Resume with:\n  crossframe " in result.output) == (words[0] == "run")


def test_plan_counts_states(cli):
    assert "3 cells: 3 run" in cli("plan", "tiny.yaml").output
    cli("run", "tiny.yaml", "--limit", "1")
    result = cli("plan", "tiny.yaml", "--json")
    record = json.loads(result.output)
    rest = dict.fromkeys(("score", "retry", "failed", "skipped"), 0)
    assert record["counts"] == {"cached": 1, "run": 2, **rest}
    assert {cell["state"] for cell in record["cells"]} == {"cached", "run"}


def test_plan_gives_the_reason_for_skipping(cli):
    result = cli("plan", "tiny.yaml", "--set", "clips=[missing.mp4]")
    assert result.exit_code == 0
    assert "missing.mp4: no such file" in result.output


def test_report_takes_a_folder_or_a_spec(cli):
    cli("run", "tiny.yaml")
    assert "page:" in cli("report", "runs/tiny").output
    assert "page:" in cli("report", "tiny.yaml").output
    Path("empty").mkdir()
    assert cli("report", "empty").exit_code == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("list",), "psnr/mean_error"),
        (("list", "methods"), "paper, repo"),
        (("list", "presets"), "steps=3"),
        (("describe", "noisy"), "attention.alpha"),
        (("describe", "psnr/mean_error"), "direction: lower"),
        (("schema",), '"enum": ['),
        (("--version",), "crossframe"),
    ],
)
def test_lists(cli, words, text):
    result = cli(*words)
    assert result.exit_code == 0, result.output
    assert text in result.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("list", "method"), "did you mean 'methods'?"),
        (("describe", "nosy"), "did you mean 'noisy'?"),
        (("miniature", "chek"), "did you mean 'check'?"),
    ],
)
def test_wrong_names_exit_2(cli, words, text):
    result = cli(*words)
    assert result.exit_code == 2
    assert text in result.output


@pytest.fixture
def networks(tmp_path):
    """The spec's `backbone` and `encoder` for random networks of the real classes."""
    from tiny_backbone import write_miniature

    root = tmp_path / "networks"
    write_miniature(root)
    look = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (root / "clip" / "preprocessor_config.json").write_text(json.dumps(look))
    backbone = {name: str(root / name) for name in ("unet", "vae", "scheduler")}
    backbone |= {name: str(root / "clip") for name in ("text_encoder", "tokenizer")}
    edges = {"controlnet": {"edges": str(root / "controlnet-edges")}}
    return {"backbone": {**backbone, **edges}, "encoder": str(root / "clip")}


REAL = """\
name: real
method: controlvideo
sentinels: [source, frozen]
base: {steps: 2, controls: [edges], guidance.scale: 2.0}
grid: {attention.pattern: [individual, {keyframes: [0, -1]}, full]}
clips: [world:heldout/0, clip.mp4, missing.mp4]
clip: {frames: 3, size: 16}
prompts: {clip: a red star}
metrics: [clip_frame/consecutive, clip_text/cosine, warp/source_flow, motion/ratio]
report: {rows: attention.pattern, baseline: individual}
claims:
  - {text: full < individual on warp/source_flow, source: a paper}
"""


def test_the_real_parts_together(cli, networks, clip_mp4):
    Path("clip.mp4").write_bytes(Path(clip_mp4).read_bytes())
    Path("real.yaml").write_text(REAL + json.dumps(networks)[1:-1].replace(', "enc', '\n"enc'))
    result = CliRunner().invoke(main, ["run", "real.yaml"])
    assert result.exit_code == 1, result.output
    assert "cells: 10 done, 5 failed" in result.output
    assert "missing.mp4: no such file" in result.output
    records = [json.loads(p.read_text()) for p in Path("runs/real").glob("cells/*/result.json")]
    by_row = {(r["row"], r["clip"]): r["metrics"] for r in records}
    assert {row for row, _ in by_row} == {
        "source",
        "frozen",
        "individual",
        "keyframes[0,-1]",
        "full",
    }
    for (_, clip), metrics in by_row.items():
        missing = {name for name, score in metrics.items() if "value" not in score}
        assert missing == ({"motion/ratio"} if clip == "clip" else set()), metrics  # it is grey
    frozen = by_row["frozen", "world:heldout/0"]
    assert frozen["clip_frame/consecutive"]["value"] == pytest.approx(1, abs=1e-5)
    assert frozen["motion/ratio"]["value"] == pytest.approx(0, abs=1e-5)
    full, individual = (by_row[row, "clip"] for row in ("full", "individual"))
    assert full["warp/source_flow"] != individual["warp/source_flow"]
    assert Path("runs/real/report/index.html").exists()
    again = CliRunner().invoke(main, ["run", "real.yaml"])
    assert "cells: 0 done, 10 cached, 5 failed" in again.output
