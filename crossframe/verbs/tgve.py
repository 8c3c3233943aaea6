"""`crossframe tgve`: hand results in to the challenge LOVEU-TGVE-2023, in its layout."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

MOST_LINES = 12


@click.group()
def tgve() -> None:
    """Submissions to LOVEU-TGVE-2023: write one from runs, or check one."""


@tgve.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The submission.")
@click.option("--row", default="", help="Label of the row; needed where a run has several.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Index of the seed.")
def export(runs: tuple[Path, ...], out: Path, row: str, seed: int) -> None:
    """Write <subset>/<video>/<kind>/%05d.jpg from finished cells of run folders.

    Runs on other clips, kinds or stretches of frames add up. Exit code 1 when a cell is not done.
    """
    from data_manifests.submissions import entry_problems, wanted_entries
    from reports.load import load_run
    from reports.submission import export as export_runs

    made = export_runs([load_run(run) for run in runs], out, row, seed)
    total = len(list(wanted_entries()))
    counts = Counter(kind for _, kind in made.frames)
    kinds = dict.fromkeys(kind for _, kind in wanted_entries())
    shown = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind])
    click.echo(f"{out}: {len(made.frames)} of {total} videos written ({shown or 'none'})")
    _tell([str(problem) for problem in made.problems])
    if made.problems:
        sys.exit(1)
    lacking = len(entry_problems(out))
    if lacking:
        click.echo(f"{lacking} videos are absent or short: crossframe tgve check {out}")
    click.echo(f"score it: crossframe score --edited {out} --preset tgve --prompts {_table()}")


@tgve.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def check(folder: Path) -> None:
    """Tell which of the 304 videos a submission lacks or has with another number of frames.

    Exit code 1 when there is one.
    """
    from data_manifests.submissions import entry_problems, wanted_entries

    problems = entry_problems(folder)
    total = len(list(wanted_entries()))
    click.echo(f"{folder}: {total - len(problems)} of {total} videos complete")
    _tell([str(problem) for problem in problems])
    if problems:
        sys.exit(1)


def _tell(lines: list[str]) -> None:
    for line in lines[:MOST_LINES]:
        click.echo(f"  {line}", err=True)
    if len(lines) > MOST_LINES:
        click.echo(f"  ... and {len(lines) - MOST_LINES} more", err=True)


def _table() -> Path:
    """Where the challenge's CSV lies in the user's copy."""
    from data_manifests.datasets import dataset_folder
    from data_manifests.manifest import manifest
    from data_manifests.submissions import SET

    facts = manifest(SET)
    return dataset_folder(facts) / (facts.prompts.file if facts.prompts else "")
