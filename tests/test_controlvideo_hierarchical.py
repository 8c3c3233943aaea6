"""The sampler for long videos: the authors' loop, equalities, what is at work at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from crossframe.errors import UserError
from methods.attention import KeyValue
from methods.backbones import Backbone
from methods.base import SampleRequest
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.hierarchical import HierarchicalPrediction
from methods.controlvideo.layout import cut_video, replaced_frames
from methods.controlvideo.sampler import prepared, sample
from methods.controlvideo.smoother import FrameSmoother
from methods.ddim import ddim_step, make_schedule
from methods.interpolators.linear import Linear
from tests.controlvideo_golden import Case, frames_first
from tests.tiny_backbone import SIZE, tiny_backbone

FRAMES = 9


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


def make_request(frames: int = FRAMES) -> SampleRequest:
    drawn = torch.rand((2, frames, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    return SampleRequest(
        frames=drawn[0],
        prompt="a red star",
        negative_prompt="blue stripes",
        controls={"edges": drawn[1]},
        seed=5,
    )


def config(**options: Any) -> ControlVideoConfig:
    base = {"steps": 2, "guidance": {"scale": 4.0}}
    return ControlVideoConfig.model_validate({**base, **options})


def quiet(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("inter_keys", "name"), [("repo", "repo"), ("paper", "intended")])
def test_the_loop_is_that_of_the_released_code(inter_keys: Any, name: str, smooth: bool) -> None:
    case = Case("hierarchical_sampler")
    steps, window = case.config["num_inference_steps"], case.config["window_size"]
    layout = cut_video(case.config["f"], window)
    assert list(layout.keys) == case.config["key_frames"]
    predict = HierarchicalPrediction(case.network(0).predict_part, layout, inter_keys)
    smoothed = sorted(steps - left for left in case.config["smooth_steps"])
    noise = case.input["encode_noise"].unflatten(0, (len(smoothed), -1))
    smoother = FrameSmoother(
        case.decode,
        case.encode,
        Linear(torch.device("cpu")),
        {index: replaced_frames(index, steps, "repo") for index in smoothed if smooth},
        noise=lambda index: noise[smoothed.index(index)],
        chunk=3,
    )
    schedule = make_schedule(case.config["scheduler"], steps)
    latents = frames_first(case.input["latents"][0])
    for index, timestep in enumerate(schedule.timesteps):
        output = predict(latents, timestep, case.config["guidance_scale"])
        latents = ddim_step(schedule, index, latents, output, edit=smoother)
        path = f"{name}_{'smooth' if smooth else 'plain'}_latents_{index:02}"
        expected = frames_first(case.output[path][0])
        torch.testing.assert_close(latents, expected, rtol=0, atol=case.tolerance)


def test_reused_keys_equal_keys_run_again_where_they_see_the_same() -> None:
    """One clip and both ends as keys, keys on their own: what they are does not depend on it."""
    case = Case("hierarchical_sampler")
    latents = frames_first(case.input["latents"][0])[:4]
    layout = cut_video(4, 4)
    for inter_keys in ("paper", "repo"):
        again, reused = (
            HierarchicalPrediction(case.network(0).predict_part, layout, inter_keys, reuse)(
                latents, 401, 2.5
            )
            for reuse in (False, True)
        )
        torch.testing.assert_close(reused, again, rtol=0, atol=case.tolerance)


def test_networks_see_the_parts_in_turn() -> None:
    seen: list[tuple[list[int], str, bool]] = []

    def part(
        latents: Tensor, timestep: int, scale: float, frames: Sequence[int], **call: Any
    ) -> Tensor:
        seen.append((list(frames), str(call.get("pattern")), bool(call.get("bank"))))
        if call.get("record") is not None:
            call["record"]["x"] = KeyValue(*torch.zeros(2, 2, len(frames), 1, 1, 1))
        assert torch.equal(latents[:, 0, 0, 0].long(), torch.tensor(frames))
        return latents + 0.5

    latents = torch.arange(8.0).view(-1, 1, 1, 1)
    keys = "keyframes[0,1]"
    again = [([0, 4, 1, 2, 3], keys, False), ([4, 7, 5, 6], keys, False)]
    reused = [([1, 2, 3], "reference", True), ([5, 6], "reference", True)]
    for reuse, clips in [(False, again), (True, reused)]:
        seen.clear()
        made = HierarchicalPrediction(part, cut_video(8, 5), "paper", reuse)(latents, 1, 1.0)
        assert torch.equal(made, latents + 0.5)
        assert seen == [([0, 4, 7], "None", False), *clips]


def test_without_mixing_the_parts_make_the_whole(backbone: Backbone) -> None:
    """With alpha 0 and norms per frame, how a video is cut cannot matter."""
    apart = {"attention": {"alpha": 0.0}}
    whole = sample(backbone, make_request(), config(**apart), quiet)
    for options in ({"window": 4}, {"window": "sqrt"}, {"window": 5, "reuse_keys": True}):
        cut = config(**apart, hierarchical={"on": True, **options})
        torch.testing.assert_close(
            sample(backbone, make_request(), cut, quiet), whole, atol=1e-5, rtol=0
        )


def test_keys_only_is_the_short_sampler(backbone: Backbone) -> None:
    """Two frames are both keys."""
    request = make_request(2)
    whole = sample(backbone, request, config(), quiet)
    cut = sample(backbone, request, config(hierarchical={"on": True, "window": 3}), quiet)
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_frames_of_a_clip_see_what_the_switch_says(backbone: Backbone) -> None:
    """Another right key changes a clip only by the paper's reading."""
    latents = torch.randn((7, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    layout = cut_video(7, 4)
    far = config(attention={"pattern": "individual"}, controls=["edges"])
    with prepared(backbone, make_request(7), far) as networks:

        def touched(frame: int, inter_keys: Any, reuse: bool) -> set[int]:
            predict = HierarchicalPrediction(networks.predict_part, layout, inter_keys, reuse)
            other = latents.clone()
            other[frame] += 1
            changes = (predict(other, 400, 4.0) - predict(latents, 400, 4.0)).abs().amax((1, 2, 3))
            return {n for n, change in enumerate(changes.tolist()) if change > 1e-4}

        for reuse in (False, True):
            assert touched(3, "paper", reuse) == {1, 2, 3, 4, 5}
            assert touched(3, "repo", reuse) == {3, 4, 5}
            assert touched(2, "paper", reuse) == {2}
            assert touched(2, "repo", reuse) == {1, 2}


@pytest.mark.parametrize("reuse", [False, True])
def test_only_keys_or_one_clip_are_at_work(backbone: Backbone, reuse: bool) -> None:
    batches: list[int] = []
    hook = backbone.unet.conv_in.register_forward_hook(lambda m, a, o: batches.append(len(o) // 2))
    options = {"on": True, "window": 4, "reuse_keys": reuse}
    try:
        sample(backbone, make_request(), config(steps=1, hierarchical=options), quiet)
    finally:
        hook.remove()
    clips = [2, 2, 1] if reuse else [4, 4, 3]
    assert batches == [4, *clips]


def test_conditions_are_embedded_in_chunks_and_wait_in_main_memory(backbone: Backbone) -> None:
    sizes: list[int] = []
    embedding = backbone.controlnets["edges"].controlnet_cond_embedding
    hook = embedding.register_forward_hook(lambda m, a, o: sizes.append(len(o)))
    try:
        sample(backbone, make_request(), config(hierarchical={"on": True}), quiet)
    finally:
        hook.remove()
    assert sizes == [2, 2, 2, 2, 1]


def test_too_few_frames_for_a_window_are_told(backbone: Backbone) -> None:
    cut = config(hierarchical={"on": True})
    with pytest.raises(UserError, match="sqrt of 8 frames is a window of 2"):
        sample(backbone, make_request(8), cut, quiet)
    short = replace(make_request(8))
    sample(backbone, short, config(steps=1, hierarchical={"on": True, "window": 3}), quiet)
