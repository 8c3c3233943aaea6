"""Cost of ControlVideo's sampler for long videos, and of the exact savings: `make bench`.

    long video   working memory of one step at 16 to 96 frames: all frames at once, and by key
                 frames and clips; beside it the frames that pass through the networks
    keys reused  time of a prediction by key frames and clips, keys run again or their keys and
                 values reused, and how far the two predictions are apart
    savings      what each exact saving saves where it acts, and how far it moves results

`tiny` are random networks of a few thousand parameters, which show how memory grows; `miniature`
the trained ones, which show what differences mean. Memory is the peak above what was held before,
by the allocator's own records. Time is the best of rounds in which both ways take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.measure import MIB, peak_bytes, print_table, seconds
from methods.attention import CallSlot, FrameAttentionProcessor, FrameCall
from methods.backbone_config import BackboneConfig, miniature_weights
from methods.backbones import Backbone, load_backbone
from methods.base import SampleRequest
from methods.control import embed_condition, takes_embedded_condition
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.hierarchical import HierarchicalPrediction
from methods.controlvideo.layout import cut_video, window_of
from methods.controlvideo.sampler import prepared, sample
from methods.inflation import inflate
from methods.networks import attention_plan
from methods.patterns import parse_pattern
from tests.tiny_backbone import tiny_backbone

LENGTHS = (16, 32, 64, 96)
REUSED_FRAMES, ROUNDS = 24, 4
Rows = dict[str, list[str]]
Call = Callable[[], Tensor]


@pytest.fixture(scope="module", params=["tiny", "miniature"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """The tests' tiny networks, then the miniature's."""
    if request.param == "tiny":
        return tiny_backbone()
    if not (miniature_weights() / "unet").is_dir():
        pytest.skip("the miniature's weights are not in this checkout")
    return load_backbone(BackboneConfig(name="miniature", device="cpu"))


@pytest.fixture(scope="module")
def rows() -> Iterator[Rows]:
    """Collects lines by title and prints them as tables at the end."""
    collected: Rows = {}
    yield collected
    for title, lines in collected.items():
        print_table(title, lines)


def name_of(backbone: Backbone) -> str:
    """Which of the two a backbone is."""
    return "tiny" if backbone.size < 100 else "miniature"


def make_request(backbone: Backbone, frames: int) -> SampleRequest:
    """Random frames and maps of edges at the backbone's size."""
    shape = (2, frames, 3, backbone.size, backbone.size)
    pictures, maps = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return SampleRequest(frames=pictures, prompt="a red star", controls={"edges": maps})


def options(**given: Any) -> ControlVideoConfig:
    """One guided step under control of edges, with other options."""
    base = {"controls": ["edges"], "guidance": {"scale": 4.0}, "steps": 1}
    return ControlVideoConfig.model_validate({**base, **given})


def apart(one: Tensor, two: Tensor) -> float:
    """Root mean square of the difference, relative to that of `one`."""
    return float((two - one).square().mean().sqrt() / one.square().mean().sqrt())


def quiet(done: int, total: int) -> None:
    """Show no progress."""


@pytest.mark.bench
def test_memory_of_long_videos(backbone: Backbone, rows: Rows, tmp_path: Path) -> None:
    """By clips a step holds less, and grows with the key frames instead of the frames."""
    small = replace(backbone, chunk=4)
    lengths = LENGTHS if name_of(backbone) == "tiny" else LENGTHS[:1]
    title = f"working memory of a step, {name_of(backbone)}, MiB"
    head = f"{'frames':>8}{'at once':>10}{'by clips':>10}{'ratio':>8}{'keys':>6}{'passes':>8}"
    lines = rows.setdefault(title, [head])
    peaks: dict[bool, list[int]] = {False: [], True: []}
    for frames in lengths:
        request = make_request(small, frames)
        for by_clips, found in peaks.items():
            chosen = options(hierarchical={"on": by_clips})
            call = partial(sample, small, request, chosen, quiet)
            found.append(peak_bytes(call, tmp_path / "trace"))
        layout = cut_video(frames, window_of(frames, "sqrt"))
        once, clips = peaks[False][-1], peaks[True][-1]
        lines.append(
            f"{frames:>8}{once / MIB:>10.2f}{clips / MIB:>10.2f}{once / clips:>8.1f}"
            f"{len(layout.keys):>6}{layout.evaluations / frames:>7.2f}x"
        )
    assert peaks[True][-1] < peaks[False][-1]
    if len(lengths) > 1:
        # Key frames are about sqrt(frames); frames and maps themselves are not counted.
        assert peaks[True][-1] / peaks[True][0] < 3.0
        assert peaks[False][-1] / peaks[False][0] > 4.5


