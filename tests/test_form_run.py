"""A whole run on frames of 24 by 16: planned, drawn, scored by every metric at hand, reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_parts import fake_parts
from lab import Lab, spec_text
from PIL import Image

from ablations.shipped import named_encoder, shipped_parts
from crossframe.video import probe, write_frames
from reports import write_report

WIDTH, HEIGHT, FRAMES = 24, 16, 3
METRICS = [
    "psnr",
    "ssim",
    "warp/source_flow",
    "warp/lai2018",
    "warp/output_flow",
    "warp/long_term",
    "pixel_mse/fresco",
    "flicker/vbench",
    "flicker/aligned_residual",
    "motion/ratio",
    "tof",
    "i2v_first/psnr",
    "sharpness/ratio",
    "clip_frame/consecutive",
    "clip_text/cosine",
]
FIGURES = [
    {"name": "all", "kind": "strips", "zoom": [[0.5, 0, 0.5, 0.5]]},
    {"name": "slabs", "kind": "xt"},
    {"name": "wrong", "kind": "errors"},
]


def drifting(folder: Path) -> Path:
    """Footage of 40 by 24 whose texture moves by a pixel per frame."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 12, 3), np.uint8)
    wide = np.asarray(Image.fromarray(noise).resize((48, 24), Image.Resampling.BICUBIC))
    write_frames(folder, np.stack([wide[:, i : i + 40] for i in range(FRAMES)]))
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("wide")
    footage = drifting(folder / "footage")
    fields = {
        "clips": ["photo:gravel/rotation", str(footage)],
        "clip": {"frames": FRAMES, "size": [WIDTH, HEIGHT]},
        "prompts": ["a red star on stripes"],
        "seeds": {"count": 1},
        "encoder": "miniature",
        "metrics": METRICS,
        "report": {"figures": FIGURES},
    }
    made, real = Lab(folder / "lab", spec_text(**fields)), shipped_parts()
    made.parts = replace(
        fake_parts(),
        metrics=real.metrics,
        encoder_folder=lambda name, backbone: named_encoder(name),
        encoder_identity=real.encoder_identity,
        load_encoder=real.load_encoder,
        flow=real.flow,
        estimator=real.estimator,
        load_clip=real.load_clip,
    )
    assert not made.run().failed
    return made


def test_every_metric_has_a_value(lab: Lab) -> None:
    results = lab.results()
    assert len(results) == 6
    for result in results:
        unavailable = {k: v for k, v in result["metrics"].items() if v.get("value") is None}
        assert not unavailable, (result["clip"], unavailable)
    rows = {(r["clip"], r["row"]): r["metrics"] for r in results}
    for clip in ("photo:gravel/rotation", "footage"):
        assert rows[clip, "source"]["psnr"]["value"] == 100
        found = [rows[clip, row]["warp/source_flow"]["value"] for row in ("source", "individual")]
        assert found[0] < found[1] / 3, clip


def test_frames_and_videos_have_the_form(lab: Lab) -> None:
    cells = list(lab.store.root.glob("cells/*"))
    assert len(cells) == 6
    for cell in cells:
        assert Image.open(cell / "frames" / "0000.png").size == (WIDTH, HEIGHT)
        info = probe(cell / "video.mp4")
        assert (info.width, info.height, info.frames) == (WIDTH, HEIGHT, FRAMES)


def test_the_report_shows_them(lab: Lab) -> None:
    page = write_report(lab.store.root)
    text = page.read_text(encoding="utf-8")
    assert f"2 × {FRAMES} frames, 24x16 px" in text
    assert json.loads((lab.store.root / "spec.json").read_text())["clip"]["size"] == [24, 16]
    drawn = {path.stem for path in (page.parent / "figures").iterdir()}
    assert {figure["name"] for figure in FIGURES} <= drawn


def test_another_form_is_another_cell(lab: Lab) -> None:
    assert lab.run().cached == 6
    keys, others = (
        {cell.key for cell in lab.plan(*o).cells} for o in ((), ("clip.size=[16, 24]",))
    )
    assert not keys & others
