import numpy as np
import pytest
import torch

from crossframe.errors import NotAvailable
from metrics.base import Face, MetricInputs
from metrics.sync import (
    HeadCorrelation,
    MouthCorrelation,
    MouthRange,
    OutsideCorrelation,
    correlation_terms,
    head_corr,
    head_offsets,
    mouth_corr,
    mouth_openness,
    mouth_range,
    object_offsets,
    outside_corr,
)

ENVELOPE = torch.tensor([0.0, 0.5, 1.0, 0.4, 0.1, 0.8, 0.3, 0.9])


def talking(envelope, side=24):
    """A light face whose dark mouth opens with the envelope, and its region."""
    frames = torch.full((len(envelope), 3, side, side), 0.8)
    for frame, open_ in zip(frames, envelope, strict=True):
        frame[:, 12 : 12 + round(8 * open_.item()), 8:16] = 0.1
    mouth = torch.zeros(len(envelope), side, side, dtype=torch.bool)
    mouth[:, 11:21, 7:17] = True
    return frames, mouth


def test_a_mouth_that_follows_the_voice_correlates():
    frames, mouth = talking(ENVELOPE)
    value = mouth_corr(MetricInputs(frames, face=Face(mouth, ENVELOPE)))
    rows = np.round(8 * ENVELOPE.numpy())
    assert value.value == pytest.approx(np.corrcoef(rows, ENVELOPE.numpy())[0, 1], rel=1e-6)
    assert value.value > 0.98
    assert len(value.series) == len(ENVELOPE)
    assert value.detail["envelope"] == pytest.approx(ENVELOPE.tolist())
    curves = [value.detail[name] for name in ("opening", "envelope")]
    assert np.corrcoef(curves)[0, 1] == pytest.approx(value.value, abs=1e-4)


def test_a_mouth_that_opens_half_as_far_has_half_the_range():
    """Rows of the mouth that are dark: 0, 4, 8, ... against 0, 2, 4, ..."""
    steps = torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0, 1.0])
    (half, mouth), (source, _) = talking(steps / 2), talking(steps)
    value = mouth_range(MetricInputs(half, source, face=Face(mouth, steps)))
    assert value.value == pytest.approx(0.5, rel=1e-6)
    assert len(value.series) == len(steps)
    still, _ = talking(torch.full((6,), 0.5))
    assert mouth_range(MetricInputs(still, source, face=Face(mouth, steps))).value == 0
    with pytest.raises(NotAvailable, match="stands still"):
        mouth_range(MetricInputs(half, still, face=Face(mouth, steps)))
    with pytest.raises(NotAvailable, match="the clip has none"):
        mouth_range(MetricInputs(half, source))
    metric = MouthRange()
    metric.update(half, source, mouth)
    metric.update(source, source, mouth)
    assert metric.compute() == pytest.approx(0.75, rel=1e-6)


def test_a_mouth_that_does_the_opposite_is_negative():
    frames, mouth = talking(1 - ENVELOPE)
    assert mouth_corr(MetricInputs(frames, face=Face(mouth, ENVELOPE))).value < -0.95


def test_a_still_mouth_follows_nothing():
    frames, mouth = talking(torch.full((8,), 0.5))
    assert mouth_corr(MetricInputs(frames, face=Face(mouth, ENVELOPE))).value == 0


def test_what_happens_elsewhere_does_not_count():
    frames, mouth = talking(ENVELOPE)
    other = frames.clone()
    other[:, :, :8] = torch.rand(8, 3, 8, 24)
    assert torch.equal(mouth_openness(frames, mouth), mouth_openness(other, mouth))


def test_the_terms_average_to_the_correlation_whatever_scale_and_offset():
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 12, generator=generator)
    expected = np.corrcoef(one.numpy(), two.numpy())[0, 1]
    for changed in (one, 3 * one + 2):
        assert correlation_terms(changed, two).mean().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("face", "message"),
    [
        (None, "the clip has none"),
        (Face(torch.zeros(8, 24, 24, dtype=torch.bool), ENVELOPE), "is empty"),
        (Face(torch.ones(8, 24, 24, dtype=torch.bool), torch.ones(8)), "as loud"),
    ],
)
def test_clips_without_a_face_or_a_voice_have_no_value(face, message):
    with pytest.raises(NotAvailable, match=message):
        mouth_corr(MetricInputs(talking(ENVELOPE)[0], face=face))


def test_few_frames_have_no_correlation():
    with pytest.raises(NotAvailable, match="needs 5 frames"):
        correlation_terms(torch.rand(4), torch.rand(4))


def test_accumulator_averages_clips():
    metric = MouthCorrelation()
    metric.update(*talking(ENVELOPE), ENVELOPE)
    metric.update(*talking(torch.full((8,), 0.5)), ENVELOPE)
    assert 0.49 < metric.compute() <= 0.5


