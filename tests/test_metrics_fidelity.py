import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from crossframe.errors import NotAvailable
from metrics.base import MetricInputs
from metrics.fidelity import (
    PeakSignalToNoise,
    StructuralSimilarity,
    psnr,
    psnr_background,
    psnr_series,
    ssim,
    ssim_background,
    ssim_series,
)


def noisy(count=3, height=20, width=27, seed=0):
    generator = torch.Generator().manual_seed(seed)
    source = torch.rand(count, 3, height, width, generator=generator)
    noise = torch.randn(source.shape, generator=generator)
    return (source + 0.1 * noise).clamp(0, 1), source


def test_a_known_error_gives_its_decibels():
    source = torch.full((2, 3, 16, 16), 0.5)
    frames = source.clone()
    frames[0] += 0.1
    frames[1] += 0.01
    value = psnr(MetricInputs(frames, source))
    assert value.series == pytest.approx((20, 40), abs=1e-4)
    assert value.value == pytest.approx(30, abs=1e-4)


def test_agreement_with_torchmetrics():
    frames, source = noisy()
    for t in range(3):
        one, two = frames[t : t + 1], source[t : t + 1]
        expected = peak_signal_noise_ratio(one, two, data_range=1.0)
        assert psnr_series(one, two)[0] == pytest.approx(expected.item(), rel=1e-6)
        # Its mean takes the reflected border in; the map of the picture's inside is the same.
        _, full = structural_similarity_index_measure(
            one.double(), two.double(), data_range=1.0, return_full_image=True
        )
        inside = full[0, :, 5:-5, 5:-5].mean().item()
        assert ssim_series(one, two)[0] == pytest.approx(inside, rel=1e-6)


def naive_ssim(x, y, keep):
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for row in range(5, x.shape[1] - 5):
        for column in range(5, x.shape[2] - 5):
            if keep[row, column]:
                for a, b in zip(x, y, strict=True):
                    a = a[row - 5 : row + 6, column - 5 : column + 6]
                    b = b[row - 5 : row + 6, column - 5 : column + 6]
                    ma, mb = (weights * a).sum(), (weights * b).sum()
                    va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
                    both = (weights * (a - ma) * (b - mb)).sum()
                    top = (2 * ma * mb + 1e-4) * (2 * both + 9e-4)
                    values.append(top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(values)


def test_masked_ssim_agrees_with_a_pixel_by_pixel_sum():
    frames, source = noisy(1, 16, 15)
    keep = torch.rand(1, 16, 15, generator=torch.Generator().manual_seed(1)) > 0.5
    expected = naive_ssim(frames[0].double().numpy(), source[0].double().numpy(), keep[0].numpy())
    assert ssim_series(frames, source, keep)[0] == pytest.approx(expected, rel=1e-9)


def test_masks_leave_out_the_edited_object():
    _, source = noisy(2, 32, 32)
    frames, masks = source.clone(), torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[:, 16:, 16:] = True
    frames[:, :, 16:, 16:] = 0
    frames[:, :, :16] = (frames[:, :, :16] + 0.1).clamp(0, 1)
    inputs = MetricInputs(frames, source, masks=masks)
    kept = ~masks[0]
    error = (frames - source).square().mean(1)[0][kept].mean().item()
    assert psnr_background(inputs).series[0] == pytest.approx(-10 * np.log10(error), rel=1e-6)
    assert psnr_background(inputs).value > psnr(inputs).value
    assert ssim_background(inputs).value > ssim(inputs).value


def test_a_copy_is_perfect_and_finite():
    _, source = noisy()
    inputs = MetricInputs(source, source)
    assert psnr(inputs).value == 100
    assert ssim(inputs).value == pytest.approx(1)


def test_masks_are_needed_and_must_leave_something():
    frames, source = noisy(1)
    with pytest.raises(NotAvailable, match="the clip has none"):
        psnr_background(MetricInputs(frames, source))
    everything = torch.ones(1, 20, 27, dtype=torch.bool)
    with pytest.raises(NotAvailable, match="cover all of frame 0"):
        ssim_background(MetricInputs(frames, source, masks=everything))


def test_small_pictures_have_no_ssim():
    with pytest.raises(NotAvailable, match="11 pixels"):
        ssim(MetricInputs(torch.rand(1, 3, 10, 30), torch.rand(1, 3, 10, 30)))


def test_accumulators_average_clips():
    source = torch.full((2, 3, 16, 16), 0.5)
    plain, structure = PeakSignalToNoise(), StructuralSimilarity()
    for gap in (0.1, 0.01):
        plain.update(source + gap, source)
    structure.update(source, source)
    assert plain.compute() == pytest.approx(30, abs=1e-3)
    assert structure.compute() == pytest.approx(1)
