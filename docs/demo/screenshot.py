"""Take the picture of the page that the README shows: `make screenshot`.

    python docs/demo/screenshot.py [RUN] [PICTURE]

RUN is a run folder with a report (runs/demo), PICTURE the file to write (page.png beside this
script). It needs Chromium; the PNG holds 256 colours, which keeps it small.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageColor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

WIDTH, HEIGHT = 1280, 860
VIEW = "#frame=3"
"""The address of the view: clips downwards, rows across, at frame 3 (docs/page.md, Links)."""
DRAWN = """(() => {
  const near = [...document.querySelectorAll('.stage')]
    .filter((stage) => stage.getBoundingClientRect().top < innerHeight);
  const there = (shown) => shown && (shown.tagName === 'IMG' ? shown.complete
    : shown.readyState > 1 && !shown.seeking && shown.currentTime > 0);
  return near.length > 0 && near.every((stage) => there(stage.querySelector('video, img')));
})()"""
"""Whether every video on screen shows the frame that the address asks for."""
ROW_COLOURS = "JSON.parse(document.getElementById('data').textContent).rows.map((r) => r.colour)"
COLOURS = 256


def screenshot(page: Path) -> tuple[bytes, list[str]]:
    """Return a PNG of a report's page at its videos, once all on screen are drawn, and its colours.

    Colours are those of the rows, as `#RRGGBB`.
    """
    from browser import CHROMIUM, Browser

    if CHROMIUM is None:
        sys.exit("needs Chromium: apt-get install chromium")
    with Browser() as browser:
        browser.size(WIDTH, HEIGHT)
        browser.call("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(page.resolve().as_uri() + VIEW)
        browser.run("document.getElementById('watch').scrollIntoView()")
        browser.until(DRAWN)
        browser.run("new Promise((done) => setTimeout(done, 500))")
        if browser.troubles:
            sys.exit("\n".join(browser.troubles))
        return browser.picture(), browser.run(ROW_COLOURS)


def reduced(png: bytes, colours: list[str]) -> Image.Image:
    """Return a picture in `COLOURS` colours, `colours` among them, undithered: text stays crisp."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    kept = [value for colour in dict.fromkeys(colours) for value in ImageColor.getrgb(colour)]
    own = COLOURS - len(kept) // 3
    palette = Image.new("P", (1, 1))
    palette.putpalette((picture.quantize(own, kmeans=4).getpalette() or [])[: 3 * own] + kept)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def main(arguments: list[str]) -> None:
    """Write the picture and print where it is, its size in pixels and in bytes."""
    run, out = [*map(Path, arguments), *(ROOT / "runs/demo", HERE / "page.png")[len(arguments) :]]
    page = run / "report" / "index.html"
    if not page.is_file():
        sys.exit(f"{page} is not there: run `crossframe report {run}`")
    picture = reduced(*screenshot(page))
    picture.save(out, optimize=True)
    print(f"{out}: {picture.width}x{picture.height}, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
