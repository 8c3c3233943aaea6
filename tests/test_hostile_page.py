"""Hostile words in a run are shown as words: no script of theirs runs in a real browser."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, DUMPING
from reports_store import INFOS, Shape, write_store
from test_reports_page import Tags

from reports import write_report

RUN = "document.documentElement.dataset.hacked="
LABEL = f"</script><script>{RUN}'label'</script>$\\\\nope{{$"
CLIP = f"<img src=x onerror=\"{RUN}'clip'\">"
PROMPT = f"\"' onmouseover={RUN}'prompt' autofocus onfocus={RUN}'prompt' x=\"<!--<script>"
CAPTION = f"javascript:{RUN}'caption'"
TITLE = f"</title></style><svg onload={RUN}'title'>{{{{ 7*7 }}}}${{7*7}}"
REASON = f"]]></pre><iframe srcdoc='<script>parent.{RUN}1</script>'></iframe>"
MARKS = "\u202egnp.exe\u202c \u200f\u2066abc\u2028def"
SOURCE = f"<a href=\"javascript:{RUN}'source'\">the paper</a><base href=//evil.example/>"
WORDS = {
    "first+previous": LABEL,
    "world:heldout/0": CLIP,
    "a blue star on a striped background": PROMPT,
    "a red star on a striped background": CAPTION,
    "Frame attention & <friends>": TITLE,
    "Coloured noise with known scores.": MARKS,
    "ControlVideo, Table 3": SOURCE,
}

DRIVER = """
(async () => {
  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const seen = { clips: [], tiles: [] };
  const clip = document.getElementById("clip");
  for (const option of clip.options) {
    clip.value = option.value;
    clip.dispatchEvent(new Event("change"));
    seen.clips.push(option.textContent);
    seen.prompt = document.getElementById("prompt").textContent;
    for (const button of document.querySelectorAll(".tile button, #cells-body button")) {
      button.click();
      button.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
    }
    seen.tiles.push(...[...document.querySelectorAll(".tile")].map((node) => node.textContent));
  }
  seen.cell = document.querySelector("#cell h3").textContent;
  document.querySelectorAll("details").forEach((node) => { node.open = true; });
  document.querySelectorAll("a").forEach((a) => { a.target = "_blank"; });
  for (const node of document.querySelectorAll("body *")) {
    node.dispatchEvent(new MouseEvent("mouseover", { bubbles: false }));
    if (node.focus) node.focus();
  }
  await wait(300);
  seen.title = document.title;
  seen.text = document.body.textContent;
  seen.scripts = document.scripts.length;
  seen.strange = [...document.querySelectorAll("iframe, base, object, embed, svg[onload]")].length;
  seen.handlers = [...document.querySelectorAll("*")].filter((node) =>
    [...node.attributes].some((each) => each.name.startsWith("on"))).length;
  seen.links = [...document.links].filter((a) => !["file:", "data:"].includes(a.protocol)).length;
  seen.errors = document.documentElement.dataset.errors ?? "";
  document.documentElement.dataset.seen = JSON.stringify(seen);
})();
"""


def poisoned(value):
    """Replace known words, wherever they stand in JSON data, keys included."""
    if isinstance(value, dict):
        return {WORDS.get(key, key): poisoned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner) for inner in value]
    return WORDS.get(value, value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    shape = Shape(clips=2, seeds=1, frames=3, fail={("full", 1, 0): REASON})
    claims = [replace_source(claim) for claim in shape.claims[1:]]
    root = write_store(tmp_path_factory.mktemp("run"), replace(shape, claims=claims))
    for path in sorted(root.rglob("*.json")):
        path.write_text(json.dumps(poisoned(json.loads(path.read_text()))))
    return write_report(root, INFOS)


def replace_source(claim):
    return {**claim, "source": "ControlVideo, Table 3"}


def test_no_element_of_the_page_is_made_of_words_from_the_run(page):
    text = page.read_text(encoding="utf-8")
    found = Tags(text).found
    assert sum(tag == "script" for tag, _ in found) == 3
    assert not any(name.startswith("on") for _, attributes in found for name in attributes)
    assert not any(tag in ("iframe", "base", "object", "embed") for tag, _ in found)
    for tag, attributes in found:
        for name in ("href", "src", "poster", "action"):
            assert "javascript:" not in (attributes.get(name) or ""), (tag, attributes)


def browse(path, profile):
    """The attributes that scripts have left on the root of a page."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    words = [CHROMIUM, *DUMPING, f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return next(attributes for tag, attributes in Tags(done.stdout).found if tag == "html")


def test_the_words_are_live_where_they_are_not_escaped(tmp_path):
    path = tmp_path / "control.html"
    path.write_text(f"<!doctype html><html><body><script>{LABEL}</body></html>")
    assert browse(path, tmp_path / "profile")["data-hacked"] == "label"


def test_hostile_words_are_inert_in_a_browser(page, tmp_path):
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text().replace("</body>", f"<script>{DRIVER}</script></body>"))
    root = browse(driven, tmp_path / "profile")
    assert "data-hacked" not in root
    seen = json.loads(root.get("data-seen") or "{}")
    assert seen["errors"] == ""
    assert seen["scripts"] == 4
    assert (seen["strange"], seen["handlers"], seen["links"]) == (0, 0, 0)
    assert seen["title"] == TITLE
    assert seen["clips"] == [CLIP, "world:heldout/1"]
    assert PROMPT in seen["prompt"]
    assert any(LABEL in text for text in seen["tiles"])
    for words in (LABEL, CLIP, SOURCE, MARKS, TITLE, REASON):
        assert words in seen["text"], words
