"""What the documentation shows works: specs, commands, code, definitions, links."""

import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ablations.check import load_spec
from ablations.shipped import shipped_parts
from crossframe.verbs.common import find_spec
from data_manifests.footage import read_sidecar
from methods.base import SampleRequest
from metrics import METRICS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
SET = re.compile(r"^    crossframe (?:run|plan) (demo .*--set.*)$", re.MULTILINE)


def blocks(page, language):
    text = (ROOT / page).read_text(encoding="utf-8")
    return [body for found, body in FENCE.findall(text) if found == language]


def specs():
    pages = ("README.md", "docs/spec.md")
    return [body for page in pages for body in blocks(page, "yaml") if body.startswith("name:")]


@pytest.mark.parametrize("text", specs(), ids=lambda text: text.splitlines()[0])
def test_specs_are_accepted(text, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_spec(path, (), shipped_parts()).rows


def test_the_sweep_has_as_many_rows_as_the_text_says(tmp_path):
    (text,) = [text for text in specs() if text.startswith("name: sweeps")]
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    assert len(load_spec(path, (), shipped_parts()).rows) == 11


def test_the_sidecar_is_accepted(tmp_path):
    (text,) = [b for b in blocks("docs/spec.md", "yaml") if b.startswith("caption:")]
    path = tmp_path / "dog.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_sidecar(path).edits["style"].startswith("an oil painting")


@pytest.mark.parametrize("line", SET.findall((ROOT / "docs/spec.md").read_text(encoding="utf-8")))
def test_overrides_are_accepted(line):
    words = shlex.split(line)
    sets = [value for flag, value in pairwise(words) if flag == "--set"]
    assert load_spec(find_spec("demo"), sets, shipped_parts()).rows


def test_attention_installs_as_shown():
    (code,) = blocks("docs/attention.md", "python")
    made = {}
    exec(code, made)
    assert made["noise"].shape == made["latents"].shape


def test_the_example_method_runs(monkeypatch):
    config, sampler, _ = blocks("docs/adding-a-method.md", "python")
    for name, code in (("config", config), ("sampler", sampler)):
        module = ModuleType(f"methods.average.{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "methods.average", ModuleType("methods.average"))
    request = SampleRequest(torch.rand(3, 3, 4, 4), "")
    made = sys.modules["methods.average.sampler"]
    options = sys.modules["methods.average.config"].AverageConfig

    def run(keep):
        return made.sample(None, request, options(keep=keep), lambda done, total: None)

    assert torch.equal(run(1.0), request.frames)
    assert torch.equal(run(0.0)[0], run(0.0)[2])


def test_definitions_are_those_of_the_registry():
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for name in METRICS.entries:
        definition = METRICS.entry(name).extra["definition"]
        assert f"- `{name}`: {definition}\n" in text, f"docs/metrics.md lacks {name} as printed"


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        if path.suffix == ".png":
            continue  # pictures are written by the demo
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}#{anchor}"
