import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from reports_store import BASE, CONSISTENCY, INFOS, MOTION, WARP, Shape, write_store

from crossframe.errors import UserError
from reports import sheets
from reports.crosstab import crosstab, crosstab_sheet
from reports.load import MetricInfo, Run, load_run
from reports.tables import (
    cell_frame,
    cost_csv,
    cost_sheet,
    difference_csv,
    difference_sheet,
    differences,
    escape_latex,
    show_number,
    sizes,
    summarise,
    to_csv,
    to_latex,
    to_markdown,
)

ENGINE = next(filter(None, map(shutil.which, ("pdflatex", "lualatex", "xelatex"))), "")
SMALL = Shape(clips=2, frames=2, side=8)


def run_of(root: Path, shape: Shape = SMALL) -> Run:
    return load_run(write_store(root, shape), INFOS)


MARKDOWN = """\
| attention.pattern | clip_frame/consecutive ↑ | warp/source_flow ↓ | motion/ratio → 1 | clips | cells |
| :-- | --: | --: | --: | --: | --: |
| individual | 0.802 [0.777, 0.828] | 0.092 [0.067, 0.118] | 1.603 [1.577, 1.628] | 2 | 4 |
| first+previous | <ins>0.903</ins> [0.877, 0.928] | <ins>0.062</ins> [0.037, 0.088] | <ins>1.202</ins> [1.177, 1.228] | 2 | 4 |
| full | **0.952** [0.927, 0.978] | **0.053** [0.027, 0.078] | **1.052** [1.027, 1.078] | 2 | 4 |
| *source* | 0.972 [0.947, 0.997] | 0.003 [-0.022, 0.028] | 1.002 [0.977, 1.027] | 2 | 2 |
| *frozen* | 1.000 [1.000, 1.000] | 0.122 [0.097, 0.147] | 0.000 [0.000, 0.000] | 2 | 2 |
"""  # noqa: E501

LATEX = r"""
\begin{tabular}{lrrrrr}
\toprule
attention.pattern & \shortstack[r]{clip\_frame/\\consecutive $\uparrow$} & \shortstack[r]{warp/\\source\_flow $\downarrow$} & \shortstack[r]{motion/\\ratio $\rightarrow$ 1} & clips & cells \\
\midrule
individual & 0.802 & 0.092 & 1.603 & 2 & 4 \\
 & {\scriptsize {[}0.777, 0.828]} & {\scriptsize {[}0.067, 0.118]} & {\scriptsize {[}1.577, 1.628]} &  &  \\[2pt]
"""  # noqa: E501


def test_markdown_is_this_text(tmp_path: Path) -> None:
    text = to_markdown(summarise(run_of(tmp_path)))
    assert text.startswith(MARKDOWN + "\n")
    assert "never absolute paper values" in text
    for info in INFOS.values():
        assert f"- `{info.id}`: {info.definition}" in text


def test_latex_is_this_text(tmp_path: Path) -> None:
    text = to_latex(summarise(run_of(tmp_path)), "Frame attention & <friends>", "tab:x")
    assert LATEX in text
    assert r"\caption{Frame attention \& \textless{}friends\textgreater{}.}" in text
    assert r"full & \textbf{0.952} & \textbf{0.053}" in text
    assert r"95 \% interval" in text


