"""The page in a real browser, opened from a file, with real keys and a real pointer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import CHROMIUM, Browser
from PIL import Image, ImageColor
from reports_store import INFOS, Shape, plain_score, write_store

from reports import write_report
from reports.load import load_run
from reports.page import render_page
from reports.style import looks
from reports.tables import summarise

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"
)
REASON = "OutOfMemoryError: <2 GiB & more>"
ROWS = ["source", "individual", "first+previous", "full", "frozen"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    shape = Shape(clips=2, seeds=2, frames=6, videos=True, fail={("full", 1, 0): REASON})
    return write_report(write_store(tmp_path_factory.mktemp("run"), shape), INFOS).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(browser: Browser) -> Iterator[None]:
    """No test may leave an error in the console, nor ask for anything but files."""
    browser.troubles.clear()
    browser.asked.clear()
    browser.size(1440, 1000)
    yield
    assert browser.troubles == []
    strange = [each for each in browser.asked if not each.startswith(("file:", "data:", "about:"))]
    assert strange == []


def watch(browser: Browser, address: str) -> None:
    """Open a page at its players and wait until those in sight have a picture."""
    browser.open(address)
    browser.run("document.getElementById('watch').scrollIntoView()")
    browser.until(
        "(all => all.length > 0 && all.every(v => v.readyState >= 2))"
        "([...document.querySelectorAll('.stage video')])"
    )


def text(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).textContent"))


def texts(browser: Browser, selector: str) -> list[str]:
    code = f"[...document.querySelectorAll({json.dumps(selector)})]"
    return list(browser.run(f"{code}.filter(n => n.checkVisibility()).map(n => n.textContent)"))


def choose(browser: Browser, selector: str, value: str) -> None:
    browser.run(
        f"(n => {{ n.value = {json.dumps(value)}; n.dispatchEvent(new Event('change')); }})"
        f"(document.querySelector({json.dumps(selector)}))"
    )


FRAMES = (
    "[...document.querySelectorAll('.grid .stage video')].map(v => Math.floor(v.currentTime * 8))"
)


def test_all_videos_step_together(page: str, browser: Browser) -> None:
    watch(browser, page)
    for key, frame in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 5)):
        browser.press(key)
        assert text(browser, "#frame") == f"frame {frame} / 5"
        browser.until(f"{FRAMES}.length === 9 && {FRAMES}.every(f => f === {frame})")
    browser.press("ArrowRight")
    assert text(browser, "#frame") == "frame 0 / 5"


def test_all_videos_play_in_step_and_pause_on_one_frame(page: str, browser: Browser) -> None:
    watch(browser, page)
    browser.press(" ")
    assert "Pause" in text(browser, "#play")
    browser.until("[...document.querySelectorAll('.grid video')].every(v => v.currentTime > .3)")
    assert browser.run("[...document.querySelectorAll('.stage video')].some(v => !v.paused)")
    browser.press(" ")
    assert "Play" in text(browser, "#play")
    browser.until(
        f"new Set({FRAMES}).size === 1"
        f" && {FRAMES}[0] === Number(document.getElementById('scrub').value)"
    )
    assert browser.run("[...document.querySelectorAll('video')].every(v => v.paused)")


def test_one_line_plays_alone(page: str, browser: Browser) -> None:
    watch(browser, page + "#speed=0.5")
    browser.click(".line:nth-child(2) .solo")
    browser.until(
        "[...document.querySelectorAll('.line:nth-child(2) video')].every(v => v.currentTime > .2)"
    )
    moved = browser.run(
        "[...document.querySelectorAll('.line:nth-child(1) video')].map(v => v.currentTime)"
    )
    assert max(moved) < 1 / 8
    browser.click(".line:nth-child(2) .solo")
    assert browser.run("[...document.querySelectorAll('video')].every(v => v.paused)")


def test_without_loop_the_last_frame_stays(page: str, browser: Browser) -> None:
    watch(browser, page + "#loop=0&frame=3&speed=2")
    browser.press(" ")
    browser.until("document.getElementById('play').textContent.includes('Play')")
    assert text(browser, "#frame") == "frame 5 / 5"


def test_the_table_sorts_and_leaves_sentinels_apart(page: str, browser: Browser) -> None:
    browser.open(page)
    heads = "#main-table tbody th"
    assert texts(browser, heads) == ["individual", "first+previous", "full", "source", "frozen"]
    warp = "#main-table th:nth-child(3) button"
    browser.click(warp)
    assert texts(browser, heads) == ["full", "first+previous", "individual", "source", "frozen"]
    browser.click(warp)
    assert texts(browser, heads) == ["individual", "first+previous", "full", "frozen", "source"]
    browser.until("location.hash === '#main=2d'")
    browser.click(warp)
    assert texts(browser, heads) == ["individual", "first+previous", "full", "source", "frozen"]


def test_the_filter_acts_on_tables_and_videos(page: str, browser: Browser) -> None:
    browser.open(page)
    browser.press("/")
    browser.call("Input.insertText", text="warp<0.056 heldout/0")
    browser.until("document.getElementById('filtered').textContent === '3 of 16 cells'")
    rows = texts(browser, "#cells-body tr td:first-child")
    assert rows == ["full", "full", "source"]
    browser.until("document.querySelectorAll('.line').length === 1")
    assert texts(browser, ".tile button") == ["source", "full"]
    browser.until("location.hash.includes('q=warp')")
    browser.open(page + "#q=failed")
    assert texts(browser, "#cells-body tr td:nth-child(2)") == ["world:heldout/1"]
    assert texts(browser, "#main-table tbody th") == ["full"]


@pytest.mark.parametrize(
    ("down", "across", "lines", "columns"),
    [
        ("clip", "row", ["world:heldout/0", "world:heldout/1"], ROWS),
        ("row", "clip", ROWS, ["world:heldout/0", "world:heldout/1"]),
        ("axis:attention.pattern", "seed", ["attention.pattern " + row for row in ROWS[1:4]], None),
        ("seed", "clip", ["seed 0", "seed 1"], ["world:heldout/0", "world:heldout/1"]),
    ],
)
def test_any_two_axes(page: str, browser: Browser, down, across, lines, columns) -> None:
    browser.open(page)
    choose(browser, "#down", down)
    choose(browser, "#across", across)
    browser.run("document.getElementById('watch').scrollIntoView()")
    found = texts(browser, ".line-head span")
    assert found[: len(lines)] == lines
    assert sorted(found[len(lines) :]) == (["frozen", "source"] if "axis" in down else [])
    count = browser.run("document.querySelectorAll('.line:first-child .tile').length")
    shown = texts(browser, ".line:first-child .tile button")
    assert shown == columns if columns else count == 2
    assert browser.run("document.getElementById('down').value") == down


def test_a_link_leads_to_the_same_view(page: str, browser: Browser) -> None:
    watch(browser, page + "#down=row&across=clip&fix.seed=1&frame=4&main=1d&q=full")
    assert texts(browser, ".line-head span") == ["full"]
    assert text(browser, "#frame") == "frame 4 / 5"
    assert browser.run("document.getElementById('seed').value") == "1"
    browser.until(f"{FRAMES}.length === 2 && {FRAMES}.every(f => f === 4)")
    assert text(browser, "#cell h3") == "full · world:heldout/0 · seed 1"
    browser.press("j")
    assert text(browser, "#cell h3") == "full · world:heldout/1 · seed 1"
    browser.until("location.hash.includes('cell=')")
    again = browser.run("location.href")
    watch(browser, again)
    assert text(browser, "#cell h3") == "full · world:heldout/1 · seed 1"
    assert browser.run("location.href") == again


def test_nonsense_in_the_address_is_left_aside(page: str, browser: Browser) -> None:
    browser.open(
        page + "#down=__proto__&across=nope&frame=-7&main=99a&size=x&cell=zz&at=1e9&speed=no"
    )
    assert len(texts(browser, ".line-head span")) == 2
    assert text(browser, "#frame") == "frame 0 / 5"


def test_wiping_shows_the_source_under_the_pointer(page: str, browser: Browser) -> None:
    watch(browser, page)
    browser.press("w")
    stage = ".line:first-child .tile:nth-child(2) .stage"
    browser.until(f"document.querySelectorAll('{stage} video').length === 2")
    assert browser.run("document.querySelectorAll('.tile:first-child video').length") == 2
    browser.point(stage, 0.25)
    clip = f"getComputedStyle(document.querySelector('{stage} .over')).clipPath"
    browser.until(f"{clip}.includes('75%')")
    source = browser.run("document.querySelector('.tile:first-child .stage video').src")
    assert browser.run(f"document.querySelector('{stage} .over').src") == source
    browser.press("w")
    browser.until(f"document.querySelectorAll('{stage} video').length === 1")


def test_curves_and_players_move_each_other(page: str, browser: Browser) -> None:
    watch(browser, page)
    assert browser.run("document.querySelectorAll('#cell polyline').length") == 3 * 5
    line = "Number(document.querySelector('#cell .marker').getAttribute('x1'))"
    before = browser.run(line)
    browser.press("ArrowRight")
    assert browser.run(line) > before
    browser.point("#cell .chart svg", (50 + 264 * 4.5 / 6) / 322)
    browser.until(f"{FRAMES}.every(f => f === 4)")
    assert text(browser, "#frame") == "frame 4 / 5"
    at = browser.run(line)
    browser.press(" ")
    browser.until(f"{line} !== {at}")
    browser.press(" ")


def test_a_cell_tells_how_it_was_made(page: str, browser: Browser) -> None:
    browser.open(page)
    browser.click(".line:nth-child(1) .tile:nth-child(4) button")
    told = text(browser, "#cell")
    for words in ("full · world:heldout/0 · seed 0", "per frame0.50 s", "noise seed1234",
                  "git.commitabc", '"steps": 12'):  # fmt: skip
        assert words in told
    browser.click(".line:nth-child(2) .tile:nth-child(4) button")
    told = text(browser, "#cell")
    assert REASON in told
    assert "Traceback" in told


def test_a_definition_is_one_click_away(page: str, browser: Browser) -> None:
    browser.open(page)
    browser.click("#main-table .info")
    assert browser.run("document.getElementById('explain').open")
    assert INFOS["clip_frame/consecutive"].definition in text(browser, "#explained")
    browser.click("#explain .close")
    assert not browser.run("document.getElementById('explain').open")


def test_above_a_curve_stand_the_value_of_the_moment_and_the_mean(
    page: str, browser: Browser
) -> None:
    watch(browser, page + "#frame=2")
    first = "document.querySelector('#cell .chart .reading').textContent"
    browser.until(f"{first}.startsWith('2–3: 0.')")
    value = text(browser, ".tile.chosen .numbers span:nth-child(2)")
    assert browser.run(first).endswith(f"mean {value}")
    assert text(browser, ".tile.chosen .numbers span:first-child") == "consecutive"


def test_columns_fit_beside_the_panel_where_videos_may_shrink(page: str, browser: Browser) -> None:
    browser.size(1440, 900)
    watch(browser, page)
    grid = "document.getElementById('grid')"
    assert browser.run(f"{grid}.scrollWidth <= {grid}.clientWidth")
    width = browser.run("document.querySelector('.tile').getBoundingClientRect().width")
    assert 116 <= width <= 260


def test_the_screenshot_of_the_documentation_is_taken_by_its_script(
    page: str, tmp_path: Path
) -> None:
    run = Path(unquote(urlsplit(page).path)).parent.parent
    script = Path(__file__).parent.parent / "docs" / "demo" / "screenshot.py"
    command = [sys.executable, str(script), str(run), str(tmp_path / "page.png")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    picture = Image.open(tmp_path / "page.png")
    assert (picture.size, picture.mode) == ((1280, 860), "P")
    shown = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert ImageColor.getrgb(looks(load_run(run, INFOS).rows)["full"].colour) in shown


def test_keys_and_theme(page: str, browser: Browser) -> None:
    browser.open(page)
    browser.press("?")
    assert browser.run("document.getElementById('help').open")
    browser.click("#help .close")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    browser.press("d")
    dark = browser.run(paper)
    assert dark != light
    browser.press("d")
    browser.size(1440, 1000, dark=True)
    assert browser.run(paper) == light  # the choice stands against the system
    browser.run("localStorage.clear()")
    browser.open(page)
    assert browser.run(paper) == dark
    browser.press(">")
    browser.press("l")
    browser.until("location.hash === '#loop=0&speed=2'")


def test_a_phone_needs_no_sideways_scrolling(page: str, browser: Browser) -> None:
    browser.size(360, 740, phone=True)
    watch(browser, page)
    assert browser.run("document.documentElement.scrollWidth") == 360
    wide = browser.run(
        "[...document.querySelectorAll('body *')].filter(n => n.checkVisibility()"
        " && n.getBoundingClientRect().right > 361"
        " && !n.closest('.scroll, .wide, .grid, .links, pre, .skip')).map(n => n.outerHTML)"
    )
    assert wide == []


def test_five_hundred_cells_load_as_they_come_near(tmp_path: Path, browser: Browser) -> None:
    shape = Shape(clips=2, seeds=2, frames=3, videos=True, claims=[])
    root = write_store(tmp_path, shape)
    plan = json.loads((root / "plan.json").read_text())
    many = [{**entry, "seed_index": n} for n in range(32) for entry in plan][:500]
    (root / "plan.json").write_text(json.dumps(many))
    run = load_run(root, INFOS)
    (root / "report").mkdir()
    path = root / "report" / "index.html"
    path.write_text(render_page(run, summarise(run), []), encoding="utf-8")
    browser.open(path.as_uri() + "#down=seed&across=row")
    browser.until("document.querySelectorAll('.stage video[src]').length > 0")
    tiles = browser.run("document.querySelectorAll('.tile').length")
    assert tiles >= 150
    sources = "document.querySelectorAll('.stage video[src]').length"
    first = browser.run(sources)
    assert 0 < first <= 60
    browser.run("document.querySelector('.line:last-child').scrollIntoView()")
    browser.until("document.querySelector('.line:last-child video[src]') !== null")
    browser.until("!document.querySelector('.line:first-child video[src]')")
    assert browser.run(sources) <= 60
    assert browser.run("document.querySelectorAll('#cells-body tr').length") == 500


def test_without_videos_the_frames_are_played(tmp_path: Path, browser: Browser) -> None:
    shape = replace(Shape(), clips=1, seeds=1, frames=4, claims=[], score=plain_score)
    root = write_store(tmp_path, shape)
    run = load_run(root, INFOS)
    (root / "report").mkdir()
    path = root / "report" / "index.html"
    path.write_text(render_page(run, summarise(run), []), encoding="utf-8")
    browser.open(path.as_uri())
    browser.run("document.getElementById('watch').scrollIntoView()")
    browser.until("document.querySelectorAll('.grid .stage img').length === 5")
    browser.press("ArrowRight")
    names = browser.run(
        "[...document.querySelectorAll('.grid .stage img')].map(i => i.src.split('/').pop())"
    )
    assert names == ["0001.png"] * 5
