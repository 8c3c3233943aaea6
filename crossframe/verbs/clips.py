"""`crossframe clips`: sets of clips, what is here, what to download, and whether it is intact."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from crossframe.errors import Problem

if TYPE_CHECKING:
    from data_manifests.manifest import Manifest

sets_argument = click.argument("sets", nargs=-1, metavar="[SET]...")


@click.group()
def clips() -> None:
    """List, download and verify sets of clips.

    Data lies in $CROSSFRAME_DATA, or ~/.cache/crossframe/data, one folder per set.
    """


@clips.command(name="list")
@sets_argument
def list_sets(sets: tuple[str, ...]) -> None:
    """List all sets of clips, or the clips of the named sets."""
    from rich.console import Console

    console = Console()
    if not sets:
        console.print(_overview())
        return
    for facts in _named(sets):
        console.print(_detail(facts))


@clips.command()
@click.argument("sets", nargs=-1, required=True, metavar="SET...")
def fetch(sets: tuple[str, ...]) -> None:
    """Download and unpack the named sets; tell what has to be placed by hand.

    Downloads continue where they stopped and are checked by sha256. Exit code 1 when a file is
    still missing afterwards.
    """
    from rich.console import Console
    from rich.progress import DownloadColumn

    from crossframe.progress import progress_bars
    from data_manifests.fetching import fetch as fetch_set

    problems: dict[str, Problem] = {}
    console = Console(stderr=True)
    with progress_bars(console, count=DownloadColumn()) as bar:
        tasks: dict[str, Any] = {}

        def show(name: str, have: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=have)

        for facts in _named(sets):
            problems |= {str(problem): problem for problem in fetch_set(facts, show)}
    for line in problems:
        click.echo(line, err=True)
    if problems:
        sys.exit(1)
    click.echo(f"{', '.join(sets)}: complete")


@clips.command()
@sets_argument
def verify(sets: tuple[str, ...]) -> None:
    """Check lengths, hashes and decoded frames of the named sets, or of all that are here.

    Exit code 1 when something is off or a named set is not here.
    """
    from data_manifests.checking import verify as verify_set
    from data_manifests.datasets import present

    wrong = 0
    for facts in _named(sets) if sets else filter(present, _named(())):
        findings = list(verify_set(facts))
        off = [finding for finding in findings if finding.wrong]
        wrong += len(off)
        click.echo(f"{facts.id}: {len(findings)} checked, {len(off)} off")
        for finding in off:
            told = finding.wrong.startswith(finding.where)
            click.echo(f"  {finding.wrong if told else f'{finding.where}: {finding.wrong}'}")
    if wrong:
        sys.exit(1)


def _named(sets: tuple[str, ...]) -> Iterator[Manifest]:
    from data_manifests.manifest import manifest, manifest_ids

    yield from [manifest(name) for name in sets or manifest_ids()]


def _overview() -> Any:
    from rich.table import Table

    from data_manifests.datasets import data_root, holder, present

    table = Table(title=f"sets of clips (data in {data_root()})")
    for column in ("set", "clips", "size", "fps", "licence", "redistributable", "here", "title"):
        table.add_column(column)
    for facts in _named(()):
        count, here = facts.count or len(facts.names()), present(facts)
        table.add_row(
            facts.id,
            f"{facts.prefix}:* {count or '?'}",
            _size(holder(facts)),
            _number(holder(facts).fps),
            facts.licence,
            facts.redistributable,
            "yes" if here and here >= count else f"{here} of {count or '?'}" if here else "no",
            facts.title,
        )
    return table


def _detail(facts: Manifest) -> Any:
    from rich.table import Table

    from data_manifests.datasets import clip_names, find_clip, holder, present

    whole = bool(present(facts)) and facts.kind in ("rendered", "packaged")
    part = facts.transform
    title = f"{facts.title}; licence {facts.licence}; {facts.source.page}"
    table = Table(title=title, caption=facts.licence_note or None)
    for column in ("clip", "frames", "size", "fps", "licence", "here", "caption"):
        table.add_column(column)
    for name in clip_names(facts.prefix):
        known = facts.facts(name)
        table.add_row(
            f"{facts.prefix}:{name}",
            _number(known.frames or part.frames),
            _size(holder(facts)),
            _number(holder(facts).fps),
            known.licence or facts.licence,
            "yes" if whole or find_clip(facts, name) else "no",
            known.caption,
        )
    return table


def _size(facts: Manifest) -> str:
    return "x".join(map(str, facts.size)) if facts.size else "varies"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