def test_costs_stand_apart_so_that_equal_results_give_equal_tables(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    before = summarise(run)
    for cell in run.cells:
        cell.record["cost"].update(seconds_per_frame=7.25, peak_memory_bytes=3_000_000_000)
    after = summarise(run)
    assert to_csv(after) == to_csv(before)
    assert to_markdown(after) == to_markdown(before)
    assert cost_csv(after).splitlines()[1] == "individual,4,7.25,3000000000.0"
    assert "| individual | 7.250 | 3.00 | 4 |" in sheets.to_markdown(cost_sheet(after))
    assert cell_frame(run)["peak_memory_bytes"].unique() == [3e9]


def test_csv_keeps_full_precision_and_counts(tmp_path: Path) -> None:
    lines = {
        line["row"]: line
        for line in csv.DictReader(io.StringIO(to_csv(summarise(run_of(tmp_path)))))
    }
    full = lines["full"]
    assert float(full[WARP]) == pytest.approx(BASE["full"][WARP] + 0.002 + 0.0005, abs=1e-15)
    assert (full[f"{WARP}:n"], full["done"], full["planned"]) == ("2", "4", "4")
    assert lines["source"]["sentinel"] == "true"


def test_latex_escapes_everything_that_latex_reads() -> None:
    assert escape_latex("a_b & 5% #1 {x} $y$") == r"a\_b \& 5\% \#1 \{x\} \$y\$"
    assert escape_latex("\\~^") == r"\textbackslash{}\textasciitilde{}\textasciicircum{}"


@pytest.mark.parametrize(
    ("metric", "best"), [(CONSISTENCY, "full"), (WARP, "full"), (MOTION, "full")]
)
def test_best_follows_the_direction_and_leaves_sentinels_out(
    tmp_path: Path, metric: str, best: str
) -> None:
    table = summarise(run_of(tmp_path))
    ranks = {line.row.label: line.values[metric].rank for line in table.lines}
    assert ranks == {"individual": 0, "first+previous": 2, best: 1, "source": 0, "frozen": 0}


def test_a_target_is_approached_from_both_sides() -> None:
    info = MetricInfo("m", "target", "", target=1.0)
    assert info.badness(0.9) < info.badness(1.2) < info.badness(0.5)


def test_equal_rows_share_the_first_place(tmp_path: Path) -> None:
    flat = replace(SMALL, score=lambda metric, row, clip, seed: 0.5)
    table = summarise(run_of(tmp_path, flat))
    assert {line.values[WARP].rank for line in table.ranked} == {1}


def test_a_row_that_lacks_a_clip_shows_its_n_and_is_not_ranked(tmp_path: Path) -> None:
    shape = replace(SMALL, skip=[("full", 1, 0)], fail={("full", 1, 1): "OutOfMemoryError"})
    run = run_of(tmp_path, shape)
    table = summarise(run)
    line = next(line for line in table.lines if line.row.label == "full")
    assert (line.values[WARP].rank, line.clips, line.cells) == (0, 1, "2/4, 1 failed")
    assert "| full | 0.950 |" in to_markdown(table)
    notes = " ".join(table.notes)
    assert "14 of 16 cells are done, 1 failed, 1 have not run" in notes
    assert "full: 2 of 4 (1 not run, 1 failed)" in notes
    states = cell_frame(run).set_index(["row", "clip", "seed_index"])
    assert states.loc[("full", "world:heldout/1", 1), "reason"] == "OutOfMemoryError"
    assert states.loc[("full", "world:heldout/1", 0), "state"] == "missing"


def test_a_number_on_other_clips_than_its_line_says_so(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    first = run.cells_of("full")
    for cell in [cell for cell in first if cell.clip == "world:heldout/0"]:
        cell.record["metrics"][WARP] = {"unavailable": "flow covers 12 % of the frame"}
    table = summarise(run)
    assert "n=1" in next(s for s in to_markdown(table).splitlines() if s.startswith("| full"))
    assert any("unavailable for 2 cells (full 2): flow covers 12 %" in note for note in table.notes)


def test_an_unavailable_metric_says_why(tmp_path: Path) -> None:
    shape = replace(SMALL, unavailable={CONSISTENCY: "weights absent; get them with X"})
    table = summarise(run_of(tmp_path, shape))
    assert "| individual | – | 0.092" in to_markdown(table)
    note = f"{CONSISTENCY} is unavailable for 16 cells: weights absent; get them with X"
    assert note in table.notes


def test_a_metric_without_registration_is_shown_but_not_ranked(tmp_path: Path) -> None:
    run = load_run(write_store(tmp_path, SMALL), {})
    assert {line.values[WARP].rank for line in summarise(run).lines} == {0}


def test_differences_are_row_minus_baseline(tmp_path: Path) -> None:
    found = {gap.first: gap for gap, _ in differences(run_of(tmp_path))[WARP]}
    assert set(found) == {"first+previous", "full"}
    assert found["full"].interval.mean == pytest.approx(0.05 - 0.09)
    assert (found["full"].negative, found["full"].interval.n) == (2, 2)


STILL = {"individual": 1.1, "first+previous": 1.0, "full": 0.4}


def stillness(metric: str, row: str, clip: int, seed: int) -> float:
    base = STILL.get(row, 1.0) if metric == MOTION else BASE[row][metric]
    return base + 0.001 * clip


def test_a_row_that_leads_by_standing_still_is_warned_of(tmp_path: Path) -> None:
    table = summarise(run_of(tmp_path, replace(SMALL, score=stillness)))
    marked = {line.row.label for line in table.lines if line.values[WARP].still}
    assert marked == {"full"}
    assert "**0.0505†**" in to_markdown(table)
    assert r"\textbf{0.0505$^{\dagger}$}" in to_latex(table, "t", "l")
    warning = next(note for note in table.notes if "Warning" in note)
    assert f"full is best in {CONSISTENCY}, {WARP}, but it moves less than the source" in warning


def test_a_leading_row_that_may_move_enough_is_not_warned_of(tmp_path: Path) -> None:
    def score(metric: str, row: str, clip: int, seed: int) -> float:
        return 0.85 + 0.1 * clip if metric == MOTION else BASE[row][metric]

    table = summarise(run_of(tmp_path, replace(SMALL, score=score)))  # 0.85 and 0.95
    assert not any("Warning" in note for note in table.notes)


def test_consistency_without_motion_is_told(tmp_path: Path) -> None:
    table = summarise(run_of(tmp_path, replace(SMALL, metrics=(WARP,))))
    assert table.notes[0].startswith("Motion was not measured.")


def test_values_that_are_not_finite_are_counted_not_dropped(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.cells_of("full")[0].record["metrics"][WARP]["value"] = math.nan
    run.cells_of("full")[1].record["metrics"][WARP]["value"] = math.inf
    notes = " ".join(summarise(run).notes)
    assert f"{WARP} is unavailable for 1 cells (full 1): its value is nan" in notes
    assert f"{WARP} is unavailable for 1 cells (full 1): its value is inf" in notes


def test_failures_are_counted_by_kind_and_row(tmp_path: Path) -> None:
    run = run_of(tmp_path, replace(SMALL, fail={("full", 1, 1): "x", ("frozen", 0, 0): "y"}))
    for path, status in zip(
        sorted(tmp_path.glob("cells/*/failed.json")), ("oom", "diverged"), strict=True
    ):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "status": status}))
    plan = json.loads((tmp_path / "plan.json").read_text())
    run = load_run(tmp_path, INFOS)
    assert sorted(cell.status for cell in run.cells if cell.state == "failed") == [
        "diverged",
        "oom",
    ]
    assert {cell["problem"] for cell in plan} == {""}


