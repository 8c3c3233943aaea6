import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reports_store import CLAIMS, CONSISTENCY, INFOS, Shape, write_store

from ablations.seals import sealed
from crossframe.errors import UserError
from crossframe.files import read_json, write_json
from reports import write_report
from reports.load import load_run
from reports.page import embed, render_page
from reports.page.render import whisker
from reports.statistics import Interval
from reports.tables import summarise

SMALL = Shape(clips=2, seeds=2, frames=3, side=16)
REASON = "OutOfMemoryError: <2 GiB & more>"


def rendered(root: Path) -> str:
    """The page alone, without the figures."""
    run = load_run(root, INFOS)
    return render_page(run, summarise(run), [])


def known(text: str) -> dict[str, Any]:
    """The data that the script of a page draws from."""
    block = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return dict(json.loads(block))


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


def test_a_report_is_not_written_through_a_link(tmp_path: Path) -> None:
    root = write_store(tmp_path / "run", SMALL)
    (root / "report").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="report: is, or lies behind, a symbolic link"):
        write_report(root, INFOS)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("damage", ["changed", "[]", "{", ""])
def test_a_damaged_result_counts_as_missing(tmp_path: Path, damage: str) -> None:
    root = write_store(tmp_path / "run", SMALL)
    path = next(root.glob("cells/*/result.json"))
    record = read_json(path)
    write_json(path, sealed(record))
    assert {cell.state for cell in load_run(root, INFOS).cells} == {"done"}
    changed = json.dumps({**sealed(record), "metrics": {}})
    path.write_text(changed if damage == "changed" else damage, encoding="utf-8")
    (cell,) = [cell for cell in load_run(root, INFOS).cells if cell.state != "done"]
    assert (cell.key, cell.status, cell.metrics) == (record["key"], "missing", {})
    assert cell.reason.startswith("its record is damaged")


def test_everything_is_written(page: Path) -> None:
    names = {path.name for path in page.parent.iterdir()}
    assert names == {
        "index.html", "table.csv", "table.md", "table.tex", "cells.csv", "cells.parquet", "figures",
        "tables",
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


def test_figures_that_were_not_drawn_are_told_with_the_reason(tmp_path: Path) -> None:
    root = write_store(tmp_path, replace(SMALL, metrics=(CONSISTENCY,)))
    spec = read_json(root / "spec.json")
    figures = [{"name": "mine", "kind": "radar"}, {"name": "bars", "kind": "bars"}]
    write_json(root / "spec.json", {**spec, "report": {**spec["report"], "figures": figures}})
    text = write_report(root, INFOS).read_text()
    section = re.split("<section", text.split('id="figures"')[1])[0]
    assert (
        "The spec asks for <code>mine</code>, which could not be drawn: it needs 3 metrics"
        in section
    )
    assert "<code>scatter</code>: " in section
    assert "<code>errors</code>: " in section
    assert "2 usual figures not drawn" in section
    told = (root / "report" / "figures" / "not-drawn.txt").read_text()
    assert [line.split(":")[0] for line in told.splitlines()] == ["mine"]


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


def test_the_source_is_shown_even_where_it_is_no_row(tmp_path: Path) -> None:
    rows = ("individual", "full", "frozen")
    shape = replace(SMALL, rows=rows, claims=[])
    made = known(rendered(write_store(tmp_path, shape)))
    assert [row["label"] for row in made["rows"]] == ["source", *rows]
    assert made["rows"][0]["onlyClips"]
    assert len(made["cells"]) == 2 * (2 + 2 + 1)


def test_data_of_cells_is_shared_and_rounded(page: Path) -> None:
    made = known(page.read_text())
    assert len(made["cells"]) == 16
    assert len(made["configs"]) == 6  # one per row, and the failed cell's empty one
    assert made["prompts"] == ["a blue star on a striped background"]
    failed = next(cell for cell in made["cells"] if cell["state"] == "failed")
    assert failed["reason"] == REASON
    assert failed["traceback"].startswith("Traceback")
    done = next(cell for cell in made["cells"] if cell["state"] == "done")
    assert done["seed"] == 0
    assert done["frames"] == SMALL.frames
    assert done["values"][CONSISTENCY] == 0.8
    assert all(len(f"{value:g}") <= 8 for value in done["series"][CONSISTENCY])


def test_definitions_name_what_the_cells_were_scored_with(tmp_path: Path) -> None:
    root = write_store(tmp_path, SMALL)
    for path in root.glob("cells/*/result.json"):
        record = json.loads(path.read_text())
        record["metrics"][CONSISTENCY]["detail"] = {"encoder": "miniature clip", "coverage": 0.9}
        path.write_text(json.dumps(record))
    text = rendered(root)
    definition = text[text.index('id="metric-1"') : text.index('id="metric-2"')]
    assert "<dt>encoder</dt><dd>miniature clip</dd>" in definition
    assert "<dt>range</dt><dd>-1 to 1</dd>" in definition
    assert "Higher is better." in definition
    assert "coverage" not in definition
    assert text.count('href="#metric-1"') == 1


def test_videos_are_there_without_a_script(page: Path) -> None:
    text = page.read_text()
    gallery = text[text.index('id="watch"') : text.index('id="figures"')].split("<noscript>")[1]
    videos = [attributes for tag, attributes in Tags(gallery).found if tag == "video"]
    assert len(videos) == 15 + 2
    assert all("controls" in each and each["preload"] == "none" for each in videos)


@pytest.mark.parametrize(
    ("interval", "span", "drawn"),
    [
        (Interval(2.0, 1.0, 4.0, 8), (0.0, 4.0), {"left": 25, "width": 75, "dot": 50}),
        (Interval(1.0, math.nan, math.nan, 1), (0.0, 4.0), {"left": 25, "width": 0, "dot": 25}),
        (Interval(math.nan, math.nan, math.nan, 0), (0.0, 4.0), None),
        (Interval(1.0, 1.0, 1.0, 8), (1.0, 1.0), None),
    ],
)
def test_whiskers_are_drawn_in_percent_of_the_column(interval, span, drawn) -> None:
    assert whisker(interval, span) == drawn


def test_claims_of_the_store_are_those_of_the_page(page: Path) -> None:
    text = page.read_text()
    for claim in CLAIMS:
        assert claim["text"].replace(">", "&gt;").replace("<", "&lt;") in text
