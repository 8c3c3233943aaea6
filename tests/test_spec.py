"""Spec files as a whole: fields, golden error texts, roles of fields in identity."""

from pathlib import Path

import pytest
from fake_parts import fake_parts

from ablations.check import load_spec
from ablations.plan import make_plan
from ablations.spec import FIELD_ROLES, json_schema
from ablations.store import Store
from crossframe.errors import UserError

GOOD = """\
name: good
method: noisy
sentinels: [source]
base: {steps: 2, attention: {alpha: 0.5}}
grid:
  attention.pattern: [individual, first, full]
clips: [world:tiny/0..1]
clip: {frames: 2, size: 8}
seeds: {base: 0, count: 2}
metrics: [psnr/mean_error]
report: {rows: attention.pattern, baseline: individual}
claims:
  - {text: full < individual on psnr/mean_error, source: a paper}
"""


def load(tmp_path, text, *overrides):
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return load_spec(path, overrides, fake_parts())


def errors(tmp_path, monkeypatch, text, *overrides):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_spec(Path("s.yaml"), overrides, fake_parts())
    return str(caught.value).splitlines()


def test_a_good_spec_loads(tmp_path):
    checked = load(tmp_path, GOOD)
    assert [row.label for row in checked.rows] == ["source", "individual", "first", "full"]
    assert checked.clips == ("world:tiny/0", "world:tiny/1")
    assert checked.spec.seeds.count == 2


CHANGES = {
    "name": "name=other",
    "title": "title=t",
    "description": "description=d",
    "backbone": "backbone=other",
    "encoder": "encoder=other",
    "method": ("method=source", "base={}", "grid={}", "report={}", "claims=[]", "sentinels=[]"),
    "sentinels": "sentinels=[]",
    "base": "base.attention.alpha=0.25",
    "grid": ("grid.attention.pattern=[individual, full]",),
    "zip": "zip.steps=[4, 5]",
    "include": "include=[{label: more, steps: 9}]",
    "exclude": "exclude=[{attention.pattern: first}]",
    "clips": "clips=[world:tiny/0]",
    "clip.frames": "clip.frames=3",
    "clip.size": "clip.size=9",
    "clip.start": "clip.start=1",
    "clip.stride": "clip.stride=2",
    "prompt": "prompt=caption",
    "prompts": "prompts=[another]",
    "seeds.base": "seeds.base=1",
    "seeds.count": "seeds.count=1",
    "metrics": "metrics=[psnr/mean_error, brightness]",
    "geometry": "geometry=tgve",
    "flow": "flow=raft",
    "threads": "threads=1",
    "report.rows": "report.rows=''",
    "report.baseline": "report.baseline=full",
    "report.metrics": "report.metrics=[psnr/mean_error]",
    "report.clips": "report.clips=[world:tiny/0]",
    "report.columns": "report.columns=attention.pattern",
    "report.figures.name": "report.figures=[{name: a, kind: bars}]",
    "report.figures.kind": "report.figures=[{name: a, kind: radar}]",
    "report.figures.caption": "report.figures=[{name: a, kind: bars, caption: c}]",
    "report.figures.width": "report.figures=[{name: a, kind: bars, width: column}]",
    "report.figures.metrics": "report.figures=[{name: a, kind: bars, metrics: [psnr/mean_error]}]",
    "report.figures.rows": "report.figures=[{name: a, kind: bars, rows: [full]}]",
    "report.figures.clips": "report.figures=[{name: a, kind: strips, clips: [world:tiny/0]}]",
    "report.figures.axes": "report.figures=[{name: a, kind: axis, axes: [attention.pattern]}]",
    "report.figures.frames": "report.figures=[{name: a, kind: strips, frames: [0, 1]}]",
    "report.figures.zoom": "report.figures=[{name: a, kind: strips, zoom: [[0, 0, 0.5, 0.5]]}]",
    "report.figures.seed": "report.figures=[{name: a, kind: strips, seed: 1}]",
    "claims.text": "claims.0.text=full > individual on psnr/mean_error",
    "claims.source": "claims.0.source=another",
    "claims.paper": "claims.0.paper={full: 1.0}",
    "paper.work": "paper={work: w, place: p, columns: [{name: c}], rows: {full: [1]}}",
    "paper.place": "paper={work: w, place: q, columns: [{name: c}], rows: {full: [1]}}",
    "paper.setting": "paper={work: w, place: p, setting: s, columns: [{name: c}], rows: {}}",
    "paper.columns.name": "paper={work: w, place: p, columns: [{name: d}], rows: {}}",
    "paper.columns.metric": (
        "paper={work: w, place: p, columns: [{name: c, metric: psnr/mean_error}], rows: {}}"
    ),
    "paper.columns.factor": "paper={work: w, place: p, columns: [{name: c, factor: 2}], rows: {}}",
    "paper.rows": "paper={work: w, place: p, columns: [{name: c}], rows: {full: [2.5]}}",
    "paper.absent": (
        "paper={work: w, place: p, columns: [{name: c}], rows: {x: [1]}, absent: {x: why}}"
    ),
    "paper.notes": "paper={work: w, place: p, columns: [{name: c}], rows: {}, notes: [n]}",
    "scale": ("scales={large: {title: t}}", "scale=large"),
    "scales": "scales={large: {base.steps: 9}}",
}


