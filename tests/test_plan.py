"""Plans: what is done, what is not, why not, and what identifies a cell."""

from dataclasses import replace

import pytest
from fake_parts import fake_parts
from lab import Lab, spec_text

from ablations.check import load_spec
from ablations.estimate import Shared
from ablations.listing import plan_record, plan_text
from ablations.plan import make_plan
from ablations.shipped import shipped_parts
from ablations.store import Store
from crossframe.errors import Problem, UserError
from crossframe.keys import derive_seed
from crossframe.registry import Entry, Registry
from crossframe.verbs.common import plan_line

SPEC = spec_text(name="planned", base={}, seeds={"count": 3}, metrics=["brightness"])


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SPEC, encoding="utf-8")
    store = Store(tmp_path / "run")

    def make(*overrides, retry=()):
        return make_plan(load_spec(path, overrides, make.parts), store, make.parts, retry)

    make.store = store
    make.parts = fake_parts()
    return make


def write(store, cell, **fields):
    record = {"schema": 1, "key": cell.key, "method": cell.row.method, "row": cell.row.label}
    metric_keys = dict(cell.metric_keys)
    store.write_result(
        cell.key, {**record, "metric_keys": metric_keys, "cost": {"seconds": 2.0}, **fields}
    )


def fail(store, cell, status, **fields):
    store.write_failure(cell.key, {"schema": 1, "key": cell.key, "status": status, **fields})


def test_cells_are_counted_clip_by_clip(plan):
    cells = plan().cells
    assert len(cells) == 2 * (1 + 2 * 3)
    assert [cell.clip.id for cell in cells[:7]] == ["world:tiny/0"] * 7
    assert [cell.row.label for cell in cells[:2]] == ["source", "individual"]
    assert len({cell.key for cell in cells}) == len(cells)


def test_seeds_depend_on_clip_and_index_and_not_on_the_row(plan):
    cells = [cell for cell in plan().cells if not cell.row.sentinel]
    seeds = {}
    for cell in cells:
        seeds.setdefault((cell.clip.id, cell.seed_index), set()).add(cell.seed)
    assert all(len(found) == 1 for found in seeds.values())
    assert len({seed for found in seeds.values() for seed in found}) == 6
    first = cells[0]
    assert first.seed == derive_seed(0, first.clip.sha256, 0)


def test_metrics_do_not_enter_the_key_of_a_cell(plan):
    fewer, more = plan(), plan("metrics=[brightness, psnr/mean_error]")
    assert [cell.key for cell in fewer.cells] == [cell.key for cell in more.cells]
    assert fewer.cells[0].metric_keys != more.cells[0].metric_keys


def test_sentinels_do_not_depend_on_the_backbone(plan):
    one, other = plan(), plan("backbone=other")
    same = [a.key == b.key for a, b in zip(one.cells, other.cells, strict=True)]
    assert same == [cell.row.sentinel for cell in one.cells]


def test_states(plan):
    cells = plan().cells
    write(plan.store, cells[0])
    write(plan.store, cells[1], metric_keys={})
    fail(plan.store, cells[2], "oom", reason="out of memory")
    plan.store.write_sample(cells[3].key, {"schema": 1, "key": cells[3].key})
    again = plan()
    assert again.states[:5] == ("cached", "score", "failed", "score", "run")
    assert again.reasons[:5] == ("", "", "out of memory", "", "")
    assert again.counts() == {
        "cached": 1,
        "score": 2,
        "run": 10,
        "retry": 0,
        "failed": 1,
        "skipped": 0,
    }


@pytest.mark.parametrize(
    ("status", "retry", "state"),
    [
        ("failed", (), "failed"),
        ("oom", (), "failed"),
        ("diverged", (), "failed"),
        ("failed", ("failed",), "retry"),
        ("oom", ("failed",), "retry"),
        ("diverged", ("failed",), "retry"),
        ("oom", ("oom",), "retry"),
        ("oom", ("diverged",), "failed"),
        ("failed", ("oom", "diverged"), "failed"),
        ("interrupted", (), "run"),
        ("skipped", (), "run"),
    ],
)
def test_a_failure_is_left_alone_unless_asked_for(plan, status, retry, state):
    fail(plan.store, plan().cells[1], status)
    assert plan(retry=retry).states[1] == state


def test_a_failure_does_not_stick_to_other_settings(plan):
    cell = plan().cells[1]
    fail(plan.store, cell, "failed", metric_keys=dict(cell.metric_keys))
    assert plan().states[1] == "failed"
    assert plan("metrics=[psnr/mean_error]").states[1] == "run"
    assert "failed" not in plan("base.steps=9").states


def test_an_unknown_failure_is_refused(plan):
    with pytest.raises(UserError, match=r"--retry ooms: no such kind .* did you mean 'oom'"):
        plan(retry=("ooms",))


def test_time_is_unknown_without_precedent_and_the_median_with(plan):
    first = plan()
    assert first.seconds is None
    individual = [cell for cell in first.cells if cell.row.label == "individual"]
    for cell, seconds in zip(individual, (1.0, 2.0, 30.0), strict=False):
        write(plan.store, cell, cost={"seconds": seconds})
    assert plan().seconds is None  # nothing is known of the sentinel yet
    write(plan.store, first.cells[0], cost={"seconds": 0.5})
    assert plan().seconds == pytest.approx(3 * 2.0 + 6 * 2.0 + 0.5)


