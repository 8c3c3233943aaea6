import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from torchmetrics import Metric

from crossframe.weights import NETWORKS
from metrics import METRICS

NEEDS = {
    *("clip", "source", "prompt", "source_prompt", "flow", "estimator"),
    *("fps", "masks", "face", "borders", "cost"),
}


@pytest.mark.parametrize("name", METRICS.names())
def test_every_entry_is_complete_and_leads_somewhere(name):
    extra = METRICS.entry(name).extra
    low, high = extra["range"]
    assert extra["direction"] in {"higher", "lower", "target"}
    assert ("target" in extra) == (extra["direction"] == "target")
    assert low < (math.inf if high is None else high)
    assert set(extra["needs"]) <= NEEDS
    assert set(extra["networks"]) <= set(NETWORKS)
    assert extra["unit"]
    assert len(extra["definition"]) > 100
    assert extra["version"] >= 1
    json.dumps(dict(extra))
    assert callable(METRICS.load(name))
    module, _, attribute = extra["torchmetric"].partition(":")
    accumulator = getattr(sys.modules[module], attribute)()
    assert isinstance(accumulator, Metric)
    expected = {"higher": True, "lower": False, "target": None}[extra["direction"]]
    assert accumulator.higher_is_better is expected


def test_the_tables_need_no_torch():
    code = (
        "import sys, metrics; assert len(metrics.METRICS) >= 5; assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