def keys(checked, tmp_path):
    plan = make_plan(checked, Store(tmp_path / "none"), fake_parts())
    return {(cell.key, tuple(sorted(cell.metric_keys.items()))) for cell in plan.cells}


@pytest.mark.parametrize("field", FIELD_ROLES)
def test_identity_fields_and_no_others_change_keys(field, tmp_path):
    change = CHANGES[field]
    text = GOOD.replace("[psnr/mean_error]", "[psnr/mean_error, clip/aligned]")
    overrides = change if isinstance(change, tuple) else (change,)
    extra = ("report={}", "claims=[]") if field in ("zip", "include") else ()
    before = keys(load(tmp_path, text), tmp_path)
    after = keys(load(tmp_path, text, *overrides, *extra), tmp_path)
    assert (before != after) == (FIELD_ROLES[field] == "identity")


def test_golden_errors(tmp_path, monkeypatch):
    text = """\
name: Bad Name
method: nosy
sentinels: [source, sorce]
base: {stps: 2}
grids: {}
clips: []
clip: {frames: "8", sise: 64}
seeds: {count: 0}
metrics: [psnr/mean_eror]
name: again
"""
    assert errors(tmp_path, monkeypatch, text) == [
        "s.yaml:1:7: name: String should match pattern '^[a-z0-9][a-z0-9._-]*$' (got Bad Name)",
        "s.yaml:2:9: method: unknown method 'nosy' (allowed: noisy, source). did you mean 'noisy'?",
        "s.yaml:3:21: sentinels[1]: unknown method 'sorce' (allowed: noisy, source). "
        "did you mean 'source'?",
        "s.yaml:5:1: grids: unknown key 'grids' (allowed: name, title, description, backbone, "
        "encoder, geometry, flow, method, sentinels, base, grid, zip, include, exclude, clips, "
        "clip, prompt, prompts, seeds, metrics, threads, report, claims, paper, scale, scales). "
        "did you mean 'grid'?",
        "s.yaml:6:8: clips: must not be empty",
        "s.yaml:7:16: clip.frames: should be a valid integer (got 8)",
        "s.yaml:7:21: clip.sise: unknown key 'sise' (allowed: frames, size, start, stride). "
        "did you mean 'size'?",
        "s.yaml:8:16: seeds.count: should be greater than or equal to 1 (got 0)",
        "s.yaml:9:11: metrics[0]: unknown metric 'psnr/mean_eror' (allowed: psnr/mean_error, "
        "brightness, clip/aligned). did you mean 'psnr/mean_error'?",
        "s.yaml:10:1: name: key given twice, first at s.yaml:1:1. keep one of them",
    ]


def test_golden_errors_of_options(tmp_path, monkeypatch):
    text = """\
name: bad
method: noisy
base:
  stps: 2
  attention: {alpha: 2.0}
grid:
  attention.pattern: [individual, ful]
  atention.alpha: [0.0, 1.0]
  steps: [1, many]
zip: {controls: [[a], [b]], sleep: [0.0]}
exclude: [{attention.patern: full}]
clips: [world:tiny/0]
metrics: [brightness]
"""
    assert errors(tmp_path, monkeypatch, text) == [
        "s.yaml:4:3: base.stps: unknown key 'stps' (allowed: preset, attention, steps, controls, "
        "fail, sleep, tune, death). did you mean 'steps'?",
        "s.yaml:5:22: base.attention.alpha: should be less than or equal to 1 (got 2.0)",
        "s.yaml:7:35: grid.attention.pattern[1]: ful is not one of the values "
        "(allowed: individual, first, full). did you mean 'full'?",
        "s.yaml:8:3: grid.atention.alpha: unknown key 'atention' (allowed: preset, attention, "
        "steps, controls, fail, sleep, tune, death). did you mean 'attention'?",
        "s.yaml:9:14: grid.steps[1]: should be a valid integer, unable to parse string as an "
        "integer (got many)",
        "s.yaml:10:6: zip: lists of different length: controls has 2, sleep has 1",
        "s.yaml:11:12: exclude[0].attention.patern: 'attention.patern' is not a grid or zip axis "
        "(allowed: attention.pattern, atention.alpha, steps, controls, sleep). "
        "did you mean 'attention.pattern'?",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("report.baseline=ful", "'ful' is not a row (allowed: source, individual, first, full)"),
        ("report.rows=attention.patern", "did you mean 'attention.pattern'?"),
        ("claims.0.text=full better", "does not read as a claim"),
        ("claims.0.text=full < best on psnr/mean_error", "'best' is not a row"),
        ("claims.0.text=full < first < best on psnr/mean_error", "'best' is not a row"),
        ("claims.0.text=full < first on warp", "'warp' is not a metric of this spec"),
        ("grid.attention.pattern=full", "must be a list of values"),
        ("grid={attention: {pattern: [full]}}", "must be a list of values"),
        ("exclude=[{attention.pattern: [individual, first, full]}]", "leaves no row"),
        ("prompts={world:tiny/9: x}", "'world:tiny/9' is not a clip of this spec"),
        ("prompts=3", "must be a list of prompts, or a mapping"),
        ("clips=[world:tiny/3..1]", "runs backwards"),
        ("include=[{label: full, steps: 9}]", "2 rows are called 'full'"),
        ("metrics=[psnr/mean_error, psnr/mean_error]", "is listed 2 times"),
        ("backbone=3", "must be a name or a mapping"),
        ("seeds.count=true", "should be a valid integer"),
        ("nonsense=1", "unknown key 'nonsense'"),
    ],
)
def test_problems_of_meaning(override, message, tmp_path, monkeypatch):
    found = errors(tmp_path, monkeypatch, GOOD, override)
    assert any(message in line and line.startswith(("--set", "s.yaml:")) for line in found), found


