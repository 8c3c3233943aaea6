"""Bars for work that takes a while: what is done of what, the time spent, and the time left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bars(
    console: Console | None = None,
    *more: ProgressColumn,
    count: ProgressColumn | None = None,
) -> Progress:
    """Return bars, to be entered with `with`; they show a line per task.

    count: the column of what is done, `N/M` unless given. more: columns behind the usual ones.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        count or MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        *more,
        console=console,
    )
