"""What several verbs of the command line have in common: tools, options, finding a spec."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.files import DISK_FULL

if TYPE_CHECKING:
    from ablations.check import CheckedSpec
    from ablations.parts import Parts
    from ablations.plan import Plan


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
retry_option = click.option(
    "--retry",
    multiple=True,
    metavar="STATUS",
    help="Try again what failed in an earlier run: failed (all of it), oom or diverged.",
)


max_cells_option = click.option(
    "--max-cells",
    type=click.IntRange(min=1),
    help="Allow grids of up to this many cells. Default: 10000.",
)


def checked_spec(
    spec: str, overrides: tuple[str, ...], parts: Parts, max_cells: int | None = None
) -> CheckedSpec:
    """Load and check a spec given by path or by shipped name; raises UserError."""
    from ablations.check import MAX_CELLS, load_spec

    return load_spec(find_spec(spec), overrides, parts, max_cells or MAX_CELLS)


def plan_line(plan: Plan) -> str:
    """A plan in one line."""
    from ablations.plan import SPOILT

    counts = plan.counts()
    shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    damaged = sum(reason == SPOILT for reason in plan.reasons)
    told = f"; {damaged} damaged result{'s' if damaged > 1 else ''} to be made again"
    line = f"{len(plan.cells)} cells: {shown}; time: {_about(plan.seconds)}"
    return line + told if damaged else line


def _about(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    from ablations.listing import show_seconds

    return f"about {show_seconds(seconds)}"


# What the machine, not crossframe, is to blame for, and what helps.
TROUBLES: Mapping[int, str] = {
    errno.ENOSPC: "Make room there",
    errno.EDQUOT: "Make room there, or have the quota raised",
    errno.EIO: "Check that disk",
    errno.EROFS: "Choose another folder with --out",
    errno.EACCES: "Choose another folder, or have its permissions changed",
    errno.EPERM: "Choose another folder, or have its permissions changed",
    errno.EEXIST: "Choose another folder: a file or a link to nothing has this name",
    errno.ENOTDIR: "Choose another folder: a part of this path is a file",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ELOOP: "Choose another folder: links lead round in a circle",
}


def trouble(
    error: OSError, folder: Path | None = None, needed: int | None = None, then: str = ""
) -> UserError | None:
    """Tell in one line what the file system refused; None for errors that it is not to blame for.

    folder: where it happened, when the error does not say. needed: bytes that were to be written.
    then: the command that goes on afterwards.
    """
    number = error.errno or 0
    if number not in TROUBLES:
        return None
    where, what = error.filename or folder or "a file", os.strerror(number)
    if number in DISK_FULL:
        where = folder or where
        what += f": {_room(Path(where), needed)}"
    fix = TROUBLES[number] + (f", then go on with: {then}" if then else "")
    return UserError(Problem(str(where), what, fix=fix))


def _room(place: Path, needed: int | None) -> str:
    """How much room there is on the disk that a path is, or would be, on."""
    from ablations.listing import show_bytes

    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    free = f"{show_bytes(shutil.disk_usage(there).free)} free"
    return f"{free}, about {show_bytes(needed)} needed" if needed else free


def show_report(tools: Tools, folder: Path) -> None:
    """Write the report of a run folder; print its table and where the page is."""
    if not any(folder.glob("cells/*/result.json")):
        click.echo("no cell is done: there is nothing to report", err=True)
        return
    page = tools.write_report(folder)
    table = page.parent / "table.md"
    if table.exists():
        click.echo("\n" + table.read_text(encoding="utf-8"))
    click.echo(f"page: {page.resolve()}")


def shipped_specs() -> dict[str, Path]:
    """Return the specs that come with the project, by name, those of published tables included."""
    return {**_specs_in("specs"), **shipped_papers()}


def shipped_papers() -> dict[str, Path]:
    """Return the specs of published tables, by name."""
    return _specs_in("papers")


def _specs_in(name: str) -> dict[str, Path]:
    import ablations

    folder = Path(ablations.__path__[0]) / name
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_spec(name: str) -> Path:
    """Return the file of a spec given by path or by shipped name; raises `UserError`."""
    path = Path(name)
    if os.path.isfile(path):  # unlike Path.is_file, false for names that no file can have
        return path
    shipped = shipped_specs()
    if name in shipped:
        return shipped[name]
    names = ", ".join(shipped)
    what = "is neither a file nor a shipped spec"
    raise UserError(Problem(name[:200], what, f"a path, {names}", did_you_mean(name, shipped)))
