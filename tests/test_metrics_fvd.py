import re

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn import functional

from crossframe.errors import Diverged, NotAvailable
from crossframe.weights import networks_identity
from metrics.base import ClipFeatures, MetricInputs
from metrics.fvd import FrechetVideoDistance, frechet_distance, load_detector, prepare_clip
from metrics.score import measure


def samples(count, size, seed):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) @ mix + seed


def test_one_dimension_in_closed_form():
    one, two = samples(50, 1, 1), samples(40, 1, 2)
    expected = (one.mean() - two.mean()) ** 2 + (one.std() - two.std()) ** 2
    assert frechet_distance(one, two).item() == pytest.approx(expected.item(), rel=1e-9)


def test_agreement_with_the_matrix_root():
    one, two = samples(60, 5, 3), samples(70, 5, 4)
    first, second = np.cov(one.T.numpy()), np.cov(two.T.numpy())
    root = scipy.linalg.sqrtm(first @ second).real
    shift = ((one.mean(0) - two.mean(0)) ** 2).sum().item()
    expected = shift + np.trace(first + second - 2 * root)
    assert frechet_distance(one, two).item() == pytest.approx(expected, rel=1e-8)


def test_equal_sets_have_no_distance_and_sides_do_not_matter():
    one, two = samples(30, 4, 5), samples(30, 4, 6)
    assert frechet_distance(one, one).item() == pytest.approx(0, abs=1e-7)
    forth, back = frechet_distance(one, two), frechet_distance(two, one)
    assert forth.item() == pytest.approx(back.item(), rel=1e-9)


def test_a_shift_costs_its_square():
    one = samples(30, 4, 7)
    shift = torch.tensor([1.0, 2.0, 0.0, -2.0])
    assert frechet_distance(one, one + shift).item() == pytest.approx(9, rel=1e-7)


def test_fewer_samples_than_features_are_no_problem():
    one, two = samples(5, 12, 8), samples(5, 12, 9)
    assert torch.isfinite(frechet_distance(one, two))


def test_clips_are_squashed_and_scaled():
    frames = torch.zeros(10, 3, 20, 30)
    frames[:, 0] = 1
    clip = prepare_clip(frames)
    assert clip.shape == (1, 3, 10, 224, 224)
    assert (clip[0, 0] - 1).abs().max() < 1e-6
    assert (clip[0, 1] + 1).abs().max() < 1e-6
    with pytest.raises(NotAvailable, match="10 frames"):
        prepare_clip(frames[:9])


def brightness(clips):
    return clips.mean((2, 3, 4))


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_small_sets_are_refused():
    metric = FrechetVideoDistance(brightness, least=3)
    for level in (0.1, 0.2, 0.3):
        metric.update(torch.full((10, 3, 8, 8), level), real=True)
        metric.update(torch.full((10, 3, 8, 8), level + 0.25), real=False)
    # Features are 2 x - 1, so the shift of each of three channels is .5.
    assert metric.compute().item() == pytest.approx(0.75, rel=1e-4)
    for refused in (FrechetVideoDistance(brightness), FrechetVideoDistance(brightness, least=1)):
        with pytest.raises(NotAvailable, match="clips in each set, not 0 and 0"):
            refused.compute()


class I3D(torch.nn.Module):
    """The interface of the published TorchScript, over a small random network."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 4, (2, 32, 32), stride=(2, 32, 32))
        self.logits = torch.nn.Linear(4, 400)

    def forward(self, clips, rescale: bool, resize: bool, return_features: bool):
        assert not rescale
        assert not resize
        assert return_features
        return self.logits(self.conv(clips).relu().mean((2, 3, 4)))


@pytest.fixture
def i3d(monkeypatch, tmp_path):
    """The file where torch keeps checkpoints, as its source publishes it; weights are random."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    network = I3D().eval()
    path = tmp_path / "hub/checkpoints/i3d_torchscript.pt"
    path.parent.mkdir(parents=True)
    torch.jit.script(network).save(str(path))
    return network


def test_a_clip_keeps_features_that_have_a_value_only_in_a_set(i3d):
    frames = torch.rand(12, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    kept = measure("fvd", MetricInputs(frames))
    clip = functional.interpolate(frames, (224, 224), mode="bilinear").mul(2).sub(1)
    expected = i3d(clip.permute(1, 0, 2, 3)[None], False, False, True)[0]
    assert len(kept.features) == 400
    assert kept.features == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
    assert np.float32(kept.record()["features"]).tolist() == list(kept.features)
    assert networks_identity(["i3d"])["i3d"].startswith("i3d_torchscript.pt@")
    with pytest.raises(Diverged):
        ClipFeatures((1.0, float("nan")))


def test_without_weights_or_with_few_frames_there_is_no_fvd(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    absent = measure("fvd", MetricInputs(torch.rand(10, 3, 8, 8)))
    assert re.search("i3d_torchscript.pt.*not on this machine.*dropbox.com", absent.reason)
    short = measure("fvd", MetricInputs(torch.rand(9, 3, 8, 8)))
    assert "needs 10 frames a clip, not 9" in short.reason
    with pytest.raises(NotAvailable, match="feature network"):
        FrechetVideoDistance().update(torch.rand(10, 3, 8, 8), real=True)


def test_a_detector_is_loaded_from_a_file(tmp_path):
    path = tmp_path / "detector.pt"
    torch.jit.trace(brightness, torch.rand(1, 3, 2, 4, 4)).save(str(path))
    clip = torch.rand(2, 3, 2, 4, 4)
    assert torch.allclose(load_detector(path)(clip), brightness(clip))
    with pytest.raises(NotAvailable, match="no feature network"):
        load_detector(tmp_path / "absent.pt")
