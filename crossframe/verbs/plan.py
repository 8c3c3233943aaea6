"""`crossframe plan`: what a run would do, without doing it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from crossframe.verbs.common import (
    Tools,
    checked_spec,
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
@click.option("--json", "as_json", is_flag=True, help="Print every cell as JSON.")
@pass_tools
def plan(
    tools: Tools,
    spec: str,
    overrides: tuple[str, ...],
    out: Path | None,
    retry: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what a run would do: cells done, to do, failed earlier, skipped and why."""
    from ablations.plan import default_out, make_plan
    from ablations.store import Store

    parts = tools.parts()
    checked = checked_spec(spec, overrides, parts)
    made = make_plan(checked, Store(out or default_out(checked.spec)), parts, retry)
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
    click.echo(plan_line(made))
