import numpy as np
import pytest
import torch

from crossframe.errors import NotAvailable, UserError
from metrics.syncnet import lip_sync


def embeddings(frames=40, width=8):
    return torch.randn(frames, width, generator=torch.Generator().manual_seed(0))


def naive(video, sound, reach):
    """Distances by loops: every window of the picture with the sound `shift` later."""
    means = []
    for shift in range(-reach, reach + 1):
        row = []
        for i, seen in enumerate(video):
            inside = 0 <= i + shift < len(sound)
            heard = sound[i + shift] if inside else np.zeros_like(seen)
            row.append(np.sqrt(((seen - heard + 1e-6) ** 2).sum()))
        means.append(np.mean(row))
    return min(means), np.median(means) - min(means), -(int(np.argmin(means)) - reach)


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_errors_equal_those_of_loops_and_the_offset_is_found(late):
    video = embeddings()
    sound = video.roll(late, 0) + 0.1 * embeddings().flip(0)
    found = lip_sync(video, sound, 6)
    expected = naive(video.numpy(), sound.numpy(), 6)
    assert found.distance == pytest.approx(expected[0], rel=1e-5)
    assert found.confidence == pytest.approx(expected[1], rel=1e-4)
    assert found.offset == expected[2] == -late


def test_sound_of_another_clip_gives_no_confidence():
    video = embeddings()
    other = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    assert lip_sync(video, video).confidence > 5 * lip_sync(video, other).confidence


def test_embeddings_must_belong_together():
    with pytest.raises(UserError, match=r"\(4, 8\) and \(5, 8\)"):
        lip_sync(torch.zeros(4, 8), torch.zeros(5, 8))
    with pytest.raises(NotAvailable, match="five frames"):
        lip_sync(torch.zeros(0, 8), torch.zeros(0, 8))