@pytest.mark.bench
@torch.inference_mode()
def test_reused_keys(backbone: Backbone, rows: Rows) -> None:
    """Keys that clips take over from the key frames' pass save their own passes."""
    frames = REUSED_FRAMES
    request = make_request(backbone, frames)
    shape = (frames, 4, backbone.size // backbone.factor, backbone.size // backbone.factor)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    layout = cut_video(frames, window_of(frames, "sqrt"))
    with prepared(backbone, request, options()) as networks:
        again, reused = (
            HierarchicalPrediction(networks.predict_part, layout, "paper", reuse)
            for reuse in (False, True)
        )
        calls: dict[str, Call] = {
            "all frames at once": partial(networks.predict, latents, 500, 4.0),
            "keys run again": partial(again, latents, 500, 4.0),
            "keys reused": partial(reused, latents, 500, 4.0),
        }
        time = seconds(calls, ROUNDS)
        made = {name: call() for name, call in calls.items()}
    passes = {"all frames at once": frames, "keys run again": layout.evaluations}
    passes["keys reused"] = frames
    title = f"a prediction for {frames} frames by clips, {name_of(backbone)}"
    head = f"{'':<20}{'passes':>8}{'ms':>8}{'from keys run again':>22}"
    lines = rows.setdefault(title, [head])
    for name in calls:
        gap = apart(made["keys run again"], made[name])
        lines.append(f"{name:<20}{passes[name]:>8}{1e3 * time[name]:>8.0f}{gap:>21.2%}")
    if name_of(backbone) == "miniature":  # tiny networks cost no more than starting them
        assert time["keys reused"] < 0.9 * time["keys run again"]


@pytest.mark.bench
@torch.inference_mode()
def test_exact_savings(backbone: Backbone, rows: Rows) -> None:
    """What is computed once instead of in every call changes nothing but the time."""
    title = f"exact savings, {name_of(backbone)}, 8 frames in 2 guidance halves"
    head = f"{'':<46}{'with ms':>9}{'without':>9}{'saved':>8}{'difference':>12}"
    lines = rows.setdefault(title, [head])
    for name, saving in {
        "condition embedding kept, a ControlNet's call": condition_kept,
        "text projected once, a UNet's call": text_once,
        "first frame's keys projected once, one layer": first_keys,
    }.items():
        with ExitStack() as stack:
            calls = saving(backbone, stack)
            time = seconds(calls, 2 * ROUNDS)
            difference = float((calls["with"]() - calls["without"]()).abs().max())
        saved = 1 - time["with"] / time["without"]
        lines.append(
            f"{name:<46}{1e3 * time['with']:>9.2f}{1e3 * time['without']:>9.2f}{saved:>8.1%}"
            f"{difference:>12.1e}"
        )
        assert difference < 1e-4


def condition_kept(backbone: Backbone, stack: ExitStack) -> dict[str, Call]:
    """A ControlNet with its condition embedded beforehand, and with the embedding in every call."""
    maps = make_request(backbone, 8).controls["edges"]
    own = backbone.controlnets["edges"]
    latents, text = drawn(backbone, per_frame=True)
    shown = {"with": embed_condition(own, maps), "without": maps}
    calls: dict[str, Call] = {}
    for name, condition in shown.items():
        net = deepcopy(own)
        plan = attention_plan(options().controlnet_attention, "per_frame")
        stack.enter_context(stack.enter_context(inflate(net, plan)).frames(8))
        if name == "with":
            stack.enter_context(takes_embedded_condition(net))
        given = (latents, 500, text, condition.repeat(2, 1, 1, 1))
        calls[name] = partial(first_residual, net, given)
    return calls


def first_residual(net: Any, given: tuple[Any, ...]) -> Tensor:
    """The middle block's residual of a ControlNet's call."""
    made: Tensor = net(*given, return_dict=False)[1]
    return made


def text_once(backbone: Backbone, stack: ExitStack) -> dict[str, Call]:
    """A UNet with text per guidance row, and with text per frame, projected in every call."""
    latents, text = drawn(backbone, per_frame=False)
    plan = attention_plan(options().attention, "per_frame")
    calls: dict[str, Call] = {}
    for name, chosen in {"with": plan, "without": replace(plan, text_once=False)}.items():
        net = deepcopy(backbone.unet)
        inflated = stack.enter_context(inflate(net, chosen))
        stack.enter_context(inflated.frames(8))
        calls[name] = partial(unet_output, net, (latents, 500, inflated.text_of(text, 8)))
    return calls


def unet_output(net: Any, given: tuple[Any, ...]) -> Tensor:
    """What a UNet's call predicts."""
    made: Tensor = net(*given).sample
    return made


def drawn(backbone: Backbone, *, per_frame: bool) -> tuple[Tensor, Tensor]:
    """Random latents (2 8, 4, h, w) and text (2, n, c), or (2 8, n, c) per frame."""
    generator = torch.Generator().manual_seed(1)
    side, tokens = backbone.size // backbone.factor, backbone.text_encoder.config
    latents = torch.randn((16, 4, side, side), generator=generator)
    shape = (2, tokens.max_position_embeddings, backbone.unet.config.cross_attention_dim)
    text = torch.randn(shape, generator=generator)
    return latents, text.repeat_interleave(8, 0) if per_frame else text


def first_keys(backbone: Backbone, stack: ExitStack) -> dict[str, Call]:
    """One layer whose frames attend to the first: its keys projected alone, or those of all."""
    channels, heads = 320, 8
    torch.manual_seed(0)
    layers = {name: nn.Linear(channels, channels) for name in ("to_q", "to_k", "to_v", "out")}
    attn = SimpleNamespace(heads=heads, to_out=[layers.pop("out"), nn.Identity()], **layers)
    hidden = torch.randn((16, 256, channels))
    table = parse_pattern("first").table(8)

    def run(record: dict[str, Any] | None) -> Tensor:
        """The layer's output; with a record the keys of all frames are projected."""
        slot = CallSlot()
        slot.current = FrameCall(8, table, record=record)
        return FrameAttentionProcessor(slot, "layer")(attn, hidden)

    # A record wants the keys of all frames, so that all are projected.
    return {"with": partial(run, None), "without": partial(run, {})}
