from dataclasses import replace
from pathlib import Path

import pytest
from reports_store import CONSISTENCY, INFOS, WARP, Shape, write_store

from ablations.claims import parse_claim
from crossframe.errors import UserError
from reports.claims import Judgement, judge_claims, overall
from reports.load import load_run

EIGHT = Shape(clips=8, seeds=1, frames=2, side=8)


def judge(root: Path, text: str, shape: Shape = EIGHT) -> Judgement:
    claimed = replace(shape, claims=[{"text": text, "source": "s", "paper": {"full": 5.93}}])
    return judge_claims(load_run(write_store(root, claimed), INFOS))[0]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a < b on m/x", [("a", "<", "b")]),
        ("a > b > c on m", [("a", ">", "b"), ("b", ">", "c")]),
        ("keyframes[0,-1] < first+previous on m", [("keyframes[0,-1]", "<", "first+previous")]),
        ("alpha=1, on < alpha=0 on m", [("alpha=1, on", "<", "alpha=0")]),
    ],
)
def test_claims_read_as_pairs(text: str, pairs: list[tuple[str, str, str]]) -> None:
    claim = parse_claim(text)
    assert [(p.left, p.relation, p.right) for p in claim.comparisons] == pairs


@pytest.mark.parametrize("text", ["", "a on m", "a < b", "a = b on m", "a < on m", "< b on m"])
def test_what_is_no_claim_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="does not read as a claim"):
        parse_claim(text)


def test_a_clear_order_is_supported(tmp_path: Path) -> None:
    found = judge(tmp_path, f"full < individual on {WARP}")
    assert found.verdict == "supported"
    assert found.findings[0].difference.interval.mean == pytest.approx(-0.04)
    assert found.paper == {"full": 5.93}


def test_the_other_way_round_is_contradicted(tmp_path: Path) -> None:
    assert judge(tmp_path, f"full > individual on {WARP}").verdict == "contradicted"


def test_a_chain_needs_every_pair(tmp_path: Path) -> None:
    right = judge(tmp_path, f"individual > first+previous > full on {WARP}")
    wrong = judge(tmp_path, f"individual > full > first+previous on {WARP}")
    assert (right.verdict, wrong.verdict) == ("supported", "contradicted")
    assert [f.verdict for f in wrong.findings] == ["supported", "contradicted"]


def test_noise_is_undecided(tmp_path: Path) -> None:
    def score(metric: str, row: str, clip: int, seed: int) -> float:
        return 0.5 + (0.01 if row == "full" else -0.01) * (-1) ** clip

    found = judge(tmp_path, f"full < individual on {WARP}", replace(EIGHT, score=score))
    assert found.verdict == "undecided"
    assert "includes zero" in found.reason


def test_five_clips_decide_nothing(tmp_path: Path) -> None:
    found = judge(tmp_path, f"full < individual on {WARP}", replace(EIGHT, clips=5))
    assert found.verdict == "undecided"
    assert "5 common clips, 6 are needed" in found.reason


def test_an_unknown_row_or_metric_is_named_and_costs_no_report(tmp_path: Path) -> None:
    found = judge(tmp_path, "fulll < individual on warp/source_flo")
    assert found.verdict == "undecided"
    assert "no row 'fulll'" in found.reason
    assert f"did you mean '{WARP}'?" in found.reason


def test_a_claim_on_an_unavailable_metric_is_undecided(tmp_path: Path) -> None:
    shape = replace(EIGHT, unavailable={CONSISTENCY: "no weights"})
    found = judge(tmp_path, f"full > individual on {CONSISTENCY}", shape)
    assert found.verdict == "undecided"


def test_one_contradiction_breaks_a_chain_and_one_doubt_leaves_it_open() -> None:
    assert overall(["supported", "undecided", "contradicted"]) == "contradicted"
    assert overall(["supported", "undecided"]) == "undecided"
    assert overall([]) == "undecided"
