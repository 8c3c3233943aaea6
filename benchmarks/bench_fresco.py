"""Cost of FRESCO's feature optimisation: `make bench`.

`plain` is the loss as it is defined, by automatic differentiation: similarities of all tokens held
as matrices, frames warped by `grid_sample`, torch's Adam. `ours` is what the method runs. Three
parts are compared, on one guidance row of two frames, fp32:
    spatial, temporal   loss and gradient of one term
    run                 both terms, three steps of Adam, per step
Time is the processor's, the best of rounds in which the two take turns; what a run prepares once
(goals, warps) is left out. Memory is the peak above what was held before the call, goals and warps
included.

At many channels both are bound by arithmetic, of which ours is two thirds (two products of matrices
for three); at few, by memory traffic, of which ours has next to none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.measure import MIB, peak_bytes, print_table, seconds
from methods.fresco.correspondence import Flows
from methods.fresco.gram import add_spatial_gradient, unit_tokens
from methods.fresco.losses import similarities, spatial_loss, temporal_loss
from methods.fresco.optimise import Consistency, minimise
from methods.fresco.options import Losses
from methods.fresco.temporal import Temporal

FRAMES, STEPS, ROUNDS = 2, 3, 4
SIZES = [(32, 64), (32, 320), (64, 64), (64, 320)]  # side of the features, channels
OPTIONS = Losses(iterations=STEPS)


@dataclass(frozen=True)
class Case:
    """Features and reference (n, c, h, w), and flow at their size."""

    features: Tensor
    reference: Tensor
    level: Flows

    @staticmethod
    def random(side: int, channels: int) -> Case:
        """Features near their reference under a flow of a few pixels, a tenth of it hidden."""
        generator = torch.Generator().manual_seed(0)
        features, change = torch.randn(2, FRAMES, channels, side, side, generator=generator)
        flow = 2 * torch.randn(2, FRAMES, 2, side, side, generator=generator)
        hidden = (torch.rand(2, FRAMES, side, side, generator=generator) < 0.1).float()
        return Case(features, features + 0.5 * change, Flows(*flow, *hidden))

    @property
    def tokens(self) -> Tensor:
        """The features as (n, h w, c)."""
        return self.features.flatten(2).mT.contiguous()


Loss = Callable[[Tensor], Tensor]
# (case) -> what is timed; calling it makes what a run prepares once.
Way = Callable[[Case], Callable[[], Any]]


def differentiated(case: Case, loss: Loss) -> Callable[[], Tensor]:
    """Loss and gradient by automatic differentiation."""

    def call() -> Tensor:
        """The gradient."""
        features = case.features.clone().requires_grad_()
        loss(features).backward()
        assert features.grad is not None
        return features.grad

    return call


def plain_spatial(case: Case) -> Callable[[], Any]:
    """The spatial term as it is defined, against stored similarities of the reference."""
    goal = similarities(case.reference)
    return differentiated(case, lambda x: spatial_loss(x, goal, OPTIONS))


def plain_temporal(case: Case) -> Callable[[], Any]:
    """The temporal term as it is defined, with frames warped by `grid_sample`."""
    return differentiated(case, lambda x: temporal_loss(x, case.level, OPTIONS))


def plain_run(case: Case) -> Callable[[], Any]:
    """Both terms under torch's Adam."""
    goal = similarities(case.reference)

    def call() -> Tensor:
        """The features after `STEPS` steps."""
        features = torch.nn.Parameter(case.features.clone())
        adam = torch.optim.Adam([features], lr=OPTIONS.lr)
        for _ in range(STEPS):
            adam.zero_grad()
            loss = temporal_loss(features, case.level, OPTIONS)
            (loss + spatial_loss(features, goal, OPTIONS)).backward()
            adam.step()
        return features.detach()

    return call


def our_spatial(case: Case) -> Callable[[], Any]:
    """The spatial term by its analytic gradient."""
    tokens, goal = case.tokens, unit_tokens(case.reference)

    def call() -> Tensor:
        """The gradient."""
        out = torch.zeros_like(tokens)
        add_spatial_gradient(tokens, goal, out, OPTIONS, with_loss=True)
        return out

    return call


def our_temporal(case: Case) -> Callable[[], Any]:
    """The temporal term by its analytic gradient."""
    tokens, losses = case.tokens, Temporal.build(case.level, OPTIONS)

    def call() -> Tensor:
        """The gradient."""
        out = torch.zeros_like(tokens)
        losses.add_gradient(tokens, out, with_loss=True)
        return out

    return call


def our_run(case: Case) -> Callable[[], Any]:
    """Both terms under the method's own Adam."""
    losses = Consistency.build(OPTIONS, case.level, case.reference)
    return lambda: minimise(case.tokens, losses)


PARTS: dict[str, tuple[Way, Way, int]] = {
    "spatial": (our_spatial, plain_spatial, 1),
    "temporal": (our_temporal, plain_temporal, 1),
    "run": (our_run, plain_run, STEPS),
}


@dataclass(frozen=True)
class Row:
    """What one part cost at one size, in seconds and bytes."""

    name: str
    time: dict[str, float]
    memory: dict[str, int]

    def ratio(self, measured: dict[str, Any]) -> float:
        """How much more `plain` takes than `ours`, of time or of memory."""
        return float(measured["plain"] / measured["ours"])

    def line(self) -> str:
        """The row as printed below `HEAD`."""
        return (
            f"{self.name:<28}{1e3 * self.time['ours']:>9.1f}{self.memory['ours'] / MIB:>9.1f}"
            f"{self.ratio(self.time):>9.2f}{self.ratio(self.memory):>9.1f}"
        )


HEAD = f"{'':<46}{'plain / ours':^18}\n{'':<28}{'ms':>9}{'MiB':>9}{'time':>9}{'memory':>9}"


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """Collects the rows and prints them as one table at the end."""
    collected: list[Row] = []
    yield collected
    title = f"feature optimisation, {FRAMES} frames"
    print_table(title, [HEAD, *(row.line() for row in collected)])


@pytest.mark.bench
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("side", "channels"), SIZES)
def test_feature_optimisation(
    part: str, side: int, channels: int, rows: list[Row], tmp_path: Path, benchmark: Any
) -> None:
    """Ours is faster and, where similarities outnumber features, holds a sixth at most."""
    case = Case.random(side, channels)
    ours, plain, steps = PARTS[part]
    calls = {"ours": ours(case), "plain": plain(case)}
    memory = {
        "ours": peak_bytes(lambda: ours(case)(), tmp_path / "ours"),
        "plain": peak_bytes(lambda: plain(case)(), tmp_path / "plain"),
    }
    taken = seconds(calls, ROUNDS, time.process_time)
    name = f"{part}, {side**2} tokens, c={channels}"
    row = Row(name, {way: time / steps for way, time in taken.items()}, memory)
    benchmark.pedantic(calls["ours"], rounds=1, iterations=1)
    rows.append(row)
    benchmark.extra_info.update(time=row.time, memory=row.memory)
    assert row.ratio(row.time) > 1
    if part == "run" and side**2 > 10 * channels:  # far more similarities than features
        assert row.ratio(row.memory) >= 6
