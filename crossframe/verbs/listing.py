"""`crossframe list`, `describe` and `schema`: what there is to choose from."""

from __future__ import annotations

import json

import click

from crossframe.verbs.common import Tools, pass_tools, shipped_specs


@click.command(name="list")
@click.argument("kind", default="", metavar="[methods|metrics|clips|specs|presets|controls]")
@pass_tools
def list_command(tools: Tools, kind: str) -> None:
    """List methods, metrics, clip sources, shipped specs, presets and controls."""
    from ablations.listing import print_lists

    print_lists(tools.parts(), kind, shipped_specs())


@click.command()
@click.argument("name")
@pass_tools
def describe(tools: Tools, name: str) -> None:
    """Tell all about one method, metric, clip source or spec."""
    from ablations.describe import print_description

    print_description(tools.parts(), name, shipped_specs())


@click.command()
@pass_tools
def schema(tools: Tools) -> None:
    """Print the JSON schema of specs, for completion in editors."""
    from ablations.spec import json_schema

    parts = tools.parts()
    made = json_schema(list(parts.methods.names()), list(parts.metrics.names()))
    click.echo(json.dumps(made, indent=2))
