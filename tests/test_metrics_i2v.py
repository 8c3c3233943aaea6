"""Likeness to the picture that a video was made from, behind tiny networks."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_metrics_networks import tiny_vit

from crossframe.errors import NotAvailable
from metrics.base import MetricInputs
from metrics.dino import DinoEncoder
from metrics.i2v import (
    DINO_I2V,
    DREAMSIM,
    FirstFramePsnr,
    ImagePsnr,
    ImageSimilarity,
    ImageToVideoScore,
    background,
    first_psnr,
    image_cosines,
    image_psnr,
    image_similarity,
    subject,
    vbench_i2v,
)


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


class MeanColour:
    """An encoder that sees the mean colour alone."""

    name, temperature = "mean colour", 1.0

    def encode_images(self, images):
        return F.normalize(images.mean((2, 3)), dim=-1)


def at(*degrees):
    """Unit vectors in the plane."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_the_score_weighs_largest_mean_and_least_as_published():
    """Picture at 0, frames at 10, 30 and 70 degrees: likest at 10, steps of 20 and 40."""
    cosine = torch.deg2rad(torch.tensor([10.0, 20.0, 40.0])).cos().double()
    expected = 0.4 * cosine[0] + 0.3 * (cosine[1] + cosine[2]) / 2 + 0.3 * cosine[2]
    found = vbench_i2v(3 * at(0)[0], 2 * at(10, 30, 70))
    assert found.shape == (1,)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_opposite_frames_count_nothing_rather_than_less():
    assert vbench_i2v(at(0)[0], at(180, 0, 180)).item() == pytest.approx(0.4)
    assert vbench_i2v(at(0)[0], at(180, 180)).item() == pytest.approx(0.6)


def test_a_frozen_picture_has_the_best_score():
    assert vbench_i2v(at(40)[0], at(40, 40, 40)).item() == pytest.approx(1)


def test_dino_sees_the_centre_of_the_resized_picture():
    """The published order by hand: 256 on the shorter side, centre of 224, class token."""
    frames, source = torch.rand(3, 3, 32, 48), torch.rand(3, 3, 32, 48)
    inputs = MetricInputs(frames, source)
    model = tiny_vit().eval()
    inputs.resident.get("dino", lambda: DinoEncoder(model, "tiny"))
    value = subject(inputs)
    images = torch.cat([source[:1], frames])
    large = F.interpolate(images, (256, 384), mode="bicubic").clamp(0, 1)[..., 16:240, 80:304]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (DINO_I2V.mean, DINO_I2V.std))
    with torch.no_grad():
        states = model((large - mean) / std, interpolate_pos_encoding=True).last_hidden_state
    tokens = states[:, 0]
    # Antialiasing, which the picture has and frames have not, does nothing to what is enlarged.
    assert value.value == pytest.approx(vbench_i2v(tokens[0], tokens[1:]).item(), abs=1e-4)
    assert value.series == pytest.approx(image_cosines(tokens[0], tokens[1:]).tolist(), abs=1e-4)
    assert value.detail == {"encoder": "tiny"}


def test_dreamsim_is_a_program_that_gets_squashed_pictures(monkeypatch, tmp_path):
    class Colours(torch.nn.Module):
        def forward(self, pixels):
            return pixels.mean((2, 3)) + 0 * pixels[:, :, 223, 223]

    file = tmp_path / "dreamsim_ensemble.pt"
    torch.jit.script(Colours()).save(str(file))
    monkeypatch.setattr("metrics.i2v.locate", {"dreamsim": file}.__getitem__)
    frames = torch.rand(2, 3, 1, 1).expand(-1, -1, 20, 30)
    source = torch.rand(1, 3, 1, 1).expand(2, -1, 20, 30)
    value = background(MetricInputs(frames, source))
    expected = vbench_i2v(source[0, :, 0, 0], frames[:, :, 0, 0])
    assert value.value == pytest.approx(expected.item(), abs=1e-5)


