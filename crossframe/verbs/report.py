"""`crossframe report`: write the report of what is done so far."""

from __future__ import annotations

from pathlib import Path

import click

from crossframe.errors import Problem, UserError
from crossframe.verbs.common import Tools, checked_spec, pass_tools, show_report


@click.command()
@click.argument("run_or_spec", metavar="DIR|SPEC")
@pass_tools
def report(tools: Tools, run_or_spec: str) -> None:
    """Write the report of a run folder again, from what is done so far."""
    folder = Path(run_or_spec)
    if not folder.is_dir():
        from ablations.plan import default_out

        folder = default_out(checked_spec(run_or_spec, (), tools.parts()).spec)
    if not (folder / "spec.json").exists():
        what = "is not a run folder: it has no spec.json"
        raise UserError(Problem(str(folder), what, fix="crossframe run SPEC makes one"))
    show_report(tools, folder)
