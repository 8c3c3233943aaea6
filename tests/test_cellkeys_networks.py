"""Keys of cells whose frames are shaped by an estimator of flow, and plans without its weights."""

from dataclasses import replace

import pytest

from ablations.cards import ClipCard
from ablations.cellkeys import Keys
from ablations.check import load_spec
from ablations.shipped import shipped_parts
from crossframe.weights import NETWORKS

CARD = ClipCard("world:heldout/0", "world:heldout/0", "s", "t", "a red star", {}, 8.0)
SPEC = """\
name: keys
method: {method}
clips: [world:heldout/0]
metrics: [flicker/mae]
include:
  - {{label: exact, correspondence: {{flow: exact}}}}
  - {{label: dis, correspondence: {{flow: dis}}}}
  - {{label: raft, correspondence: {{flow: raft}}}}
"""


@pytest.mark.parametrize("method", ["fresco", "rerender"])
def test_weights_of_the_flow_are_in_the_keys_of_rows_that_use_them(method, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "s.yaml").write_text(SPEC.format(method=method), encoding="utf-8")
    parts = replace(shipped_parts(), backbone_identity=lambda config, family: {"unet": "0"})
    checked = load_spec(tmp_path / "s.yaml", (), parts)

    def told() -> dict[str, tuple[str, tuple[str, ...]]]:
        keys = Keys(checked, parts)
        rows = [row for row in checked.rows if row.method == method]
        return {r.label: (keys.cell(r, CARD, "", 0), keys.problems(r, CARD)) for r in rows}

    absent = told()
    (problem,) = absent["raft"][1]
    assert "its weights are not on this machine" in problem
    assert absent["exact"][1] == absent["dis"][1] == ()
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / NETWORKS["raft"].id).write_bytes(b"weights")
    monkeypatch.setattr("methods.fresco.options.locate", lambda name: checkpoints)
    there = told()
    assert there["raft"][1] == ()
    assert {label for label in there if there[label][0] != absent[label][0]} == {"raft"}
