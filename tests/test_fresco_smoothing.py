"""Background smoothing: golden samples at both sites, and where the background comes from."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fresco_golden import golden
from pydantic import ValidationError

from crossframe.errors import UserError
from methods.base import SampleRequest
from methods.fresco.correspondence import Flows
from methods.fresco.options import Smoothing
from methods.fresco.smoothing import background_weight, dilate, smooth_background


def request(masks: torch.Tensor | None = None) -> SampleRequest:
    truth = {} if masks is None else {"masks": masks}
    return SampleRequest(torch.rand(3, 3, 16, 20), "", truth=truth)


@pytest.mark.parametrize("site", ["features", "pixels"])
def test_smoothing_is_the_released_one(site):
    case = golden(f"background_smoothing_{site}")
    given = case.input
    flows = Flows(*(given[k] for k in ("fwd_flow", "bwd_flow", "fwd_occ", "bwd_occ")))
    found = smooth_background(given["sample"], flows, given["background"])
    case.check("sample", found)


def test_foreground_and_hidden_pixels_are_left_alone():
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(6, 2, 16, 16, generator=generator)
    flow, none = torch.zeros(3, 2, 16, 16), torch.zeros(3, 16, 16, dtype=torch.bool)
    nothing = smooth_background(sample, Flows(flow, flow, none, none), torch.zeros(3, 1, 4, 4))
    assert torch.equal(nothing, sample)
    hidden = smooth_background(sample, Flows(flow, flow, ~none, ~none), torch.ones(3, 1, 4, 4))
    assert torch.equal(hidden, sample)
    still = smooth_background(sample, Flows(flow, flow, none, none), torch.ones(3, 1, 4, 4))
    torch.testing.assert_close(still.unflatten(0, (2, 3))[:, 2], sample[[0, 3]])


def test_dilation_of_a_mask_is_a_maximum():
    mask = (torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(1)) < 0.02).float()
    expected = F.max_pool2d(mask, 7, stride=1, padding=3)
    torch.testing.assert_close(dilate(mask, 7), expected)


def test_exact_masks_are_a_source():
    masks = torch.zeros(3, 2, 16, 20, dtype=torch.bool)
    masks[0, 0, 8, 10] = masks[2, 1, 0, 0] = True
    weight = background_weight(request(masks), "exact", [0, 2])
    assert weight.shape == (2, 1, 16, 20)
    torch.testing.assert_close((1 - weight).sum((1, 2, 3)), torch.tensor([49.0, 16.0]))
    assert background_weight(request(masks), "none") is None
    with pytest.raises(UserError, match="no exact masks"):
        background_weight(request(), "exact")


def test_a_file_is_a_source_and_its_content_is_part_of_the_option(tmp_path):
    path = tmp_path / "saliency.npy"
    np.save(path, np.full((3, 8, 10), 0.01, np.float32))
    option = Smoothing(saliency=f"file:{path}").saliency
    assert Smoothing(saliency=option).saliency == option
    weight = background_weight(request(), option)
    torch.testing.assert_close(weight, torch.full((3, 1, 8, 10), 1 - 0.49))
    np.save(path, np.zeros((2, 8, 10), np.float32))
    with pytest.raises(ValidationError, match="changed"):
        Smoothing(saliency=option)
    with pytest.raises(UserError, match="one per frame"):
        background_weight(request(), Smoothing(saliency=f"file:{path}").saliency)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "cannot be read"),
        (np.array([{}]), "cannot be read"),
        (np.full((3, 2, 2), np.nan), "outside"),
        (np.full((3, 2, 2), 255), "outside"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    path = tmp_path / "saliency.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        background_weight(request(), Smoothing(saliency=f"file:{path}").saliency)


@pytest.mark.parametrize("text", ["masks", "file:x.npy", "file:x.png", "exact#1"])
def test_impossible_sources_are_refused(text):
    with pytest.raises(ValidationError, match=r"is not one of|no file"):
        Smoothing(saliency=text)
