import pytest

from crossframe.errors import UserError
from crossframe.flow.table import flow_identity
from metrics import METRICS
from metrics.identity import score_identity

FACTS = {"clip": ["weights", "preprocessing"], "source_prompt": "a dog", "fps": 8.0}


def of(name, facts=FACTS, flow="dis"):
    return score_identity(METRICS.entry(name).extra, facts, flow)


@pytest.mark.parametrize(
    ("name", "change", "matters"),
    [
        ("clip_frame/first", {"clip": "other"}, True),
        ("clip_frame/first", {"source_prompt": "a cat"}, False),
        ("clip_frame_acc/fatezero", {"source_prompt": "a cat"}, True),
        ("motion/dynamic_degree", {"fps": 24.0}, True),
        ("motion/ratio", {"fps": 24.0}, False),
        ("psnr", {"clip": "other", "source_prompt": "", "fps": 1.0}, False),
    ],
)
def test_only_what_a_metric_needs_changes_its_scores(name, change, matters):
    assert (of(name) != of(name, FACTS | change)) is matters


@pytest.mark.parametrize(
    ("name", "matters"),
    [
        *[(name, True) for name in ("warp/source_flow", "warp/output_flow", "motion/ratio")],
        *[(name, True) for name in ("motion/epe", "flicker/aligned_residual", "pixel_mse/fresco")],
        *[(name, False) for name in ("flicker/mae", "tof", "clip_text/cosine")],
    ],
)
def test_the_estimator_matters_where_flow_is_followed(name, matters):
    assert (of(name) != of(name, flow="raft")) is matters


def test_networks_and_versions_are_part_of_it():
    assert of("pickscore")["networks"].keys() == {"pickscore", "pickscore-processor"}
    assert of("motion/ratio")["version"] == 2
    assert flow_identity("raft")["networks"].keys() == {"raft"}
    with pytest.raises(UserError, match="flow estimator"):
        flow_identity("other")


def test_metrics_of_other_packages_may_state_nothing():
    assert score_identity({}, FACTS) == {"version": 1}
