"""`crossframe run`: compute what is missing of a grid, then write its report."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablations.engines import ENGINES
from crossframe.errors import Problem, UserError
from crossframe.verbs.common import (
    Tools,
    checked_spec,
    max_cells_option,
    out_option,
    pass_tools,
    plan_line,
    retry_option,
    set_option,
    show_report,
    spec_argument,
    trouble,
)

if TYPE_CHECKING:
    from ablations.engines.base import Engine, EngineOptions
    from ablations.run import Outcome


@click.command()
@spec_argument
@set_option
@out_option
@retry_option
@max_cells_option
@click.option("--limit", type=click.IntRange(min=1), help="Run at most this many cells.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Cells computed at once.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each of them.")
@click.option("--engine", default="local", help=f"{', '.join(ENGINES.entries)}. Default: local.")
@click.option("--address", help="Of a cluster to join, for engines that have one.")
@click.option(
    "--engine-option",
    "extra",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the engine, as in --engine-option partition=gpu. May be repeated.",
)
@pass_tools
def run(
    tools: Tools,
    spec: str,
    overrides: tuple[str, ...],
    out: Path | None,
    retry: tuple[str, ...],
    max_cells: int | None,
    limit: int | None,
    jobs: int,
    threads: int | None,
    engine: str,
    address: str | None,
    extra: tuple[str, ...],
) -> None:
    """Run the cells of SPEC that are not done yet, then write the report.

    SPEC is a YAML file or the name of a shipped spec (see `crossframe list specs`). Several runs
    may share a run folder: each cell is computed by one of them.
    """
    from rich.console import Console

    from ablations.engines.base import EngineOptions
    from ablations.plan import default_out, make_plan
    from ablations.run import run_plan
    from ablations.store import Store

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell ignores the first for background jobs
        signal.signal(number, signal.default_int_handler)
    console = Console()
    folder, needed = out, None
    try:
        parts = tools.parts()
        checked = checked_spec(spec, overrides, parts, max_cells)
        folder = out or default_out(checked.spec)
        store = Store(folder)
        options = EngineOptions(jobs, threads or checked.spec.threads, address, settings(extra))
        chosen = make_engine(engine, options)
        plan = make_plan(checked, store, parts, retry)
        needed = plan.bytes
        console.print(plan_line(plan), markup=False)
        outcome = run_plan(plan, store, tools.parts, chosen, console=console, limit=limit)
        tell_outcome(outcome, folder)
        show_report(tools, folder)
    except KeyboardInterrupt:
        kept = f"interrupted; finished cells are kept. Resume with:\n  {resume_command(folder)}"
        raise KeyboardInterrupt(kept) from None
    except OSError as error:
        told = trouble(error, folder, needed, resume_command(folder))
        if told is None:
            raise
        raise told from error
    sys.exit(outcome.exit_code)


def make_engine(name: str, options: EngineOptions) -> Engine:
    """The engine of that name.

    Raises UserError when there is none, its package is missing, or an option means nothing to it.
    """
    engine: Engine = ENGINES.load(name)(options)
    return engine


def settings(texts: tuple[str, ...]) -> dict[str, str]:
    """`("a=1",)` -> `{"a": "1"}`; raises UserError for other forms."""
    pairs = [text.partition("=") for text in texts]
    problems = [
        Problem(f"--engine-option {name}", "is not of the form NAME=VALUE")
        for name, equals, _ in pairs
        if not (name and equals)
    ]
    if problems:
        raise UserError(problems)
    return {name: value for name, _, value in pairs}


def resume_command(folder: Path | None) -> str:
    """The command that goes on: the one that was given, with its run folder where it is known."""
    words = ["crossframe", *sys.argv[1:]]
    if folder and not any(word == "--out" or word.startswith("--out=") for word in words):
        words += ["--out", str(folder)]
    return shlex.join(words)


def tell_outcome(outcome: Outcome, folder: Path) -> None:
    """Print what became of the cells, and each reason of failure once."""
    from ablations.listing import show_seconds

    facts = [
        (outcome.done, "done"),
        (outcome.cached, "cached"),
        (outcome.elsewhere, "done by another run"),
        (len(outcome.failed), "failed"),
        (len(outcome.earlier), "failed earlier"),
        (outcome.left, "left by --limit"),
    ]
    shown = ", ".join(f"{count} {what}" for count, what in facts if count or what == "done")
    click.echo(f"cells: {shown}; {show_seconds(outcome.seconds)}")
    _tell_reasons("failed", outcome.failed, folder)
    _tell_reasons("failed earlier, try again with --retry failed", outcome.earlier, folder)


def _tell_reasons(what: str, failures: list[tuple[Any, str]], folder: Path) -> None:
    reasons: dict[str, list[Any]] = {}
    for cell, reason in failures:
        reasons.setdefault(reason, []).append(cell)
    for reason, cells in reasons.items():
        where = folder / "cells" / cells[0].key[:16] / "failed.json"
        click.echo(f"{what} ({len(cells)} cells, see {where}): {reason}", err=True)
