"""Methods on frames that are no squares: a wide clip gives the picture of the high one, turned.

Random networks whose kernels are symmetric commute with transposition, and so must every sampler:
whoever takes a height for a width, or counts tokens as of a square, breaks that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_backbone import SIZE, tiny_backbone
from torch import Tensor, nn

from methods import METHODS, method_config
from methods.backbones import Backbone
from methods.base import SampleRequest

FRAMES, HEIGHT, WIDTH = 3, SIZE, 2 * SIZE
EXACT = {"flow": "exact", "occlusion": "exact", "photometric": None}
LAYERS = {"layers": [0, 1], "iterations": 1}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "controlvideo": ("controlvideo", {"steps": 3, "controls": ["edges"]}),
    "smoother": (
        "controlvideo",
        {
            "steps": 3,
            "controls": [],
            "smoother": {"on": True, "interpolator": "linear", "remaining": [2]},
        },
    ),
    "hierarchical": (
        "controlvideo",
        {"steps": 2, "controls": ["depth"], "hierarchical": {"on": True, "window": 3}},
    ),
    "text2videozero": ("text2videozero", {"steps": 3}),
    "text alone": (
        "text2videozero",
        {"preset": "paper_text", "steps": 6, "motion": {"t0": 2, "t1": 4, "x": 256, "y": 0}},
    ),
    "ddim": ("ddim", {"steps": 3}),
    "tuneavideo": ("tuneavideo", {"steps": 2, "tuning": {"steps": 1, "learning_rate": 1e-6}}),
    "fresco": (
        "fresco",
        {
            "steps": 4,
            "controls": [],
            "loss": LAYERS,
            "correspondence": EXACT,
            "smoothing": {"saliency": "exact"},
            "temporal_attention": {"on": False},
        },
    ),
    "rerender": (
        "rerender",
        {"steps": 4, "strength": 1.0, "controls": [], "correspondence": EXACT},
    ),
}
SWAPPED = {"text alone": {"motion": {"t0": 2, "t1": 4, "x": 0, "y": 256}}}
"""Options that name an axis, for the high clip."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """Networks that treat rows and columns alike."""
    made = tiny_backbone()
    for net in (made.unet, made.vae, *made.controlnets.values()):
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                kernel = module.weight.data
                module.weight.data = (kernel + kernel.mT) / 2
    return replace(made, identity={"unet/a": "0"})


@pytest.fixture
def turned_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of a high picture is that of the wide one, turned."""
    drawn = torch.randn

    def randn(*sides: Any, **how: Any) -> Tensor:
        shape = sides[0] if len(sides) == 1 else sides
        if len(shape) < 2 or shape[-2] <= shape[-1]:
            return drawn(shape, **how)
        return drawn((*shape[:-2], shape[-1], shape[-2]), **how).mT.contiguous()

    monkeypatch.setattr(torch, "randn", randn)


def wide() -> SampleRequest:
    """Noise that moves by two pixels to the right, and an object in it."""
    generator = torch.Generator().manual_seed(1)
    still = torch.rand(1, 3, HEIGHT, WIDTH, generator=generator)
    frames = torch.cat([still.roll(2 * i, -1) for i in range(FRAMES)])
    flow = torch.zeros(FRAMES - 1, 2, HEIGHT, WIDTH)
    flow[:, 0] = 2
    forward, backward = torch.zeros(2, FRAMES - 1, HEIGHT, WIDTH, dtype=torch.bool)
    forward[..., -2:], backward[..., :2] = True, True
    masks = torch.zeros(FRAMES, 1, HEIGHT, WIDTH, dtype=torch.bool)
    for i in range(FRAMES):
        masks[i, 0, 4:10, 6 + 2 * i : 16 + 2 * i] = True
    truth = {
        "flow_forward": flow,
        "flow_backward": -flow,
        "occluded_forward": forward,
        "occluded_backward": backward,
        "masks": masks,
    }
    controls = {"edges": frames.flip(0), "depth": frames.flip(1)}
    text = {"prompt": "a red star", "source_prompt": "a blue star"}
    return SampleRequest(frames, **text, controls=controls, seed=5, truth=truth)


def turned(request: SampleRequest) -> SampleRequest:
    """The same with rows for columns; flow is (dx, dy)."""
    truth = {name: x.mT.contiguous() for name, x in request.truth.items()}
    for name in ("flow_forward", "flow_backward"):
        truth[name] = truth[name].flip(1)
    return replace(
        request,
        frames=request.frames.mT.contiguous(),
        controls={kind: maps.mT.contiguous() for kind, maps in request.controls.items()},
        truth=truth,
    )


@pytest.mark.parametrize("case", CASES)
def test_a_wide_clip_is_the_high_one_turned(
    case: str, backbone: Backbone, turned_noise: None
) -> None:
    name, options = CASES[case]
    sample, config = METHODS.load(name), method_config(name)
    made, other = (
        sample(backbone, request, config.model_validate({**options, **more}), lambda *_: None)
        for request, more in ((wide(), {}), (turned(wide()), SWAPPED.get(case, {})))
    )
    assert made.shape == (FRAMES, 3, HEIGHT, WIDTH)
    assert made.std() > 0.02
    torch.testing.assert_close(other.mT, made, rtol=0, atol=2e-3)


def test_trajectories_fill_a_wide_grid(backbone: Backbone) -> None:
    """Tokens that are left over are taken in order, so that turning proves nothing of them."""
    options = {"steps": 2, "controls": [], "loss": LAYERS, "correspondence": EXACT}
    sample, config = METHODS.load("fresco"), method_config("fresco").model_validate(options)
    made = sample(backbone, wide(), config, lambda *_: None)
    assert made.shape == (FRAMES, 3, HEIGHT, WIDTH)
    plain = config.model_copy(
        update={"temporal_attention": config.temporal_attention.model_copy(update={"on": False})}
    )
    assert not torch.equal(sample(backbone, wide(), plain, lambda *_: None), made)