def test_figures_name_what_the_spec_has(tmp_path, monkeypatch):
    text = GOOD.replace(
        "report: {rows: attention.pattern, baseline: individual}",
        """\
report:
  rows: attention.pattern
  clips: [world:tiny/2]
  figures:
    - {name: a, kind: bars, metrics: [psnr/mean_eror], rows: [ful]}
    - {name: a, kind: axis, axes: [attention.patern]}
    - {name: b, kind: strips, clips: [world:tiny/7], frames: [0, 2], seed: 2}""",
    )
    clips = "(allowed: world:tiny/0, world:tiny/1)"
    assert errors(tmp_path, monkeypatch, text) == [
        "s.yaml:13:11: report.clips[0]: 'world:tiny/2' is not a clip of this spec "
        f"{clips}. did you mean 'world:tiny/1'?",
        "s.yaml:15:14: report.figures[0].name: 2 figures are called 'a'",
        "s.yaml:15:39: report.figures[0].metrics[0]: 'psnr/mean_eror' is not a metric of this "
        "spec (allowed: psnr/mean_error). did you mean 'psnr/mean_error'?",
        "s.yaml:15:63: report.figures[0].rows[0]: 'ful' is not a row "
        "(allowed: source, individual, first, full). did you mean 'full'?",
        "s.yaml:16:14: report.figures[1].name: 2 figures are called 'a'",
        "s.yaml:16:36: report.figures[1].axes[0]: 'attention.patern' is not an axis "
        "(allowed: attention.pattern). did you mean 'attention.pattern'?",
        "s.yaml:17:39: report.figures[2].clips[0]: 'world:tiny/7' is not a clip of this spec "
        f"{clips}. did you mean 'world:tiny/1'?",
        "s.yaml:17:62: report.figures[2].frames: there is no frame 2 (allowed: 0 to 1)",
        "s.yaml:17:76: report.figures[2].seed: there is no seed 2 (allowed: 0 to 1)",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ("grid.attention.pattern=[full]",),
        ("seeds.count=1",),
        ("clip.frames=1",),
        ("grid={}",),
        ("metrics=[brightness]",),
        ("clips=[world:tiny/0]",),
        ("sentinels=[]",),
    ],
)
def test_a_spec_may_be_narrowed_on_the_command_line(overrides, tmp_path):
    figure = "{name: a, kind: strips, frames: [1], seed: 1, rows: [first], clips: [world:tiny/1]}"
    text = GOOD.replace(
        "report: {", f"prompts: {{world:tiny/1: x}}\nreport: {{figures: [{figure}], "
    )
    load(tmp_path, text, *overrides)


def test_a_field_missing_is_named(tmp_path, monkeypatch):
    found = errors(tmp_path, monkeypatch, "name: x\nmethod: noisy\nclips: [world:tiny/0]\n")
    assert found == ["s.yaml:1:1: metrics: 'metrics' is missing"]


def test_the_schema_lists_names():
    fields = json_schema(["m"], ["warp/x"])["properties"]
    assert fields["method"]["enum"] == ["m"]
    listed, named = fields["metrics"]["anyOf"]
    assert listed["items"]["enum"][:2] == ["warp/x", "preset:tgve"]
    assert "tgve" in named["properties"]["preset"]["enum"]
    assert "vbench" in fields["geometry"]["enum"]
    assert "raft" in fields["flow"]["enum"]
    assert "backbone" in fields
