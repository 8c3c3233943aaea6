"""Cost of one-shot tuning on the miniature: `make bench`.

One clip of 8 frames of 128 px, 16x16 latents, fp32, with the threads that torch is given. The table
has seconds of an optimiser step, the steps that fit into a minute, and the peak memory of a step
above what was held before, by training set, and with gradient checkpointing. An inversion step and
a guided sampling step of the same network stand beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.measure import MIB, peak_bytes, print_table
from data_manifests.clips import ClipRequest, load_clip
from methods.backbone_config import parse_backbone
from methods.backbones import Backbone, load_backbone, text_states
from methods.base import SampleRequest
from methods.networks import Networks
from methods.tuneavideo.config import TuneAVideoConfig
from methods.tuneavideo.network import inflate_tuned
from methods.tuneavideo.sampler import TunedSample
from methods.tuneavideo.tuning import tune

STEPS = 5
FRAMES, SIZE = 8, 128
CASES = [("all", False), ("all", True), ("mid_up", False), ("attention", False), ("lora", False)]
HEAD = f"{'':<26}{'s / step':>10}{'steps / min':>13}{'peak MiB':>11}"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The miniature's networks."""
    return load_backbone(parse_backbone("miniature"))


@pytest.fixture(scope="module")
def lines() -> Iterator[list[str]]:
    """Collects the lines of the table and prints them at the end."""
    collected: list[str] = []
    yield collected
    print_table(f"one-shot tuning, {FRAMES} frames of {SIZE} px", [HEAD, *collected])


def sample_of(backbone: Backbone, **tuning: Any) -> TunedSample:
    """A sample of one clip of the world, not begun."""
    clip = load_clip(ClipRequest("world:heldout/0", frames=FRAMES, size=SIZE))
    frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
    request = SampleRequest(frames, "a blue circle", source_prompt=clip.caption)
    config = TuneAVideoConfig.model_validate({"tuning": {"steps": STEPS, **tuning}})
    return TunedSample(backbone, request, config, lambda done, total: None)


def line(name: str, seconds: float, peak: int | None = None) -> str:
    """A line of the table; a call whose memory was not measured has none."""
    memory = "" if peak is None else f"{peak / MIB:>11.0f}"
    return f"{name:<26}{seconds:>10.3f}{60 / seconds:>13.0f}{memory}"


@pytest.mark.bench
@pytest.mark.parametrize(("which", "checkpointing"), CASES)
def test_tuning_step(
    which: str, checkpointing: bool, backbone: Backbone, lines: list[str], tmp_path: Path
) -> None:
    """Seconds and peak memory of an optimiser step, by training set."""
    if which == "lora":
        pytest.importorskip("peft")
    sample = sample_of(backbone, train=which)
    options = sample.config.tuning
    with (
        torch.no_grad(),
        inflate_tuned(backbone.unet, sample.plan, sample.initial_tensors()) as net,
    ):
        lesson = sample.lesson

        def run(steps: int) -> Callable[[], Any]:
            """Tune for some steps when called."""
            some = options.model_copy(update={"steps": steps})
            return lambda: tune(net, lesson, some, recompute=checkpointing)

        peak = peak_bytes(run(1), tmp_path / "trace")
        began = time.perf_counter()
        run(STEPS)()
        seconds = (time.perf_counter() - began) / STEPS
    lines.append(line(f"{which}{', checkpointing' if checkpointing else ''}", seconds, peak))


@pytest.mark.bench
@pytest.mark.parametrize(("name", "scale"), [("inversion step", 1.0), ("sampling step", 12.5)])
def test_network_call(name: str, scale: float, backbone: Backbone, lines: list[str]) -> None:
    """Seconds of a prediction: unguided as inversion does it, guided as sampling does."""
    sample = sample_of(backbone)
    with (
        torch.no_grad(),
        inflate_tuned(backbone.unet, sample.plan, sample.initial_tensors()) as net,
    ):
        text = text_states(backbone, ["", "a blue circle"], sample.request.shared)
        networks, latents = Networks(net, (), text), sample.lesson.mean
        networks.predict(latents, 500, scale)
        began = time.perf_counter()
        for step in range(STEPS):
            networks.predict(latents, 100 * step, scale)
        lines.append(line(name, (time.perf_counter() - began) / STEPS))