def test_cells_that_are_only_scored_take_the_median_of_scoring(plan):
    cells = plan().cells
    for cell, seconds in zip(cells, (3.0, 1.0, 5.0), strict=False):
        write(plan.store, cell, metric_keys={}, cost={"seconds": 9.0, "scoring_seconds": seconds})
    for cell in cells[3:]:
        write(plan.store, cell)
    again = plan()
    assert again.counts()["score"] == 3
    assert again.seconds == pytest.approx(3.0 + 2 * 3.0)  # of `source`, and of `individual`
    for cell in cells:
        write(plan.store, cell, metric_keys={})
    assert plan().seconds is None


def test_a_changed_result_is_scored_again_and_that_is_told(plan):
    cell = plan().cells[0]
    write(plan.store, cell)
    plan.store.write_sample(cell.key, {"schema": 1, "key": cell.key})
    assert plan().states[0] == "cached"
    assert "damaged" not in plan_line(plan())
    path = plan.store.cell_folder(cell.key) / "result.json"
    path.write_text(path.read_text().replace("2.0", "1.0"), encoding="utf-8")
    again = plan()
    assert (again.states[0], again.reasons[0]) == ("score", "its result.json is damaged")
    assert "score (1 cells): its result.json is damaged" in plan_text(again)
    assert plan_line(again).endswith("; 1 damaged result to be made again")


def test_a_bad_clip_is_skipped_with_the_reason(plan):
    found = plan("clips=[world:tiny/0, world:tiny/9]")
    assert found.counts()["skipped"] == found.counts()["run"] == 7
    (reason,) = {cell.problem for cell in found.with_state("skipped")}
    assert reason == "world:tiny/9: no such file. check the path"


def test_a_backbone_that_is_not_here_can_be_planned_for(plan, monkeypatch):
    def absent(config, family):
        raise UserError(Problem("backbone.unet", "no such folder", fix="download it"))

    monkeypatch.setattr(plan, "parts", replace(plan.parts, backbone_identity=absent))
    found = plan()
    assert found.counts()["skipped"] == 12
    assert found.counts()["run"] == 2
    assert found.with_state("skipped")[0].problem.startswith("backbone.unet: no such folder")
    assert "download it" in str(found.obstacle)
    assert not plan.store.root.exists()


def test_a_clip_without_the_wanted_prompt_is_skipped(plan):
    found = plan("clips=[world:tiny/7]")
    assert set(found.states) == {"skipped"}
    assert found.cells[0].problem == (
        "world:tiny/7: has no prompt of kind 'object' (allowed: caption). "
        "give one under prompts: {world:tiny/7: ...}"
    )


@pytest.mark.parametrize(
    ("override", "prompts"),
    [
        ("prompt=caption", {"world:tiny/0": {"caption 0"}, "world:tiny/1": {"caption 1"}}),
        ("prompts=[a, b]", {"world:tiny/0": {"a", "b"}, "world:tiny/1": {"a", "b"}}),
        (
            "prompts={world:tiny/1: [x, y]}",
            {"world:tiny/0": {"prompt 0"}, "world:tiny/1": {"x", "y"}},
        ),
    ],
)
def test_prompts(plan, override, prompts):
    found = {}
    for cell in plan(override).cells:
        if not cell.row.sentinel:
            found.setdefault(cell.clip.id, set()).add(cell.prompt)
    assert found == prompts


def test_what_cells_share_is_counted_and_looked_up(tmp_path):
    """By the keys that a worker keeps it under: the plan and the worker make them apart."""
    import torch

    from ablations.bench import Bench

    needy = Entry("fake_parts:brightness", "needs flow", {"needs": ["flow"]})
    lab = Lab(tmp_path, spec_text(clip={"frames": 2, "size": 32}, base={"controls": ["edges"]}))
    lab.parts = replace(
        lab.parts,
        metrics=Registry("metric", {"psnr/mean_error": needy}, "crossframe.tests.none"),
        flow=shipped_parts().flow,
        control=lambda kind, clip, seen: torch.zeros(2, 3, 32, 32),
    )
    plan = lab.plan()
    stages = ("decode", "control", "flow")
    prompts = {"text": Shared(2)}
    assert plan.shared == {**dict.fromkeys(stages, Shared(2, 0)), **prompts}
    clip = Bench(plan.checked.spec, None, lab.parts, lab.store).clip(plan.cells[0].clip)
    clip.controls(("edges",))
    assert clip.flow is not None
    again = lab.plan()
    assert again.shared == {**dict.fromkeys(stages, Shared(2, 1)), **prompts}
    assert "2 clips (1 there), 2 control maps (1 there)" in plan_text(again)
    assert plan_record(again)["shared"]["flow"] == {"count": 2, "kept": 1}


def test_inversions_and_tunings_are_counted_as_methods_share_them(tmp_path):
    real = shipped_parts()
    text = spec_text(
        method="tuneavideo",
        base={"tuning.steps": 5},
        grid={"guidance.scale": [1.0, 2.0, 3.0], "start": ["inversion", "noise"]},
        sentinels=[],
    )
    lab = Lab(tmp_path, text)
    lab.parts = replace(lab.parts, methods=real.methods, method_config=real.method_config)
    # Two clips with two seeds each; guidance changes neither, and noise needs no inversion.
    assert lab.plan().shared["tuning"] == Shared(4)
    assert lab.plan().shared["inversion"] == Shared(4)
    assert "inversion" not in lab.plan("grid={start: [noise]}").shared
    assert lab.plan("method=ddim", "base={}", "grid={steps: [2, 3]}").shared["inversion"].count == 4
