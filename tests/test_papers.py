"""Published tables as specs: ours stand beside the printed numbers, at one scale or another."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_parts import fake_parts
from reports_store import CONSISTENCY, INFOS, WARP, Shape, write_store

from ablations.check import load_spec
from ablations.spec import Spec
from ablations.specfile import read_document
from crossframe.cli import main
from crossframe.errors import UserError
from crossframe.files import read_json, write_json
from crossframe.verbs.common import find_spec, shipped_papers
from reports.load import Run, load_run
from reports.published import paper_csv, paper_markdown, paper_of

SCALED = """\
name: scaled
method: noisy
base: {steps: 2}
grid: {attention.pattern: [individual, full]}
clips: [world:tiny/0]
clip: {frames: 2, size: 8}
metrics: [brightness]
scale: small
scales:
  small: {}
  large: {name: scaled-large, base.steps: 9, clip.frames: 3, clips: [world:tiny/0..1]}
"""

PAPER = {
    "work": "A paper",
    "place": "Table 9",
    "setting": "",
    "columns": [
        {"name": "FC", "metric": CONSISTENCY, "factor": 0.01},
        {"name": "Minutes", "metric": "", "factor": 1.0},
    ],
    "rows": {"individual": [89.94, 1.2], "full": [None, 3.0], "smoother": [96.83, 3.5]},
    "absent": {"smoother": "not built"},
    "notes": ["Other prompts."],
}


@pytest.mark.parametrize("name", sorted(shipped_papers()))
def test_claims_agree_with_the_numbers_of_their_own_paper(name: str) -> None:
    """The printed numbers satisfy every comparison; a statement in words has none on any row."""
    from ablations.claims import parse_claim

    spec = Spec.model_validate_json(json.dumps(read_document(find_spec(name)).data))
    assert spec.paper is not None
    columns = {column.metric: place for place, column in enumerate(spec.paper.columns)}
    for entry in spec.claims:
        claim = parse_claim(entry.text)
        rows, place = spec.paper.rows, columns.get(claim.metric)
        printed = {
            row: None if place is None else rows[row][place] for row in claim.rows if row in rows
        }
        if not entry.paper:
            assert set(printed.values()) <= {None}
            continue
        assert printed == entry.paper
        for pair in claim.comparisons:
            gap = printed[pair.left] - printed[pair.right]
            assert gap < 0 if pair.relation == "<" else gap > 0


def test_numbers_of_controlvideos_table_3() -> None:
    paper = read_document(find_spec("controlvideo-table3")).data["paper"]
    assert paper["rows"]["individual"] == [89.94, 30.79, 20.13, 1.2]
    assert paper["rows"]["full"] == [95.36, 30.76, 5.93, 3.0]


def scaled(tmp_path: Path, *overrides: str) -> Spec:
    (tmp_path / "s.yaml").write_text(SCALED, encoding="utf-8")
    return load_spec(tmp_path / "s.yaml", overrides, fake_parts()).spec


def test_one_line_changes_the_scale_and_set_has_the_last_word(tmp_path: Path) -> None:
    small, large = scaled(tmp_path), scaled(tmp_path, "scale=large")
    assert (small.name, small.base["steps"], small.clip.frames) == ("scaled", 2, 2)
    assert (large.name, large.base["steps"], large.clip.frames) == ("scaled-large", 9, 3)
    assert scaled(tmp_path, "scale=large", "base.steps=4").base["steps"] == 4


def test_an_unknown_scale_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no scale 'larg' \(allowed: small, large\).*'large'"):
        scaled(tmp_path, "scale=larg")


@pytest.mark.parametrize(
    ("paper", "message"),
    [
        ("{work: w, place: p, columns: [{name: a}], rows: {full: [1, 2]}}", "1 numbers are needed"),
        ("{work: w, place: p, columns: [{name: a}], rows: {ful: [1]}}", "did you mean 'full'"),
        ("{work: w, place: p, columns: [{name: a, metric: x}], rows: {}}", "metric of this spec"),
    ],
)
def test_a_wrong_paper_table_is_told(tmp_path: Path, paper: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scaled(tmp_path, f"paper={paper}")


def run_with_paper(root: Path) -> Run:
    write_store(root, Shape(clips=8, seeds=1, frames=2, side=8))
    write_json(root / "spec.json", {**read_json(root / "spec.json"), "paper": PAPER})
    return load_run(root, INFOS)


def test_ours_stand_beside_the_papers_in_its_unit(tmp_path: Path) -> None:
    run = run_with_paper(tmp_path)
    paper = paper_of(run)
    assert paper is not None
    text = paper_markdown(run, paper)
    assert "| row | FC, paper | FC, here | Minutes, paper |" in text
    # 0.80 + 0.004 * 3.5 clips on average, times 100
    assert "| individual | 89.94 | 81.40 [" in text
    assert "| full | – | 96.40 [" in text
    assert "| smoother | 96.83 | – | 3.5 |" in text
    assert "- smoother: not built." in text
    assert f"- **supported** `individual > first+previous > full on {WARP}`" in text
    assert "- **contradicted**" in text
    lines = {(x["row"], x["column"]): x for x in csv.DictReader(io.StringIO(paper_csv(run, paper)))}
    ours = lines["individual", "FC"]
    assert (ours["paper"], ours["metric"], ours["n"]) == ("89.94", CONSISTENCY, "8")
    assert float(ours["mean"]) == pytest.approx(0.814)


def test_paper_report_prints_a_run_folder(tmp_path: Path) -> None:
    run_with_paper(tmp_path)
    done = CliRunner().invoke(main, ["paper", "report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "# A paper: Table 9" in done.output


def test_paper_list_names_work_place_and_scales() -> None:
    done = CliRunner().invoke(main, ["paper", "list"])
    line = next(x for x in done.output.splitlines() if x.startswith("controlvideo-table3"))
    assert "arXiv 2305.13077, Table 3 (scales: miniature, sd15)" in line


def test_paper_run_refuses_an_unknown_name() -> None:
    done = CliRunner().invoke(main, ["paper", "run", "controlvideo-table4"])
    assert done.exit_code == 2
    assert "did you mean 'controlvideo-table3'" in done.output


def test_paper_report_without_a_run_says_what_makes_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["paper", "report", "controlvideo-table3"])
    assert done.exit_code == 2
    assert "crossframe paper run controlvideo-table3" in done.output


def test_figure_lists_draws_and_explains(tmp_path: Path) -> None:
    run = run_with_paper(tmp_path / "run")
    listed = CliRunner().invoke(main, ["figure", str(run.root)])
    assert "bars: Mean of every metric" in listed.output
    out = tmp_path / "x.svg"
    drawn = CliRunner().invoke(main, ["figure", f"{run.root}#strips", "--out", str(out)])
    assert drawn.exit_code == 0, drawn.output
    assert out.read_text(encoding="utf-8").startswith("<?xml")
    wrong = CliRunner().invoke(main, ["figure", f"{run.root}#heatmap"])
    assert wrong.exit_code == 2
