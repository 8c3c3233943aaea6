import numpy as np
import pytest
import torch

from crossframe.errors import NotAvailable
from metrics.base import MetricInputs
from metrics.lpips import (
    ConsecutiveLpips,
    Lpips,
    SourceLpips,
    TemporalLpips,
    consecutive,
    linear_weights,
    temporal,
    to_source,
)
from metrics.trunks import alexnet, vgg16_to_relu4_3

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@pytest.fixture(scope="module")
def distance():
    """The released linear weights over a trunk of random weights."""
    torch.manual_seed(0)
    state = torch.load(linear_weights(), map_location="cpu", weights_only=True)
    return Lpips(alexnet(), [state[f"lin{i}.model.1.weight"].flatten() for i in range(5)])


def given(frames, source, distance):
    inputs = MetricInputs(frames, source)
    inputs.resident.get("lpips", lambda: distance)
    return inputs


def naive(distance, one, two):
    """Cell by cell, in float64."""
    total = 0.0
    mean, spread = (np.array(v).reshape(1, 3, 1, 1) for v in (SHIFT, SCALE))
    tapped = [
        distance.trunk(torch.from_numpy((2 * x.numpy() - 1 - mean) / spread).float())
        for x in (one, two)
    ]
    for a, b, weight in zip(*tapped, distance.weights, strict=True):
        a, b = a[0].double().numpy(), b[0].double().numpy()
        cells = []
        for row in range(a.shape[1]):
            for column in range(a.shape[2]):
                u, v = a[:, row, column], b[:, row, column]
                u = u / (np.sqrt((u**2).sum()) + 1e-10)
                v = v / (np.sqrt((v**2).sum()) + 1e-10)
                cells.append((weight.double().numpy() * (u - v) ** 2).sum())
        total += np.mean(cells)
    return total


def test_the_distance_agrees_with_a_sum_cell_by_cell(distance):
    one, two = torch.rand(2, 1, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    assert distance(one, two).item() == pytest.approx(naive(distance, one, two), rel=1e-4)


def test_the_distance_is_zero_for_equal_pictures_and_symmetric(distance):
    one, two = torch.rand(2, 2, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    assert distance(one, one).abs().max() == 0
    assert torch.equal(distance(one, two), distance(two, one))
    assert (distance(one, two) > 0).all()


def test_the_released_weights_are_five_non_negative_vectors(distance):
    assert [len(weight) for weight in distance.weights] == [64, 192, 384, 256, 256]
    assert all((weight >= 0).all() for weight in distance.weights)


def test_the_three_metrics(distance):
    frames, source = torch.rand(2, 3, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    inputs = given(frames, source, distance)
    pairs = [distance(frames[t : t + 1], frames[t + 1 : t + 2]).item() for t in range(2)]
    before = [distance(source[t : t + 1], source[t + 1 : t + 2]).item() for t in range(2)]
    assert consecutive(inputs).series == pytest.approx(pairs, rel=1e-4)
    expected = [distance(frames[t : t + 1], source[t : t + 1]).item() for t in range(3)]
    assert to_source(inputs).series == pytest.approx(expected, rel=1e-4)
    gaps = [100 * abs(a - b) for a, b in zip(pairs, before, strict=True)]
    assert temporal(inputs).series == pytest.approx(gaps, rel=1e-3)


def test_a_frozen_video_has_no_distance(distance):
    frozen = torch.rand(1, 3, 40, 40).expand(3, -1, -1, -1)
    assert consecutive(given(frozen, frozen, distance)).value == 0
    assert temporal(given(frozen, frozen, distance)).value == 0


def test_absent_weights_come_with_their_command(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    frames = torch.rand(2, 3, 40, 40)
    with pytest.raises(NotAvailable, match=r"alexnet-owt-7be5be79.*curl -L"):
        consecutive(MetricInputs(frames))
    with pytest.raises(NotAvailable, match="32 pixels"):
        to_source(MetricInputs(frames[..., :20], frames[..., :20]))


def test_trunks_have_the_layers_of_the_checkpoints():
    """Names and shapes as in torchvision's classifiers."""
    shapes = {name: tuple(value.shape) for name, value in alexnet().state_dict().items()}
    assert shapes["features.0.weight"] == (64, 3, 11, 11)
    assert shapes["features.3.weight"] == (192, 64, 5, 5)
    assert [shapes[f"features.{i}.weight"][0] for i in (6, 8, 10)] == [384, 256, 256]
    names = {name for name in vgg16_to_relu4_3().state_dict() if name.endswith("weight")}
    convolutions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
    assert names == {f"features.{i}.weight" for i in convolutions}


def test_a_trunk_is_filled_from_a_whole_classifier(tmp_path):
    other, path = alexnet(), tmp_path / "alexnet.pth"
    torch.save({**other.state_dict(), "classifier.1.weight": torch.zeros(3)}, path)
    filled = alexnet()
    filled.fill(path)
    picture = torch.rand(1, 3, 40, 40)
    assert torch.equal(filled(picture)[-1], other(picture)[-1])


def test_accumulators_average_clips(distance):
    frozen = torch.rand(1, 3, 40, 40).expand(2, -1, -1, -1)
    for metric, clip in (
        (ConsecutiveLpips(), (frozen, distance)),
        (SourceLpips(), (frozen, frozen, distance)),
        (TemporalLpips(), (frozen, frozen, distance)),
    ):
        metric.update(*clip)
        assert metric.compute() == 0
