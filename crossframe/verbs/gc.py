"""`crossframe gc`: remove what nobody needs from a run folder."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option("--orphans", is_flag=True, help="Also cells that plan.json does not list any more.")
@click.option("--stages", is_flag=True, help="Also what cells share; it is made again when needed.")
def gc(folder: Path, dry_run: bool, orphans: bool, stages: bool) -> None:
    """Remove half-written files, claims of the dead and damaged files from the run folder DIR.

    What a living runner is at stays. Exit code 1: something could not be removed.
    """
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import track

    from ablations.health import open_run, told
    from ablations.leftovers import at_work, find

    store = open_run(folder)
    console = Console(soft_wrap=True)
    quiet = not console.is_terminal
    busy = " and ".join(map(str, at_work(store))) if stages else ""
    found = list(find(store, orphans=orphans, stages=stages))
    gone, kept, verb = 0, 0, "would remove" if dry_run else "removed"
    for item in track(found, "removing", console=console, transient=True, disable=quiet):
        removed = dry_run or item.discard()
        gone, kept = gone + item.size * removed, kept + (not removed)
        state = verb if removed else "could not remove"
        line = f"{state}: {told(item.path, store.root)} ({item.what}, {decimal(item.size)})"
        console.print(line, markup=False, highlight=False)
    click.echo(
        f"{verb} {len(found) - kept} things, {decimal(gone)}" if found else "nothing to remove"
    )
    if busy:
        click.echo(f"kept: stages and scratch, in use by {busy}. Run gc again when that has ended")
    sys.exit(1 if kept else 0)
