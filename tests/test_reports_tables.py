import csv
import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from reports_store import BASE, CONSISTENCY, INFOS, MOTION, WARP, Shape, write_store

from crossframe.errors import UserError
from reports.load import MetricInfo, Run, load_run
from reports.tables import (
    cell_frame,
    differences,
    escape_latex,
    show_number,
    summarise,
    to_csv,
    to_latex,
    to_markdown,
)

SMALL = Shape(clips=2, frames=2, side=8)


def run_of(root: Path, shape: Shape = SMALL) -> Run:
    return load_run(write_store(root, shape), INFOS)


MARKDOWN = """\
| attention.pattern | clip_frame/consecutive ↑ | warp/source_flow ↓ | motion/ratio → 1 | s/frame | clips | cells |
| :-- | --: | --: | --: | --: | --: | --: |
| individual | 0.8025 [0.8005, 0.8045] | 0.0925 [0.0905, 0.0945] | 1.6025 [1.6005, 1.6045] | 0.50 | 2 | 4 |
| first+previous | <ins>0.9025</ins> [0.9005, 0.9045] | <ins>0.0625</ins> [0.0605, 0.0645] | <ins>1.2025</ins> [1.2005, 1.2045] | 0.50 | 2 | 4 |
| full | **0.9525** [0.9505, 0.9545] | **0.0525** [0.0505, 0.0545] | **1.0525** [1.0505, 1.0545] | 0.50 | 2 | 4 |
| *source* | 0.9720 [0.9700, 0.9740] | 0.0030 [0.0010, 0.0050] | 1.0020 [1.0000, 1.0040] | 0.50 | 2 | 2 |
| *frozen* | 1.0000 [1.0000, 1.0000] | 0.1220 [0.1200, 0.1240] | 0.0000 [0.0000, 0.0000] | 0.50 | 2 | 2 |
"""  # noqa: E501

LATEX = r"""
\begin{tabular}{lrrrrrr}
\toprule
attention.pattern & clip\_frame/consecutive $\uparrow$ & warp/source\_flow $\downarrow$ & motion/ratio $\rightarrow$ 1 & s/frame & clips & cells \\
\midrule
individual & 0.8025 {\scriptsize [0.8005, 0.8045]} & 0.0925 {\scriptsize [0.0905, 0.0945]} & 1.6025 {\scriptsize [1.6005, 1.6045]} & 0.50 & 2 & 4 \\
first+previous & \underline{0.9025} {\scriptsize [0.9005, 0.9045]} & \underline{0.0625} {\scriptsize [0.0605, 0.0645]} & \underline{1.2025} {\scriptsize [1.2005, 1.2045]} & 0.50 & 2 & 4 \\
full & \textbf{0.9525} {\scriptsize [0.9505, 0.9545]} & \textbf{0.0525} {\scriptsize [0.0505, 0.0545]} & \textbf{1.0525} {\scriptsize [1.0505, 1.0545]} & 0.50 & 2 & 4 \\
\midrule
\textit{source} & 0.9720 {\scriptsize [0.9700, 0.9740]} & 0.0030 {\scriptsize [0.0010, 0.0050]} & 1.0020 {\scriptsize [1.0000, 1.0040]} & 0.50 & 2 & 2 \\
\textit{frozen} & 1.0000 {\scriptsize [1.0000, 1.0000]} & 0.1220 {\scriptsize [0.1200, 0.1240]} & 0.0000 {\scriptsize [0.0000, 0.0000]} & 0.50 & 2 & 2 \\
\bottomrule
\end{tabular}
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
    assert r"\caption{Frame attention \& \textless{}friends\textgreater{}. Means" in text
    assert r"95 \% interval" in text


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
    assert "| full | 0.9505 |" in to_markdown(table)
    assert "14 of 16 cells are done, 1 failed, 1 have not run" in " ".join(table.notes)
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
    assert any("unavailable for 2 cells: flow covers 12 %" in note for note in table.notes)


def test_an_unavailable_metric_says_why(tmp_path: Path) -> None:
    shape = replace(SMALL, unavailable={CONSISTENCY: "weights absent; get them with X"})
    table = summarise(run_of(tmp_path, shape))
    assert "| individual | – | 0.0925" in to_markdown(table)
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


def test_no_negative_zero() -> None:
    assert show_number(-0.00001, 3) == "0.000"
    assert show_number(-0.5, 1) == "-0.5"


@pytest.mark.parametrize(
    ("mean", "half", "shown"),
    [(0.95, 0.0031, "0.9500"), (12.3, 4.2, "12.3"), (1.0, 1e-9, "1.0000"), (0.0, 0.0, "0.0000")],
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
