"""The command line: verbs that are imported when they are used.

Exit codes: 0 all done, 1 some cells failed (the report is written still), 2 bad input,
130 interrupted (the command that resumes is printed). No verb loads torch here: `run` leaves that
to its workers, `miniature` to what it calls.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from crossframe import __version__
from crossframe.errors import UserError
from crossframe.verbs.common import Tools, trouble

# pydantic would look through all installed packages for plugins of its own at every start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# Every 700 new objects is too often while modules are imported: nothing of theirs is garbage.
gc.set_threshold(100_000)

INTERRUPTED = 130

VERBS: Mapping[str, str] = {
    "clips": "crossframe.verbs.clips:clips",
    "describe": "crossframe.verbs.listing:describe",
    "figure": "crossframe.verbs.figure:figure",
    "gc": "crossframe.verbs.gc:gc",
    "list": "crossframe.verbs.listing:list_command",
    "miniature": "crossframe.verbs.miniature:miniature",
    "paper": "crossframe.verbs.paper:paper",
    "plan": "crossframe.verbs.plan:plan",
    "report": "crossframe.verbs.report:report",
    "run": "crossframe.verbs.run:run",
    "schema": "crossframe.verbs.listing:schema",
    "score": "crossframe.verbs.score:score",
    "tgve": "crossframe.verbs.tgve:tgve",
    "tuned": "crossframe.verbs.tuned:tuned",
    "verify": "crossframe.verbs.verify:verify",
}
"""Verbs by name: `module:command`."""


class _Commands(click.Group):
    """A group that imports verbs late and tells user errors in plain lines, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a verb; None when there is none of that name."""
        if name not in VERBS:
            return None
        module, _, attribute = VERBS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; what it raises for the user is told line by line, with exit code 2.

        An interrupt is told too, by its own words if it has any, and ends with 130.
        """
        ctx.obj = ctx.obj or Tools()
        try:
            return super().invoke(ctx)
        except UserError as error:
            _tell(ctx, error)
        except OSError as error:
            told = trouble(error)
            if told is None:
                raise
            _tell(ctx, told)
        except KeyboardInterrupt as interrupt:
            click.echo(f"\n{str(interrupt) or 'interrupted'}", err=True)
            ctx.exit(INTERRUPTED)


def _tell(ctx: click.Context, error: UserError) -> NoReturn:
    count = len(error.problems)
    click.echo(f"{count} problem{'s' if count > 1 else ''}:\n{error}", err=True)
    ctx.exit(error.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="crossframe")
def main() -> None:
    """Ablation grids over cross-frame attention in video diffusion."""
