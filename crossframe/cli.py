"""The command line: thin verbs that import what they need when they run.

Exit codes: 0 all done, 1 some cells failed (the report is written still), 2 bad input,
130 interrupted (the command that resumes is printed). Only `run` and `miniature` import torch.
"""

from __future__ import annotations

import importlib
import json
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossframe import __version__
from crossframe.errors import Problem, UserError, did_you_mean

if TYPE_CHECKING:
    from ablations.check import CheckedSpec
    from ablations.parts import Parts
    from ablations.run import Outcome

INTERRUPTED = 130


def _shipped_parts() -> Parts:
    from ablations.shipped import shipped_parts

    return shipped_parts()


def _write_report(folder: Path) -> Path:
    from reports import write_report

    return write_report(folder)


@dataclass(frozen=True)
class Tools:
    """What the verbs work with; tests hand in their own as click's `obj`."""

    parts: Callable[[], Parts] = _shipped_parts
    write_report: Callable[[Path], Path] = _write_report


VERBS: Mapping[str, str] = {}
"""Verbs in modules of their own, by name: `module:command`, imported when the verb is used."""


class _Commands(click.Group):
    """A group that imports verbs late and tells user errors in plain lines, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *VERBS])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return super().get_command(ctx, name)
        module, _, attribute = VERBS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        ctx.obj = ctx.obj or Tools()
        try:
            return super().invoke(ctx)
        except UserError as error:
            count = len(error.problems)
            click.echo(f"{count} problem{'s' if count > 1 else ''}:\n{error}", err=True)
            ctx.exit(error.exit_code)


pass_tools = click.make_pass_decorator(Tools)
spec_argument = click.argument("spec")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override a field of the spec, as in --set base.steps=4. May be repeated.",
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder. Default: runs/<name of the spec>."
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="crossframe")
def main() -> None:
    """Ablation grids over cross-frame attention in video diffusion."""


@main.command()
@spec_argument
@set_option
@out_option
@click.option("--limit", type=click.IntRange(min=1), help="Run at most this many cells.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: torch's choice.")
@pass_tools
def run(
    tools: Tools,
    spec: str,
    overrides: tuple[str, ...],
    out: Path | None,
    limit: int | None,
    threads: int | None,
) -> None:
    """Run the cells of SPEC that are not done yet, then write the report.

    SPEC is a YAML file or the name of a shipped spec (see `crossframe list specs`).
    """
    from rich.console import Console

    from ablations.plan import default_out, make_plan
    from ablations.run import run_plan
    from ablations.store import Store

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    parts = tools.parts()
    checked = _checked(spec, overrides, parts)
    folder = out or default_out(checked.spec)
    store = Store(folder)
    try:
        plan = make_plan(checked, store, parts)
        console.print(_plan_line(plan), markup=False)
        outcome = run_plan(
            plan,
            store,
            parts,
            console=console,
            limit=limit,
            threads=threads or checked.spec.threads,
        )
    except KeyboardInterrupt:
        _tell_resume(spec, overrides, folder, threads)
        sys.exit(INTERRUPTED)
    _tell_outcome(outcome, folder)
    _show_report(tools, folder, console)
    sys.exit(outcome.exit_code)


def _checked(spec: str, overrides: tuple[str, ...], parts: Parts) -> CheckedSpec:
    from ablations.check import load_spec

    return load_spec(find_spec(spec), overrides, parts)


def _plan_line(plan: Any) -> str:
    from ablations.run import show_seconds

    counts = plan.counts()
    shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    time = "unknown" if plan.seconds is None else f"about {show_seconds(plan.seconds)}"
    return f"{len(plan.cells)} cells: {shown}; time: {time}"


def _tell_resume(spec: str, overrides: tuple[str, ...], folder: Path, threads: int | None) -> None:
    sets = [word for override in overrides for word in ("--set", override)]
    pins = ["--threads", str(threads)] if threads else []
    command = shlex.join(["crossframe", "run", spec, *sets, *pins, "--out", str(folder)])
    click.echo(f"\ninterrupted; finished cells are kept. Resume with:\n  {command}", err=True)


def _tell_outcome(outcome: Outcome, folder: Path) -> None:
    from ablations.run import show_seconds

    left = f", {outcome.left} left by --limit" if outcome.left else ""
    failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
    click.echo(
        f"{outcome.done} cells done, {outcome.cached} cached{failed}{left} "
        f"in {show_seconds(outcome.seconds)}"
    )
    reasons: dict[str, list[Any]] = {}
    for cell, reason in outcome.failed:
        reasons.setdefault(reason, []).append(cell)
    for reason, cells in reasons.items():
        where = folder / "cells" / cells[0].key[:16] / "failed.json"
        click.echo(f"failed ({len(cells)} cells, see {where}): {reason}", err=True)


def _show_report(tools: Tools, folder: Path, console: Any) -> None:
    if not any(folder.glob("cells/*/result.json")):
        click.echo("no cell is done: there is nothing to report", err=True)
        return
    page = tools.write_report(folder)
    table = page.parent / "table.md"
    if table.exists():
        click.echo("\n" + table.read_text(encoding="utf-8"))
    click.echo(f"page: {page.resolve()}")


@main.command()
@spec_argument
@set_option
@out_option
@click.option("--json", "as_json", is_flag=True, help="Print every cell as JSON.")
@pass_tools
def plan(
    tools: Tools, spec: str, overrides: tuple[str, ...], out: Path | None, as_json: bool
) -> None:
    """Say what a run would do: cells done, to do, failed earlier, skipped and why."""
    from ablations.plan import default_out, make_plan
    from ablations.store import Store

    parts = tools.parts()
    checked = _checked(spec, overrides, parts)
    made = make_plan(checked, Store(out or default_out(checked.spec)), parts)
    if as_json:
        cells = [
            {**cell.summary(), "state": state}
            for cell, state in zip(made.cells, made.states, strict=True)
        ]
        record = {"counts": made.counts(), "seconds": made.seconds, "cells": cells}
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    from ablations.listing import print_plan

    print_plan(made)
    click.echo(_plan_line(made))


@main.command(name="list")
@click.argument("kind", default="", metavar="[methods|metrics|clips|specs|presets]")
@pass_tools
def list_command(tools: Tools, kind: str) -> None:
    """List methods, metrics, clip sources, shipped specs and presets."""
    from ablations.listing import print_lists

    print_lists(tools.parts(), kind, shipped_specs())


@main.command()
@click.argument("name")
@pass_tools
def describe(tools: Tools, name: str) -> None:
    """Tell all about one method, metric, clip source or spec."""
    from ablations.listing import print_description

    print_description(tools.parts(), name, shipped_specs())


@main.command()
@click.argument("run_or_spec", metavar="DIR|SPEC")
@pass_tools
def report(tools: Tools, run_or_spec: str) -> None:
    """Write the report of a run folder again, from what is done so far."""
    from rich.console import Console

    folder = Path(run_or_spec)
    if not folder.is_dir():
        from ablations.plan import default_out

        folder = default_out(_checked(run_or_spec, (), tools.parts()).spec)
    if not (folder / "spec.json").exists():
        what = "is not a run folder: it has no spec.json"
        raise UserError(Problem(str(folder), what, fix="crossframe run SPEC makes one"))
    _show_report(tools, folder, Console())


@main.command()
@pass_tools
def schema(tools: Tools) -> None:
    """Print the JSON schema of specs, for completion in editors."""
    from ablations.spec import json_schema

    parts = tools.parts()
    made = json_schema(list(parts.methods.names()), list(parts.metrics.names()))
    click.echo(json.dumps(made, indent=2))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def miniature(words: tuple[str, ...]) -> None:
    """Check or train the shipped miniature networks: `crossframe miniature check`."""
    verbs = {"check": "miniature.check", "train": "miniature.train"}
    if not words or words[0] not in verbs:
        shown = words[0] if words else ""
        fix = did_you_mean(shown, verbs)
        raise UserError(Problem("miniature", f"no verb {shown!r}", ", ".join(verbs), fix))
    sys.exit(importlib.import_module(verbs[words[0]]).main(list(words[1:])))


def shipped_specs() -> dict[str, Path]:
    """Return the specs that come with the project, by name."""
    import ablations

    folder = Path(ablations.__path__[0]) / "specs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_spec(name: str) -> Path:
    """Return the file of a spec given by path or by shipped name; raises `UserError`."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_specs()
    if name in shipped:
        return shipped[name]
    names = ", ".join(shipped)
    what = "is neither a file nor a shipped spec"
    raise UserError(Problem(name, what, f"a path, {names}", did_you_mean(name, shipped)))
