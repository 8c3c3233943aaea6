"""`crossframe plan`: what a run would do, without doing it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from crossframe.verbs.common import (
    Tools,
    checked_spec,
    max_cells_option,
    out_option,
    pass_tools,
    plan_line,
    retry_option,
    set_option,
    spec_argument,
)


@click.command()
@spec_argument
@set_option
@out_option
@retry_option
@max_cells_option
@click.option("--json", "as_json", is_flag=True, help="Print the plan and every cell as JSON.")
@pass_tools
def plan(
    tools: Tools,
    spec: str,
    overrides: tuple[str, ...],
    out: Path | None,
    retry: tuple[str, ...],
    max_cells: int | None,
    as_json: bool,
) -> None:
    """Say what a run would do: cells done, to do, failed earlier, skipped and why."""
    from ablations.listing import plan_record, plan_text
    from ablations.plan import default_out, make_plan
    from ablations.store import Store

    parts = tools.parts()
    checked = checked_spec(spec, overrides, parts, max_cells)
    made = make_plan(checked, Store(out or default_out(checked.spec)), parts, retry)
    if as_json:
        click.echo(json.dumps(plan_record(made), indent=2, ensure_ascii=False))
        return
    click.echo(plan_text(made))
    click.echo(plan_line(made))
