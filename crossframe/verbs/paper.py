"""`crossframe paper`: published tables as specs, and how ours compare with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.verbs.common import Tools, checked_spec, pass_tools, set_option, shipped_papers
from crossframe.verbs.run import run

scale_option = click.option("--scale", help="Scale of the spec: miniature, sd15, ...")


@click.group()
def paper() -> None:
    """Compute published tables again: list them, run one, report on it."""


@paper.command(name="list")
def list_command() -> None:
    """List the published tables that are shipped as specs, with their scales."""
    from ablations.specfile import read_document

    for name, path in shipped_papers().items():
        data = read_document(path).data
        published = data.get("paper", {})
        scales = ", ".join(data.get("scales", {})) or "one"
        click.echo(f"{name}: {published.get('work')}, {published.get('place')} (scales: {scales})")


def _run_table(**given: Any) -> None:
    """Run the spec of a published table; the options are those of `crossframe run`."""
    context = click.get_current_context()
    given["spec"] = str(_path_of(given["spec"]))
    given["overrides"] = (*_scaled(given.pop("scale")), *given["overrides"])
    context.invoke(run, **given)


paper.add_command(
    click.Command(
        "run",
        params=[*run.params, click.Option(["--scale"], help="Scale: miniature, sd15, ...")],
        callback=_run_table,
        help="Run the spec NAME of a published table, as `crossframe run` does.",
    )
)


@paper.command()
@click.argument("name", metavar="NAME|DIR")
@scale_option
@set_option
@pass_tools
def report(tools: Tools, name: str, scale: str | None, overrides: tuple[str, ...]) -> None:
    """Print the paper's numbers beside ours, with verdicts, from what is done so far."""
    from crossframe.verbs.figure import run_of
    from reports.published import paper_markdown, paper_of

    where = name if Path(name).is_dir() else str(_path_of(name))
    _require_run(tools, where, (*_scaled(scale), *overrides))
    found = run_of(tools, where, (*_scaled(scale), *overrides))
    published = paper_of(found)
    if published is None:
        what = "names no published table"
        raise UserError(Problem(name, what, fix="add paper: to its spec (docs/reports.md)"))
    click.echo(paper_markdown(found, published))


def _require_run(tools: Tools, where: str, overrides: tuple[str, ...]) -> None:
    if Path(where).is_dir():
        return
    from ablations.plan import default_out

    folder = default_out(checked_spec(where, overrides, tools.parts()).spec)
    if not (folder / "spec.json").exists():
        fix = f"crossframe paper run {Path(where).stem} makes {folder}"
        raise UserError(Problem(Path(where).stem, "has not been run", fix=fix))


def _scaled(scale: str | None) -> tuple[str, ...]:
    return (f"scale={scale}",) if scale else ()


def _path_of(name: str) -> Path:
    """The spec of a published table, by shipped name or path; raises UserError."""
    papers = shipped_papers()
    if name in papers:
        return papers[name]
    if Path(name).is_file():
        return Path(name)
    what = "is neither a shipped table nor a file"
    raise UserError(Problem(name[:200], what, ", ".join(papers), did_you_mean(name, papers)))
