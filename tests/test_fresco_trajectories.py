"""Trajectories of tokens: golden mappings, ties included, and invariants of permutations."""

import pytest
import torch
from fresco_golden import golden
from torch import Tensor

from methods.fresco.correspondence import Flows
from methods.fresco.trajectories import link, trajectories


def only_backward(flow: Tensor, hidden: Tensor) -> Flows:
    """Flows with nothing in the direction that trajectories do not use."""
    return Flows(torch.full_like(flow, torch.nan), flow, torch.ones_like(hidden), hidden)


@pytest.mark.parametrize("name", ["trajectory_link_s1", "trajectory_link_s8"])
def test_links_are_the_released_ones(name):
    case = golden(name)
    flow, hidden, images = (case.input[k] for k in ("bwd_flow", "bwd_occ", "images"))
    mapping, unlinked = link(flow, hidden, images, case.config["scale"])
    case.check("mapping_ind", mapping)
    case.check("unlinked", unlinked)


def test_chains_are_the_released_ones():
    case = golden("trajectory_chain")
    flows = only_backward(case.input["bwd_flow"], case.input["bwd_occ"])
    paths = trajectories(flows, case.input["images"], case.config["scale"])
    case.check("fwd_mapping", paths.forward[:, None])
    case.check("bwd_mapping", paths.backward[:, None])
    case.check("interattn_mask", paths.linked[:, None])


def naive_link(flow: Tensor, hidden: Tensor, frames: Tensor) -> tuple[list[int], list[bool]]:
    """One token at a time, at scale 1."""
    _, _, height, width = flow.shape
    best: dict[int, tuple[float, int]] = {}
    for p in range(height * width):
        y, x = divmod(p, width)
        to_x, to_y = (round(v + flow[0, i, y, x].item()) for i, v in ((0, x), (1, y)))
        if hidden[0, y, x] or not (0 <= to_x < width and 0 <= to_y < height):
            continue
        distance = (frames[1, :, y, x] - frames[0, :, to_y, to_x]).square().mean().item()
        q = to_y * width + to_x
        best[q] = min(best.get(q, (distance, p)), (distance, p))
    used = {p for _, p in best.values()}
    spare = iter(sorted(set(range(height * width)) - used))
    mapping = [best[q][1] if q in best else next(spare) for q in range(height * width)]
    return mapping, [q not in best for q in range(height * width)]


@pytest.mark.parametrize("seed", range(6))
def test_links_are_those_of_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    flow = (4 * torch.randn(1, 2, 6, 7, generator=generator)).round() / 2  # halves: rounding ties
    hidden = torch.rand(1, 6, 7, generator=generator) < 0.2
    frames = torch.randint(0, 2, (2, 3, 6, 7), generator=generator).float()  # equal distances
    mapping, unlinked = link(flow, hidden, frames, 1)
    assert (mapping.tolist(), unlinked.tolist()) == naive_link(flow, hidden, frames)


def test_without_motion_every_token_stays():
    none = torch.zeros(3, 16, 24, dtype=torch.bool)
    paths = trajectories(
        only_backward(torch.zeros(3, 2, 16, 24), none), torch.rand(3, 3, 16, 24), 8
    )
    assert torch.equal(paths.forward, torch.arange(6).expand(3, 6))
    assert paths.linked.all()


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_backward_undoes_forward_and_broken_links_split(scale):
    generator = torch.Generator().manual_seed(scale)
    flow = 3 * torch.randn(4, 2, 10, 9, generator=generator)
    hidden = torch.rand(4, 10, 9, generator=generator) < 0.5
    hidden[1] = True  # nothing of frame 2 was seen in frame 1
    frames = torch.rand(4, 3, 10, 9, generator=generator)
    paths = trajectories(only_backward(flow, hidden), frames, scale)
    d = (10 // scale) * (9 // scale)
    counted = torch.arange(d).expand(4, d)
    assert torch.equal(paths.forward.gather(1, paths.backward), counted)
    assert torch.equal(paths.backward.gather(1, paths.forward), counted)
    assert paths.linked.diagonal(dim1=1, dim2=2).all()
    assert not paths.linked[:, :2, 2:].any()
    assert torch.equal(paths.linked, paths.linked.mT)
