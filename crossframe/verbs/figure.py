"""`crossframe figure`: draw one figure of a report again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crossframe.errors import Problem, UserError
from crossframe.files import own_path
from crossframe.verbs.common import Tools, checked_spec, pass_tools, set_option

if TYPE_CHECKING:
    from reports.load import Run

TYPES = (".pdf", ".png", ".svg")


@click.command()
@click.argument("target", metavar="DIR|SPEC[#NAME]")
@set_option
@click.option("--out", type=click.Path(path_type=Path), help="A .pdf, .png or .svg file.")
@click.option("--width", type=click.Choice(["column", "page"]), help="3.25 or 6.75 inches.")
@pass_tools
def figure(
    tools: Tools, target: str, overrides: tuple[str, ...], out: Path | None, width: str | None
) -> None:
    """Draw the figure NAME of a run folder, or of the run of a spec; without NAME list them.

    With a spec, figures are those that it names now. They are written as PDF and PNG into the
    report's figures unless --out names a file.
    """
    if out is not None and out.suffix not in TYPES:
        raise UserError(Problem(str(out), "is no type of figure", ", ".join(TYPES)))
    where, _, name = target.rpartition("#") if "#" in target else (target, "", "")
    run = run_of(tools, where, overrides)
    if not name:
        list_figures(run)
        return
    from reports.figures import draw_named
    from reports.style import save, save_as

    made, caption = draw_named(run, name, width or "")
    click.echo(caption)
    if out is not None:
        save_as(made, out)
        click.echo(f"figure: {out.resolve()}")
        return
    path = own_path(run.root, "report", "figures") / name
    save(made, path)
    click.echo(f"figure: {path.resolve()}.pdf, .png")


def run_of(tools: Tools, where: str, overrides: tuple[str, ...]) -> Run:
    """The run in a folder, or the run of a spec, presented as that spec says now."""
    from reports.load import load_run

    if Path(where).is_dir():
        return load_run(where)
    from ablations.plan import default_out

    spec = checked_spec(where, overrides, tools.parts()).spec
    folder = default_out(spec)
    if not (folder / "spec.json").exists():
        what = "has no run folder yet"
        raise UserError(Problem(where, what, fix=f"crossframe run {where} makes {folder}"))
    shown = spec.model_dump(mode="json", include={"title", "report", "claims", "paper"})
    run = load_run(folder)
    return replace(run, spec={**run.spec, **shown})


def list_figures(run: Run) -> None:
    """Print the names of all figures with what they show."""
    from reports.figures import KINDS, catalogue

    for name, settings in catalogue(run).items():
        click.echo(f"{name}: {settings.get('caption') or KINDS[settings['kind']].caption}")