def moving_face(offsets, side=64):
    """A patterned square face at offsets (f,) in pixels on a plain ground, and its boxes."""
    rng = np.random.default_rng(0)
    wide = rng.uniform(0, 1, (8, 8))
    axis = np.arange(side)
    frames = []
    for offset in offsets:
        x = np.clip((axis - 20 - offset) / 3, -0.5, 7.49)
        columns = np.stack([np.interp(x, np.arange(8), line) for line in wide])
        inside = (x > -0.5) & (x < 7.49)
        picture = np.full((side, side), 0.5)
        picture[20:44] = np.where(inside, np.repeat(columns, 3, 0), 0.5)
        frames.append(picture)
    boxes = torch.zeros(len(offsets), side, side, dtype=torch.bool)
    boxes[:, 20:44, 19:44] = True
    return torch.tensor(np.stack(frames))[:, None].expand(-1, 3, -1, -1).float(), boxes


AWAY = np.array([0.0, 1.5, 3.0, 4.25, 2.0, -1.0, -3.5, -5.0])


def test_the_offset_of_a_head_is_found_to_parts_of_a_pixel():
    frames, boxes = moving_face(AWAY)
    np.testing.assert_allclose(head_offsets(frames, frames[0], boxes[0]), AWAY, atol=0.3)


@pytest.mark.parametrize(
    ("offsets", "low", "high"),
    [(AWAY, 0.99, 1.0001), (-AWAY, -1.0001, -0.99), (0 * AWAY, 0.0, 0.0)],
)
def test_a_head_that_moves_as_the_source_does_correlates(offsets, low, high):
    source, boxes = moving_face(AWAY)
    pose = torch.tensor(np.stack([AWAY, 0 * AWAY], 1))
    face = Face(boxes, ENVELOPE, boxes, pose)
    made = MetricInputs(moving_face(offsets)[0], source, face=face)
    assert low <= head_corr(made).value <= high
    metric = HeadCorrelation()
    metric.update(made.frames, source[0], boxes[0], pose)
    assert metric.compute().item() == pytest.approx(head_corr(made).value)


def test_clips_that_do_not_say_where_the_head_is_have_no_value():
    source, boxes = moving_face(AWAY)
    with pytest.raises(NotAvailable, match="box and pose"):
        head_corr(MetricInputs(source, source, face=Face(boxes, ENVELOPE)))
    still = Face(boxes, ENVELOPE, boxes, torch.zeros(8, 2))
    with pytest.raises(NotAvailable, match="stands still"):
        head_corr(MetricInputs(source, source, face=still))


def swinging(heights, side=64):
    """A coloured diamond at heights (f,) on a patterned ground, whole pixels down; its pixels."""
    rng = np.random.default_rng(1)
    ground = torch.tensor(rng.uniform(0.4, 0.6, (3, side, side))).float()
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = torch.stack([(y - 30 - int(h)).abs() + (x - 10).abs() < 7 for h in heights])
    colour = torch.tensor([0.9, 0.2, 0.1])[:, None, None]
    return torch.where(parts[:, None], colour, ground), parts


HEIGHTS = np.array([0, 2, 5, 9, 4, -3, -8, -1])


def test_an_object_is_found_in_both_directions_and_between_pixels():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")

    def blob(dx, dy):
        return torch.exp(-((x - 30 - dx) ** 2 + (y - 32 - dy) ** 2) / 60).expand(3, -1, -1)

    part = (x - 30).abs() + (y - 32).abs() < 14
    frames = torch.stack([blob(0, 0), blob(5, -3), blob(-2.5, 1.5)])
    found = object_offsets(frames, blob(0, 0), part)
    assert found.numpy() == pytest.approx(np.array([[0, 0], [5, -3], [-2.5, 1.5]]), abs=0.1)


def test_a_face_does_not_count_as_what_moves_outside_of_it():
    """The correlation of an object's height, whatever the rest of the picture does."""
    source, parts = swinging(HEIGHTS)
    face = Face(torch.ones_like(parts), ENVELOPE, hanging=parts)
    for heights, wanted in ((HEIGHTS, 1.0), (-HEIGHTS, -1.0), (0 * HEIGHTS, 0.0)):
        made, _ = swinging(heights)
        made[:, :, :, 40:] = torch.rand(8, 3, 64, 24, generator=torch.Generator().manual_seed(2))
        value = outside_corr(MetricInputs(made, source, face=face))
        assert value.value == pytest.approx(wanted, abs=1e-3)
    metric = OutsideCorrelation()
    metric.update(source, source[0], parts)
    assert metric.compute().item() == pytest.approx(1, abs=1e-3)


def test_clips_without_an_object_outside_of_the_face_have_no_value():
    source, parts = swinging(HEIGHTS)
    with pytest.raises(NotAvailable, match="the clip does not say"):
        outside_corr(MetricInputs(source, source, face=Face(parts, ENVELOPE)))
    hidden = parts.clone()
    hidden[3] = False
    with pytest.raises(NotAvailable, match="not seen in some frame"):
        outside_corr(MetricInputs(source, source, face=Face(parts, ENVELOPE, hanging=hidden)))
    still = parts[:1].expand_as(parts)
    with pytest.raises(NotAvailable, match="stands still"):
        outside_corr(MetricInputs(source, source, face=Face(parts, ENVELOPE, hanging=still)))
