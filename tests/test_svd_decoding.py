"""Chunks of the temporal decoder: diffusers' own, frame by frame, and cross-faded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from methods.svd.decoding import borders, chunks, decode, framewise
from methods.svd.options import Decoding
from tests.tiny_svd import blenders, latents, tiny_vae

FRAMES = 7


@pytest.fixture(scope="module")
def backbone() -> Any:
    vae = tiny_vae()
    return SimpleNamespace(vae=vae, device=torch.device("cpu"), dtype=torch.float32)


@torch.no_grad()
def stock(backbone: Any, chunk: int) -> Tensor:
    """What the pipeline of diffusers does with the latents of one video."""
    scaled = 1 / backbone.vae.config.scaling_factor * latents(FRAMES)
    parts = [
        backbone.vae.decode(scaled[i : i + chunk], num_frames=len(scaled[i : i + chunk])).sample
        for i in range(0, FRAMES, chunk)
    ]
    return (torch.cat(parts) * 0.5 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("chunk", [None, 1, 3, 7, 20])
def test_chunks_side_by_side_are_those_of_diffusers(chunk: int | None, backbone: Any) -> None:
    ours = decode(backbone, latents(FRAMES), Decoding(chunk=chunk))
    assert ours.shape == (FRAMES, 3, 16, 16)
    assert torch.equal(ours, stock(backbone, chunk or FRAMES))


@pytest.mark.parametrize("frames", [1, 5, 14, 25])
@pytest.mark.parametrize(("chunk", "overlap"), [(None, 0), (1, 0), (4, 0), (4, 2), (14, 3)])
def test_chunks_hold_every_frame(frames: int, chunk: int | None, overlap: int) -> None:
    parts = chunks(frames, Decoding(chunk=chunk, overlap=overlap))
    assert sorted({i for part in parts for i in part}) == list(range(frames))
    assert all(len(part) <= (chunk or frames) for part in parts)
    if overlap == 0:
        assert sum(map(len, parts)) == frames


@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 3}, {"chunk": 4, "overlap": 2}])
def test_chunks_make_no_difference_frame_by_frame(options: dict[str, int], backbone: Any) -> None:
    whole = decode(backbone, latents(FRAMES), Decoding(framewise=True))
    parts = decode(backbone, latents(FRAMES), Decoding(framewise=True, **options))
    assert torch.allclose(whole, parts, atol=1e-5)
    mixed = decode(backbone, latents(FRAMES), Decoding(**options))
    assert not torch.allclose(decode(backbone, latents(FRAMES), Decoding()), mixed, atol=1e-2)


def test_overlapping_chunks_fade(backbone: Any) -> None:
    """Frames 2 to 4 lie in both chunks: 3/4, 2/4, 1/4 of the first."""
    ours = decode(backbone, latents(FRAMES), Decoding(chunk=5, overlap=3))
    scaled = latents(FRAMES) / backbone.vae.config.scaling_factor
    with torch.no_grad():
        first = backbone.vae.decode(scaled[:5], num_frames=5).sample
        second = backbone.vae.decode(scaled[2:], num_frames=5).sample
    fade = torch.tensor([3, 2, 1]).view(-1, 1, 1, 1) / 4
    expected = torch.cat([first[:2], fade * first[2:] + (1 - fade) * second[:3], second[3:]])
    assert torch.allclose(ours, (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_framewise_is_undone_after_an_exception(backbone: Any) -> None:
    before = decode(backbone, latents(FRAMES), Decoding())
    with pytest.raises(RuntimeError, match="stop"), framewise(backbone.vae):
        assert all("get_alpha" in b.__dict__ for b in blenders(backbone.vae).values())
        raise RuntimeError("stop")
    assert not any("get_alpha" in b.__dict__ for b in blenders(backbone.vae).values())
    assert not backbone.vae.decoder.time_conv_out._forward_hooks
    assert torch.equal(decode(backbone, latents(FRAMES), Decoding()), before)


def test_overlap_needs_a_longer_chunk() -> None:
    with pytest.raises(ValidationError, match="less than chunk"):
        Decoding(chunk=2, overlap=2)
    with pytest.raises(ValidationError, match="overlap needs a chunk"):
        Decoding(overlap=1)


def test_borders_are_where_another_chunk_takes_over() -> None:
    assert borders(7, Decoding()) == ()
    assert borders(7, Decoding(chunk=3)) == (3, 6)
    # Of 0..3, 2..5 and 3..6, the second is the most central from 3 on, the third from 5 on.
    assert borders(7, Decoding(chunk=4, overlap=2)) == (3, 5)
