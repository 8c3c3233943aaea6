import numpy as np
import pytest
import torch

from crossframe.errors import NotAvailable
from metrics.base import MetricInputs
from metrics.spat_con import SelfSimilarityGap, self_similarity_gap, spat_con
from metrics.trunks import vgg16_to_relu4_3


def naive(one, two):
    gaps = []
    cells = [feature.reshape(feature.shape[0], -1).T for feature in (one, two)]
    for i in range(len(cells[0])):
        for j in range(len(cells[0])):
            cosines = [
                np.dot(c[i], c[j]) / np.linalg.norm(c[i]) / np.linalg.norm(c[j]) for c in cells
            ]
            gaps.append(abs(cosines[0] - cosines[1]))
    return np.mean(gaps)


def test_the_gap_agrees_with_a_sum_over_pairs():
    one, two = torch.randn(2, 2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    expected = [naive(one[t].numpy(), two[t].numpy()) for t in range(2)]
    assert self_similarity_gap(one, two).tolist() == pytest.approx(expected)


def test_a_change_of_strength_is_no_change_and_a_copy_has_no_gap():
    features = torch.rand(1, 4, 3, 3) + 0.1
    assert self_similarity_gap(features, features).item() == 0
    assert self_similarity_gap(3 * features, features).item() < 1e-6


def test_opposite_structure_has_the_largest_gap():
    """Two cells alike in one picture and opposite in the other: half of the table differs by 2."""
    alike, opposite = torch.ones(1, 1, 1, 2), torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
    assert self_similarity_gap(alike, opposite).item() == 1
    metric = SelfSimilarityGap()
    metric.update(alike, opposite)
    assert metric.compute() == 1


def test_the_metric_compares_features_of_frames():
    trunk = vgg16_to_relu4_3()
    frames, source = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    inputs = MetricInputs(frames, source)
    inputs.resident.get("vgg16", lambda: trunk)
    assert len(spat_con(inputs).series) == 2
    assert spat_con(inputs).value > 0
    assert inputs.resident.get("vgg16", lambda: None)(frames)[-1].shape == (2, 512, 4, 4)


def test_absent_weights_come_with_their_command(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    frames = torch.rand(1, 3, 32, 32)
    with pytest.raises(NotAvailable, match=r"vgg16-397923af.pth.*curl -L"):
        spat_con(MetricInputs(frames, frames))
    with pytest.raises(NotAvailable, match="none is given"):
        spat_con(MetricInputs(frames))
