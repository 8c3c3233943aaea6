import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from reports_store import CLAIMS, CONSISTENCY, INFOS, Shape, write_store

from reports import write_report
from reports.load import load_run
from reports.page import embed, render_page
from reports.tables import summarise

SMALL = Shape(clips=2, seeds=2, frames=3, side=16)
REASON = "OutOfMemoryError: <2 GiB & more>"
CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=8000", "--dump-dom",
)  # fmt: skip


def rendered(root: Path) -> str:
    """The page alone, without the figures."""
    run = load_run(root, INFOS)
    return render_page(run, summarise(run), [])


class Tags(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = replace(SMALL, videos=True, fail={("full", 1, 0): REASON})
    return write_report(write_store(tmp_path_factory.mktemp("run"), shape), INFOS)


def test_everything_is_written(page: Path) -> None:
    names = {path.name for path in page.parent.iterdir()}
    assert names == {
        "index.html", "table.csv", "table.md", "table.tex", "cells.csv", "cells.parquet", "figures",
    }  # fmt: skip
    pictures = {path.name for path in (page.parent / "figures").glob("*.png")}
    assert pictures == {
        "bars.png", "differences.png", "scatter.png", "curves.png", "strips.png", "xt.png",
    }  # fmt: skip
    cells = pd.read_parquet(page.parent / "cells.parquet")
    assert len(cells) == len(pd.read_csv(page.parent / "cells.csv")) == 16
    assert set(cells["state"]) == {"done", "failed"}


def test_nothing_is_fetched_from_outside_and_every_file_exists(page: Path) -> None:
    for tag, attributes in Tags(page.read_text()).found:
        for name in ("src", "href", "poster"):
            target = attributes.get(name)
            if target and not target.startswith(("#", "data:")):
                assert (page.parent / target).exists(), (tag, target)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page.read_text())


def test_text_from_the_run_is_escaped(page: Path) -> None:
    text = page.read_text()
    assert "<title>Frame attention &amp; &lt;friends&gt;</title>" in text
    assert "OutOfMemoryError: &lt;2 GiB &amp; more&gt;" in text
    assert "<friends>" not in text
    assert "<2 GiB" not in text


def test_embedded_data_cannot_end_its_script() -> None:
    hostile = {"a": "</script><!--\u2028"}
    assert "<" not in embed(hostile)
    assert json.loads(embed(hostile)) == hostile


def test_claims_come_first_and_the_miniature_is_named(page: Path) -> None:
    text = page.read_text()
    assert 0 < text.index('id="claims"') < text.index('id="results"') < text.index('id="watch"')
    assert "they test orderings and mechanisms, never absolute paper values" in text
    assert "20.13" in text
    assert "2 common clips, 6 are needed" in text


def test_labels_and_alternatives(page: Path) -> None:
    found = Tags(page.read_text()).found
    assert all(attributes.get("alt") for tag, attributes in found if tag == "img")
    assert ("html", {"lang": "en"}) in found
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_half_a_run_still_reports(tmp_path: Path) -> None:
    done = replace(SMALL, skip=[(row, 1, seed) for row in SMALL.rows for seed in (0, 1)])
    text = rendered(write_store(tmp_path, done))
    assert "8 of 16 done" in text
    assert "8 of 16 cells have not run yet" in text


def test_a_run_without_any_result_still_reports(tmp_path: Path) -> None:
    nothing = [(row, clip, seed) for row in SMALL.rows for clip in (0, 1) for seed in (0, 1)]
    page = write_report(write_store(tmp_path, replace(SMALL, skip=nothing)), INFOS)
    assert "No cell is done yet" in page.read_text()
    assert list((page.parent / "figures").iterdir()) == []


def test_an_unavailable_metric_says_why(tmp_path: Path) -> None:
    shape = replace(SMALL, unavailable={CONSISTENCY: "weights absent; get them with X"})
    text = rendered(write_store(tmp_path, shape))
    assert "unavailable for 16 cells: weights absent; get them with X" in text


def test_real_backbones_carry_no_miniature_caveat(tmp_path: Path) -> None:
    root = write_store(tmp_path, SMALL)
    spec = json.loads((root / "spec.json").read_text())
    (root / "spec.json").write_text(json.dumps({**spec, "backbone": {"unet": "/models/sd15"}}))
    assert "miniature networks" not in rendered(root)


def test_reports_import_no_torch() -> None:
    code = "import sys, reports; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What a person would do, said in the page's own terms; the outcome is left in the document.
DRIVER = """
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const press = (key) => document.body.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true }));
const loaded = (video) => video.readyState >= 2 ? null
  : new Promise((resolve) => video.addEventListener("loadeddata", resolve, { once: true }));
(async () => {
  const seen = {};
  const all = () => [...document.querySelectorAll(".tile video")];
  await Promise.all(all().map(loaded));
  seen.players = all().length;
  press("ArrowRight");
  seen.stepped = document.getElementById("frame").textContent;
  await wait(500);
  seen.times = all().map((video) => Math.floor(video.currentTime * 8));
  press(" ");
  seen.playing = document.getElementById("play").textContent.includes("Pause");
  await wait(200);
  press(" ");
  seen.paused = document.getElementById("play").textContent.includes("Play");
  document.querySelectorAll("#main-table th button")[2].click();
  const heads = document.querySelectorAll("#main-table tbody:first-of-type th");
  seen.sorted = [...heads].map((th) => th.textContent);
  const clip = document.getElementById("clip");
  clip.value = "world:heldout/1";
  clip.dispatchEvent(new Event("change"));
  seen.absent = [...document.querySelectorAll(".absent")].map((node) => node.textContent);
  document.querySelectorAll(".tile button")[1].click();
  seen.chosen = document.querySelector("#cell h3").textContent;
  seen.curves = document.querySelectorAll("#cell svg polyline").length;
  seen.cells = document.querySelectorAll("#cells-body tr").length;
  seen.errors = document.documentElement.dataset.errors ?? "";
  document.documentElement.dataset.seen = JSON.stringify(seen);
})();
"""


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[Path], str]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")

    def dump(path: Path) -> str:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True
        ).stdout

    return dump


def test_the_page_works_in_a_browser_from_a_file(page: Path, browse: Callable[[Path], str]) -> None:
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text().replace("</body>", f"<script>{DRIVER}</script></body>"))
    try:
        tags = Tags(browse(driven)).found
    finally:
        driven.unlink()
    root = next(attributes for tag, attributes in tags if tag == "html")
    assert root.get("data-ready") == "5"
    seen = json.loads(root.get("data-seen") or "{}")
    assert seen["errors"] == ""
    assert seen["players"] == 5
    assert seen["stepped"] == "frame 1 / 2"
    assert seen["times"] == [1] * 5
    assert seen["playing"]
    assert seen["paused"]
    assert seen["sorted"] == ["full", "first+previous", "individual"]
    assert seen["absent"] == [f"failed: {REASON}"]
    assert seen["chosen"] == "individual · world:heldout/1 · seed 0"
    assert seen["curves"] == 3 * 4
    assert seen["cells"] == 16


def test_claims_of_the_store_are_those_of_the_page(page: Path) -> None:
    text = page.read_text()
    for claim in CLAIMS:
        assert claim["text"].replace(">", "&gt;").replace("<", "&lt;") in text
