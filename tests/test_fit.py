from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from miniature.fit import Fit, Recipe, work_folder

RECIPE = Recipe(steps=20, batch=4, rate=0.05, warmup=5, average=0.6)


def start(folder: Path, recipe: Recipe = RECIPE) -> Fit[nn.Sequential]:
    torch.manual_seed(7)
    return Fit(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), recipe, folder)


def losses_of(run: Fit[nn.Sequential]) -> Callable[[int], dict[str, Tensor]]:
    def losses(step: int) -> dict[str, Tensor]:
        x = torch.randn(RECIPE.batch, 4)  # from the generator that the loop seeds by step
        y = run.net(x + 0.1 * math.sin(step))
        return {"fit": (y[:, 0] - x.sum(1)).pow(2).mean(), "small": 0.1 * y[:, 1].abs().mean()}

    return losses


def state(run: Fit[nn.Sequential]) -> dict[str, Tensor]:
    return {**run.net.state_dict(), **{f"average/{n}": a for n, a in run.average.items()}}


@pytest.mark.parametrize(("saved_at", "killed_at"), [(0, 3), (5, 9), (9, 9)])
def test_a_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, saved_at: int, killed_at: int
) -> None:
    whole = start(tmp_path / "whole")
    whole.run(losses_of(whole))

    halted = start(tmp_path / "halves")
    inner = losses_of(halted)

    def dying(step: int) -> dict[str, Tensor]:
        if step == saved_at:
            halted.save()
        if step == killed_at:
            raise KeyboardInterrupt
        return inner(step)

    with pytest.raises(KeyboardInterrupt):
        halted.run(dying)
    torch.rand(17)  # whatever a new process did with the generator
    resumed = start(tmp_path / "halves")
    seen: list[int] = []
    inner_again = losses_of(resumed)

    def watched(step: int) -> dict[str, Tensor]:
        seen.append(step)
        return inner_again(step)

    resumed.run(watched)
    assert seen == list(range(saved_at, RECIPE.steps))
    expected, found = state(whole), state(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not torch.equal(whole.average["0.weight"], whole.net[0].weight)


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.run(losses_of(run))
    again = start(tmp_path)
    again.run(lambda step: pytest.fail("trained on"))
    before, after = state(run), state(again)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.seconds == run.seconds


def test_training_lowers_the_loss_and_logs_it(tmp_path: Path) -> None:
    run = start(tmp_path, Recipe(steps=100, batch=4, rate=0.05, warmup=5))
    run.run(losses_of(run))
    rows = [line.split(",") for line in (tmp_path / "losses.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["50", "100"]
    assert [part.split("=")[0] for part in rows[0][2:]] == ["fit", "small"]
    x = torch.randn(200, 4)
    before, after = (
        (net(x)[:, 0] - x.sum(1)).pow(2).mean().detach()
        for net in (start(tmp_path / "new").net, run.net)
    )
    assert after < before / 2


def test_learning_rate_has_its_closed_form() -> None:
    recipe = Recipe(steps=1100, batch=1, rate=2.0)
    assert recipe.learning_rate(0) == pytest.approx(0.02)
    assert recipe.learning_rate(99) == pytest.approx(2.0)
    assert recipe.learning_rate(100) == pytest.approx(2.0)
    assert recipe.learning_rate(600) == pytest.approx(1.02)
    quarter = 0.02 + 0.98 * (1 + math.sqrt(0.5)) / 2
    assert recipe.learning_rate(350) == pytest.approx(2 * quarter)
    assert recipe.learning_rate(1100) == pytest.approx(0.04)
    assert recipe.learning_rate(5000) == pytest.approx(0.04)


def test_the_average_follows_its_recurrence(tmp_path: Path) -> None:
    run = start(tmp_path)
    inner = losses_of(run)
    weights: list[Tensor] = []

    def watched(step: int) -> dict[str, Tensor]:
        weights.append(run.net[0].weight.detach().clone())
        return inner(step)

    run.run(watched)
    weights.append(run.net[0].weight.detach().clone())
    expected = weights[0]
    for k, weight in enumerate(weights[1:], start=1):
        decay = min(RECIPE.average, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(run.average["0.weight"], expected)
    run.use_average()
    torch.testing.assert_close(run.net[0].weight.detach(), expected)
    assert not run.net.training


def test_the_checkpoint_is_one_safetensors_file(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.run(losses_of(run))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors"]
    with safe_open(run.checkpoint, "pt") as stored:
        names = set(stored.keys())
        assert stored.metadata()["step"] == "20"
        assert torch.equal(stored.get_tensor("weight/0.weight"), run.net[0].weight)
    kinds = ("weight", "average", "step", "exp_avg", "exp_avg_sq")
    assert names == {f"{kind}/{name}" for kind in kinds for name in run.parameters}


def test_frozen_parameters_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    run = Fit(net, RECIPE, tmp_path)
    run.run(losses_of(run))
    run.use_average()
    assert torch.equal(net[0].weight, before)


def test_the_work_folder_is_chosen_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFRAME_MINIATURE", str(tmp_path))
    assert work_folder() == tmp_path
    monkeypatch.delenv("CROSSFRAME_MINIATURE")
    assert work_folder() == Path("runs/miniature")


def test_a_recipe_can_break_off(tmp_path: Path) -> None:
    whole = Recipe(steps=20, batch=1, rate=0.1, warmup=2)
    short = start(tmp_path / "short", replace(whole, stop=6))
    short.run(losses_of(short))
    assert short.step == 6
    assert short.recipe.learning_rate(6) == whole.learning_rate(6), "the schedule is that of 20"


def test_parameters_without_gradients_resume_as_they_were(tmp_path: Path) -> None:
    def losses(run: Fit[nn.Sequential], step: int) -> dict[str, Tensor]:
        x = torch.randn(RECIPE.batch, 4)
        if step % 3:  # the last layer learns in one step of three, the first in the others
            return {"first": run.net[0](x).square().mean()}
        return {"last": (run.net[2](run.net[1](run.net[0](x).detach())) - 1).square().mean()}

    whole = start(tmp_path / "whole")
    whole.run(lambda step: losses(whole, step))
    halted = start(tmp_path / "halves")

    def dying(step: int) -> dict[str, Tensor]:
        if step in (0, 8):
            halted.save()
        if step == 10:
            raise KeyboardInterrupt
        return losses(halted, step)

    with pytest.raises(KeyboardInterrupt):
        halted.run(dying)
    resumed = start(tmp_path / "halves")
    resumed.run(lambda step: losses(resumed, step))
    expected, found = state(whole), state(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
