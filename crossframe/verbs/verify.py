"""`crossframe verify`: is everything in a run folder what was written?"""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Remove what is damaged: the next run makes it again.")
def verify(folder: Path, repair: bool) -> None:
    """Check every cell, clip, shared stage and journal line of the run folder DIR.

    Frames and stages are compared with their sha256. Exit code 0: whole, or made whole by
    --repair; 1: there is damage (left). Runners may be at work meanwhile.
    """
    from rich.console import Console
    from rich.progress import track

    from ablations.health import examine, jobs, mend, open_run, told

    store = open_run(folder)
    console = Console(soft_wrap=True)
    quiet = not console.is_terminal
    looked, notes, found, left = jobs(store), 0, 0, 0
    for job in track(looked, "checking", console=console, transient=True, disable=quiet):
        findings = examine(store, job)
        damage = [finding for finding in findings if finding.fix]
        still = mend(store, job) if repair and damage else damage
        for finding in findings:
            kind = "damaged" if finding.fix else "note"
            kind = "removed" if finding.fix and repair and not still else kind
            line = f"{kind}: {told(finding.path, store.root)}: {finding.what}"
            console.print(line, markup=False, highlight=False)
        notes += len(findings) - len(damage)
        found += len(damage)
        left += len(still)
    click.echo(f"{len(looked)} things checked: {_verdict(found, left, notes)}")
    sys.exit(1 if left else 0)


def _verdict(found: int, left: int, notes: int) -> str:
    noted = f", {notes} note{'s' if notes != 1 else ''}" if notes else ""
    if not found:
        return f"whole{noted}"
    mended = f", {found - left} removed for the next run to make again" if found > left else ""
    advice = ". crossframe verify DIR --repair removes what is damaged" if left else ""
    return f"{left} damaged{mended}{noted}{advice}"