def test_captions_state_clips_prompts_and_seeds(tmp_path: Path) -> None:
    assert sizes(run_of(tmp_path)) == "2 clips, 1 prompt per clip, 2 seeds each"


def test_differences_tell_wins_and_effect(tmp_path: Path) -> None:
    run = run_of(tmp_path, replace(SMALL, clips=3))
    lines = list(csv.DictReader(io.StringIO(difference_csv(run))))
    full = next(line for line in lines if (line["metric"], line["row"]) == (WARP, "full"))
    assert (full["wins"], full["n"], full["baseline"]) == ("1.0", "3", "individual")
    text = sheets.to_markdown(difference_sheet(run, summarise(run)))
    assert f"| {WARP} | full | -0.04000 [-0.04000, -0.04000] | 3 | 100 % |" in text


HOSTILE = "[x] \\input{/etc/passwd} $\\\\ & %#_^~{}|`<b>`|'' -- !`?` \"q\" é ↑\n\u202e*"


def test_hostile_labels_are_shown_as_they_are(tmp_path: Path) -> None:
    run = run_of(tmp_path, replace(SMALL, rows=("individual", "full", "source")))
    run = replace(
        run, rows=tuple(replace(r, label=HOSTILE) if r.label == "full" else r for r in run.rows)
    )
    table = summarise(run)
    line = next(text for text in to_markdown(table).splitlines() if "passwd" in text)
    assert re.split(r"(?<!\\)\|", line)[1].strip().startswith("[x] \\\\input{/etc/passwd}")
    assert "\u202e" not in line
    assert r"\textbackslash{}input\{/etc/passwd\}" in to_latex(table, HOSTILE, HOSTILE)


