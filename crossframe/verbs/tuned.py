"""`crossframe tuned`: take a network that was tuned on a clip to other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, TypeVar

import click

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.verbs.common import (
    Tools,
    checked_spec,
    out_option,
    pass_tools,
    set_option,
    spec_argument,
)

if TYPE_CHECKING:
    from ablations.plan import Cell, Plan
    from ablations.store import Store

METHOD = "tuneavideo"
SECONDS = 1.0
"""Between two looks at whether another runner has ended what it is at."""

Made = TypeVar("Made")


@click.command()
@spec_argument
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--clip", required=True, help="Name of the clip, as in the report.")
@click.option("--row", default="", help="Label of the row; needed where several tune.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Index of the seed.")
@set_option
@out_option
@pass_tools
def tuned(
    tools: Tools,
    spec: str,
    target: Path,
    clip: str,
    row: str,
    seed: int,
    overrides: tuple[str, ...],
    out: Path | None,
) -> None:
    """Write the network that a row of SPEC tunes on a clip to TARGET.

    A file .pth, .bin or .safetensors takes the tuned tensors, as the code of TGVE-2023 keeps them;
    any other TARGET becomes a folder with the whole UNet, as Tune-A-Video's code keeps it. What a
    run has tuned is taken from its folder; else it is tuned now, and kept there. Options that
    those programs do not know are told.
    """
    from ablations.bench import Bench
    from ablations.cell import sample_request
    from ablations.plan import default_out, make_plan
    from ablations.store import Store
    from methods.tuneavideo.checkpoints import write_network
    from methods.tuneavideo.config import TuneAVideoConfig
    from methods.tuneavideo.sampler import tuned_network

    parts = tools.parts()
    checked = checked_spec(spec, overrides, parts)
    store = Store(out or default_out(checked.spec))
    cell = _cell(make_plan(checked, store, parts), clip, row, seed)
    bench = Bench(checked.spec, checked.backbone, parts, store)
    request = sample_request(cell, bench.clip(cell.clip), store)
    config = cell.row.options
    assert isinstance(config, TuneAVideoConfig)
    with click.progressbar(length=100, label="tuning") as bar:

        def show(done: int, total: int) -> None:
            bar.update(100 * done // total - bar.pos)

        networks = bench.networks(METHOD)
        network = _when_free(store, lambda: tuned_network(networks, request, config, show))
        show(1, 1)
    made = write_network(target, dict(networks.unet.config), network)
    click.echo(f"{cell.row.label} on {cell.clip.id}: {made}")
    if foreign := config.not_in_a_checkpoint():
        told = ", ".join(f"{name}: {value}" for name, value in foreign.items())
        click.echo(f"Tune-A-Video's own code does not sample with {told}", err=True)


def _when_free(store: Store, make: Callable[[], Made]) -> Made:
    """Return what `make` does, once no other runner is at the shared work; who is, is told."""
    from ablations.stages import InWork

    while True:
        try:
            return make()
        except InWork as other:
            click.echo(f"waits: {other}", err=True)
            while store.claimant(other.claim) is not None:
                sleep(SECONDS)


def _cell(plan: Plan, clip: str, row: str, seed: int) -> Cell:
    """The cell that is meant; raises UserError when there is none, several, or it cannot run."""
    rows = {cell.row.label: cell.row.method for cell in plan.cells}
    tuning = [label for label, method in rows.items() if method == METHOD]
    clips = list(dict.fromkeys(cell.clip.id for cell in plan.cells))
    label = row or (tuning[0] if len(tuning) == 1 else "")
    problems = []
    if label not in tuning:
        what = f"{row!r} is no row that tunes" if row else f"{len(tuning)} rows tune"
        problems.append(Problem("--row", what, ", ".join(tuning), did_you_mean(row, tuning)))
    if clip not in clips:
        what = f"no clip is called {clip!r}"
        problems.append(Problem("--clip", what, ", ".join(clips[:12]), did_you_mean(clip, clips)))
    seeds = plan.checked.spec.seeds.count
    if seed >= seeds:
        problems.append(Problem("--seed", f"there is no seed {seed}", f"0 to {seeds - 1}"))
    if problems:
        raise UserError(problems)
    found = next(
        cell
        for cell in plan.cells
        if (cell.row.label, cell.clip.id, cell.seed_index) == (label, clip, seed)
    )
    if found.problems:
        raise UserError(Problem(clip, found.problem))
    return found