def test_no_picture_goes_through_a_network_alone(monkeypatch):
    """33 pictures in parts of 32 would leave one, which DreamSim's squeezing does not survive."""
    sizes = []

    def network(pixels):
        sizes.append(len(pixels))
        return pixels.mean((2, 3))

    monkeypatch.setattr("metrics.i2v.load_dreamsim", lambda: network)
    background(MetricInputs(torch.rand(32, 3, 8, 8), torch.rand(32, 3, 8, 8)))
    assert sizes == [17, 16]


def test_a_missing_network_is_told_with_what_to_do():
    inputs = MetricInputs(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
    with pytest.raises(NotAvailable, match="hf download facebook/dino-vitb16"):
        subject(inputs)
    with pytest.raises(NotAvailable, match=r"dreamsim_ensemble.pt.*docs/metrics.md"):
        background(inputs)
    with pytest.raises(NotAvailable, match="has 1"):
        subject(MetricInputs(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)))


@pytest.mark.parametrize("metric", [image_similarity, image_psnr, first_psnr])
def test_without_a_source_there_is_no_picture(metric):
    with pytest.raises(NotAvailable, match="source"):
        metric(MetricInputs(torch.rand(2, 3, 8, 8), encoder=MeanColour()))


def test_similarity_is_to_the_picture_and_not_to_the_own_first_frame():
    red, green = (torch.zeros(1, 3, 8, 8) for _ in range(2))
    red[:, 0], green[:, 1] = 1, 1
    source = torch.cat([red, green])
    value = image_similarity(MetricInputs(torch.cat([green, red]), source, encoder=MeanColour()))
    assert value.series == pytest.approx((0, 1))
    assert value.detail == {"encoder": "mean colour"}


def test_only_the_first_frame_is_measured():
    source = torch.full((3, 3, 8, 8), 0.5)
    frames = torch.stack([source[0] + 0.1, source[0] + 0.5, source[0]])
    value = first_psnr(MetricInputs(frames, source))
    assert value.series == pytest.approx((20.0,), rel=1e-5)
    source[1:] = 0
    assert first_psnr(MetricInputs(frames, source)).value == pytest.approx(20.0, rel=1e-5)


def test_every_frame_is_measured_against_the_picture():
    source = torch.rand(3, 3, 8, 8)
    source[0] = 0.5
    frames = torch.stack([source[0], source[0] + 0.1, source[0] + 0.5])
    value = image_psnr(MetricInputs(frames, source))
    assert value.series == pytest.approx((100, 20, -20 * math.log10(0.5)), rel=1e-5)
    assert value.value == pytest.approx(sum(value.series) / 3)
    over_clips = ImagePsnr()
    over_clips.update(frames, source[:1])
    assert over_clips.compute() == pytest.approx(value.value, rel=1e-5)


def test_the_input_is_that_of_the_published_code():
    assert (DINO_I2V.resize, DINO_I2V.crop, DINO_I2V.filter) == (256, (224, 224), "bicubic")
    assert (DREAMSIM.resize, DREAMSIM.crop, DREAMSIM.filter) == ((224, 224), None, "bicubic")


def test_accumulators_average_clips():
    score, similarity, fidelity = ImageToVideoScore(), ImageSimilarity(), FirstFramePsnr()
    for angle in (0, 60):
        score.update(at(0)[0], at(angle, angle))
        similarity.update(at(0)[0], at(angle, 0))
    assert score.compute() == pytest.approx((1 + 0.4 * 0.5 + 0.6) / 2, abs=1e-6)
    assert similarity.compute() == pytest.approx((1 + 0.75) / 2, abs=1e-6)
    fidelity.update(torch.full((1, 3, 4, 4), 0.6), torch.full((1, 3, 4, 4), 0.5))
    assert fidelity.compute() == pytest.approx(20, rel=1e-5)