@pytest.mark.skipif(not ENGINE, reason="no TeX engine is installed (pdflatex, lualatex, xelatex)")
def test_latex_compiles(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", replace(SMALL, rows=("individual", "full", "source")))
    run = replace(
        run, rows=tuple(replace(r, label=HOSTILE) if r.label == "full" else r for r in run.rows)
    )
    table = summarise(run)
    body = to_latex(table, HOSTILE, HOSTILE) + sheets.to_latex(cost_sheet(table), "costs", "c")
    packages = "\\documentclass{article}\\usepackage{booktabs}"
    text = f"{packages}\\begin{{document}}{body}\\end{{document}}"
    (tmp_path / "t.tex").write_text(text, encoding="utf-8")
    command = [ENGINE, "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


def test_letters_beyond_latin_name_the_engines_that_know_them() -> None:
    sheet = sheets.Sheet(("a",), (((sheets.Entry("中"),),),))
    text = sheets.to_latex(sheet, "c", "l")
    assert text.startswith("% Compile with lualatex or xelatex: holds 中")
    assert "中 " in text


def test_a_crosstab_averages_over_other_axes_within_clips(tmp_path: Path) -> None:
    places = {"individual": ("a", 1), "first+previous": ("b", 1), "full": ("b", 2)}
    run = run_of(tmp_path)
    rows = tuple(
        replace(row, axes={"p": places[row.label][0], "q": 0, "r": places[row.label][1]})
        if row.label in places
        else row
        for row in run.rows
    )
    found = crosstab(replace(run, rows=rows), INFOS[WARP], "p", "q")
    assert (found.down, found.across, found.averaged) == (("a", "b"), ("0",), ("r",))
    assert found.values["b", "0"].mean == pytest.approx((0.0625 + 0.0525) / 2)
    assert found.best == ("b", "0")
    text = sheets.to_markdown(crosstab_sheet(found, 4))
    assert "| p by q | 0 |" in text
    assert "| b | **0.0575**" in text


def test_no_negative_zero() -> None:
    assert show_number(-0.00001, 3) == "0.000"
    assert show_number(-0.5, 1) == "-0.5"


@pytest.mark.parametrize(
    ("mean", "half", "shown"),
    [(0.95, 0.00031, "0.9500"), (12.3, 0.42, "12.3"), (1.0, 1e-9, "1.0000"), (0.0, 0.0, "0.0000")],
)
def test_digits_follow_the_interval(tmp_path: Path, mean: float, half: float, shown: str) -> None:
    def score(metric: str, row: str, clip: int, seed: int) -> float:
        return mean + half * (-1) ** clip

    table = summarise(run_of(tmp_path, replace(SMALL, score=score)))
    assert show_number(mean, table.decimals[WARP]) == shown


def test_report_metrics_choose_and_order_the_columns(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    spec = {**run.spec, "report": {"metrics": [WARP, MOTION]}}
    (tmp_path / "spec.json").write_text(pd.Series(spec).to_json())
    assert [m.id for m in load_run(tmp_path, INFOS).metrics] == [WARP, MOTION]


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run folder: it has no spec\.json"):
        load_run(tmp_path)
