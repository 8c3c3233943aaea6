"""A method leaves the networks as it found them: frames do not depend on what was drawn before."""

from dataclasses import replace

from lab import Lab, spec_text
from tiny_backbone import SIZE, tiny_backbone

from ablations.engines.base import Ended, Order
from ablations.shipped import shipped_parts
from ablations.work import Worker
from methods.families import IMAGE, family_of

TRUE_FLOW = {"flow": "exact", "occlusion": "exact", "photometric": None}
QUICK = {
    "controlvideo": {"steps": 2, "controls": ["edges"]},
    "text2videozero": {"steps": 2, "controls": ["edges"]},
    "tuneavideo": {"steps": 2, "tuning": {"steps": 2}},
    "ddim": {"steps": 2},
    "fresco": {
        "steps": 2,
        "controls": [],
        "loss": {"layers": [0, 1], "iterations": 1},
        "correspondence": TRUE_FLOW,
    },
    "rerender": {"steps": 2, "controls": [], "correspondence": TRUE_FLOW},
}
"""Every method of the image family, as short as it goes."""


def tiny_parts():
    """The real methods on random networks, and clips whose words these know."""
    real = shipped_parts()
    return replace(
        real,
        backbone_identity=lambda config, family: {"unet": "tiny"},
        load_backbone=lambda config, family: tiny_backbone(),
        load_clip=lambda request: replace(real.load_clip(request), caption="a red star"),
        clip_fingerprint=lambda request: None,
    )


def drawn_frames(folder, text, choose):
    """sha256 of the frames that one worker on one backbone draws, by method."""
    lab = Lab(folder, text)
    lab.parts = tiny_parts()
    plan = lab.plan()
    root = lab.store.root.resolve()
    worker = Worker(Order(plan.checked.spec, plan.checked.backbone, root, lambda: lab.parts, 1))
    cells = choose(plan.with_state("run"))
    assert [worker.run(cell) for cell in cells] == [Ended(cell.key, "done") for cell in cells]
    return {cell.row.method: lab.store.sample(cell.key)["frames_sha256"] for cell in cells}


def test_no_method_leaves_a_trace_in_the_networks_that_all_share(tmp_path):
    """Each draws the same frames first, last and alone, on the very backbone of the others."""
    text = spec_text(
        method="controlvideo",
        sentinels=[],
        base=QUICK["controlvideo"],
        grid={},
        include=[{"label": name, "method": name, **QUICK[name]} for name in QUICK],
        clips=["world:heldout/0"],
        clip={"frames": 3, "size": SIZE},
        seeds={"count": 1},
        metrics=["motion/ratio"],
    )
    entries = shipped_parts().methods.entries
    assert set(QUICK) == {name for name in entries if family_of(entries[name].extra) == IMAGE}
    forth = drawn_frames(tmp_path / "forth", text, list)
    assert set(forth) == set(QUICK)
    assert len(set(forth.values())) == len(QUICK)
    assert drawn_frames(tmp_path / "back", text, lambda cells: cells[::-1]) == forth
    for name, frames in forth.items():
        alone = drawn_frames(
            tmp_path / name, text, lambda cells, n=name: [c for c in cells if c.row.method == n]
        )
        assert alone == {name: frames}
