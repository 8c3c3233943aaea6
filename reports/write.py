"""Write `<run>/report/`: tables, figures and the page, from whatever part of the run is done."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from crossframe.errors import UserError
from crossframe.files import own_path, replacing_folder, write_bytes, write_text
from reports import sheets
from reports.canvas import NotDrawn
from reports.crosstab import crosstab, crosstab_csv, crosstab_sheet
from reports.figures import catalogue, draw, named_in_spec
from reports.load import MetricInfo, Run, load_run
from reports.page import Missed, Picture, render_page
from reports.published import paper_csv, paper_markdown, paper_of, paper_sheet
from reports.style import save
from reports.tables import (
    Table,
    cell_frame,
    cost_csv,
    cost_sheet,
    difference_csv,
    difference_sheet,
    summarise,
    to_csv,
    to_latex,
    to_markdown,
)


def write_report(folder: str | Path, infos: Mapping[str, MetricInfo] | None = None) -> Path:
    """Write the report of a run folder, finished or not, and return the path of its page.

    infos: metric infos by id; by default those of the metrics registry.
    Raises UserError when the folder is no run folder, or its `report` is a link.
    """
    run = load_run(folder, infos)
    report = own_path(run.root, "report")
    table = summarise(run)
    _write_tables(run, table, report)
    pictures, missed = _write_figures(run, report / "figures")
    page = report / "index.html"
    write_text(page, render_page(run, table, pictures, missed))
    return page


def _write_tables(run: Run, table: Table, report: Path) -> None:
    label = "tab:" + (run.spec.get("name") or run.root.name)
    write_text(report / "table.csv", to_csv(table))
    write_text(report / "table.md", to_markdown(table))
    write_text(report / "table.tex", to_latex(table, run.title, label))
    cells = cell_frame(run)
    write_text(report / "cells.csv", cells.to_csv(index=False))
    buffer = io.BytesIO()
    cells.to_parquet(buffer, index=False)
    write_bytes(report / "cells.parquet", buffer.getvalue())
    with replacing_folder(report / "tables") as fresh:
        for name, text in _more_tables(run, table, label):
            write_text(fresh / name, text)


def _more_tables(run: Run, table: Table, label: str) -> Iterator[tuple[str, str]]:
    """Yield (file name, text) of the tables beside the summary."""
    yield "cost.csv", cost_csv(table)
    yield "cost.md", sheets.to_markdown(cost_sheet(table))
    gaps = difference_sheet(run, table)
    if gaps.blocks:
        yield "differences.csv", difference_csv(run)
        yield "differences.md", sheets.to_markdown(gaps)
        yield "differences.tex", sheets.to_latex(gaps, f"{run.title}: differences", f"{label}:d")
    yield from _crosstabs(run, table, label)
    if paper := paper_of(run):
        beside = paper_sheet(run, paper)
        yield "paper.csv", paper_csv(run, paper)
        yield "paper.md", paper_markdown(run, paper)
        yield "paper.tex", sheets.to_latex(beside, f"{paper['work']}, {paper['place']}", label)


def _crosstabs(run: Run, table: Table, label: str) -> Iterator[tuple[str, str]]:
    """The tables of `report.rows` by `report.columns`, one per metric in one file."""
    report = run.spec.get("report", {})
    down, across = report.get("rows"), report.get("columns")
    if not (down and across):
        return
    found = [crosstab(run, metric, down, across) for metric in run.metrics]
    made = [crosstab_sheet(each, table.decimals[each.metric.id]) for each in found]
    yield "crosstab.csv", crosstab_csv(found)
    yield "crosstab.md", "\n".join(map(sheets.to_markdown, made))
    captions = [f"{run.title}: {each.metric.id}" for each in found]
    yield (
        "crosstab.tex",
        "\n".join(
            sheets.to_latex(sheet, caption, f"{label}:{place}")
            for place, (sheet, caption) in enumerate(zip(made, captions, strict=True))
        ),
    )


def _write_figures(run: Run, folder: Path) -> tuple[list[Picture], list[Missed]]:
    """Write the figures that the run can feed, replacing all those of an earlier report.

    Those that the spec asks for and that cannot be drawn stand, with the reason, in
    `not-drawn.txt` too.
    """
    asked = named_in_spec(run)
    written: list[Picture] = []
    missed: list[Missed] = []
    with replacing_folder(folder) as fresh:
        for name, settings in catalogue(run).items():
            try:
                made, caption = draw(run, settings)
            except (NotDrawn, UserError) as reason:
                missed.append(Missed(name, str(reason), name in asked))
                continue
            save(made, fresh / name)
            written.append(Picture(name, caption, has_pdf=True))
        if lines := [each.line for each in missed if each.asked]:
            write_text(fresh / "not-drawn.txt", "\n".join(lines) + "\n")
    return written, missed
