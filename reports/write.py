"""Write `<run>/report/`: tables, figures and the page, from whatever part of the run is done."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from crossframe.files import replacing_folder, write_bytes, write_text
from reports import plots, strips
from reports.load import MetricInfo, Run, load_run
from reports.page import Picture, render_page
from reports.style import save
from reports.tables import Table, cell_frame, summarise, to_csv, to_latex, to_markdown

FIGURES: Mapping[str, tuple[Callable[[Run], Figure | None], str]] = {
    "bars": (plots.bars, "Mean of every metric per row, with 95 % intervals and a dot per clip"),
    "differences": (
        plots.difference_plot,
        "Each row minus the baseline, paired by clip; an interval that leaves zero out is a "
        "difference that these clips resolve",
    ),
    "scatter": (
        plots.scatter,
        "Consistency against motion: up is better, and only near the dotted line does the video "
        "move as its source does",
    ),
    "curves": (plots.curves, "Per-frame series, averaged over seeds and then clips"),
}

PICTURES: Mapping[str, tuple[Callable[[Run], Image.Image | None], str]] = {
    "strips": (
        lambda run: strips.frame_strips(run, strips.shown_clips(run, most=1)),
        "Frames of the first seed: methods downwards, time to the right",
    ),
    "xt": (
        lambda run: strips.x_t_slices(run, strips.shown_clips(run, most=2)),
        "One image row over time: flicker breaks the lines into bands",
    ),
}


def write_report(folder: str | Path, infos: Mapping[str, MetricInfo] | None = None) -> Path:
    """Write the report of a run folder, finished or not, and return the path of its page.

    infos: metric infos by id; by default those of the metrics registry.
    Raises UserError when the folder is no run folder.
    """
    run = load_run(folder, infos)
    report = run.root / "report"
    table = summarise(run)
    _write_tables(run, table, report)
    pictures = _write_figures(run, report / "figures")
    page = report / "index.html"
    write_text(page, render_page(run, table, pictures))
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


def _write_figures(run: Run, folder: Path) -> list[Picture]:
    """Write the figures that the run can feed, replacing all those of an earlier report."""
    written = []
    with replacing_folder(folder) as fresh:
        for name, (draw, caption) in FIGURES.items():
            if (made := draw(run)) is not None:
                save(made, fresh / name)
                written.append(Picture(name, caption, has_pdf=True))
        for name, (compose, caption) in PICTURES.items():
            if (image := compose(run)) is not None:
                image.save(fresh / f"{name}.png", optimize=True)
                written.append(Picture(name, caption, has_pdf=False))
    return written
