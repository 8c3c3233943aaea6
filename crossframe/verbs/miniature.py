"""`crossframe miniature`: check or train the shipped networks."""

from __future__ import annotations

import importlib
import sys

import click

from crossframe.errors import Problem, UserError, did_you_mean


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def miniature(words: tuple[str, ...]) -> None:
    """Check or train the shipped miniature networks: `crossframe miniature check`."""
    verbs = {"check": "miniature.check", "train": "miniature.train"}
    if not words or words[0] not in verbs:
        shown = words[0] if words else ""
        fix = did_you_mean(shown, verbs)
        raise UserError(Problem("miniature", f"no verb {shown!r}", ", ".join(verbs), fix))
    sys.exit(importlib.import_module(verbs[words[0]]).main(list(words[1:])))
