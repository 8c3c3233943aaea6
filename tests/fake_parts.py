"""A method, metrics and clips of a few pixels, handed to the engine in place of the real ones.

Run as a script it is the command line over these parts, for tests that kill a process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ablations.parts import Parts
from crossframe.errors import Problem, UserError
from crossframe.files import write_bytes
from crossframe.form import width_height
from crossframe.registry import Entry, Registry
from data_manifests.clips import Clip, ClipRequest, clip_id, expand_refs
from methods.options import MethodConfig, Options


class Attention(Options):
    pattern: Literal["individual", "first", "full"] = "individual"
    alpha: float = Field(1.0, ge=0, le=1)


class FakeConfig(MethodConfig):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"steps": 3}, "repo": {"steps": 2}}
    preset: Literal["paper", "repo"] = "paper"
    attention: Attention = Attention()
    steps: int = Field(2, ge=1)
    controls: tuple[str, ...] = ()
    fail: bool = False
    sleep: float = 0.0
    tune: bool = False
    death: Literal["none", "sigkill", "sigsegv", "exit", "memory"] = "none"


class EmptyConfig(MethodConfig):
    pass


def no_memory() -> None:
    raise MemoryError("the fake wants too much")


DEATHS: Mapping[str, Callable[[], Any]] = {
    "none": lambda: None,
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sigsegv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(7),
    "memory": no_memory,
}
MIX = {"individual": 0.5, "first": 0.25, "full": 0.1}


def noisy(backbone: Any, request: Any, config: FakeConfig, progress: Any) -> Any:
    """The source plus noise whose amount depends on the pattern."""
    import torch

    assert backbone == "networks"
    if config.fail:
        raise RuntimeError("the fake was told to fail")
    DEATHS[config.death]()
    for step in range(config.steps):
        progress(step + 1, config.steps)
    time.sleep(config.sleep)
    generator = torch.Generator().manual_seed(request.seed)
    noise = torch.rand(request.frames.shape, generator=generator)
    amount = MIX[config.attention.pattern] * config.attention.alpha
    return request.frames.lerp(noise, amount * (tuned(request) if config.tune else 1.0))


def tuned(request: Any) -> float:
    """What all cells of a clip share: made in two steps, of which the first is kept in scratch."""
    import torch
    from safetensors.torch import load, save

    half = request.scratch / f"tuning-{request.source_sha256[:16]}.safetensors"

    def tune() -> dict[str, Any]:
        if not half.exists():
            write_bytes(half, save({"gain": request.frames.mean(dtype=torch.float64)}))
        made = {"gain": load(half.read_bytes())["gain"] / 2}
        half.unlink()
        return made

    return float(request.shared("tuning", ["fake", request.source_sha256], tune)["gain"])


def source(backbone: Any, request: Any, config: EmptyConfig, progress: Any) -> Any:
    assert backbone is None
    return request.frames


def mean_of(series: list[float]) -> Any:
    from metrics.base import MetricValue

    return MetricValue(sum(series) / len(series), tuple(series))


def mean_error(inputs: Any) -> Any:
    """Mean absolute difference from the source, per frame."""
    series = (inputs.frames - inputs.source).abs().mean((1, 2, 3)).tolist()
    return mean_of(series)


def brightness(inputs: Any) -> Any:
    series = inputs.frames.mean((1, 2, 3)).tolist()
    return mean_of(series)


def aligned(inputs: Any) -> Any:
    raise AssertionError("never reached: the encoder is absent")


METHODS = Registry(
    "method",
    {
        "noisy": Entry("fake_parts:noisy", "adds noise", {"version": 1, "source": "this test"}),
        "source": Entry("fake_parts:source", "repeats the source", {"needs_backbone": False}),
    },
    group="crossframe.tests.none",
)
METRICS = Registry(
    "metric",
    {
        "psnr/mean_error": Entry("fake_parts:mean_error", "error", {"direction": "lower"}),
        "brightness": Entry("fake_parts:brightness", "brightness", {"direction": "target"}),
        "clip/aligned": Entry("fake_parts:aligned", "aligned", {"needs": ["clip", "estimator"]}),
    },
    group="crossframe.tests.none",
)
CLIPS = Registry(
    "clip source", {"world": Entry("x:y", "fake clips")}, group="crossframe.tests.none"
)
CONFIGS: Mapping[str, type[MethodConfig]] = {"noisy": FakeConfig, "source": EmptyConfig}


def load_clip(request: ClipRequest) -> Clip:
    """`world:tiny/N` for N < 8; anything else is missing."""
    _, _, number = request.ref.partition("tiny/")
    if not number.isdigit() or int(number) >= 8:
        raise UserError(Problem(request.ref, "no such file", fix="check the path"))
    rng = np.random.default_rng([int(number), request.start, request.stride])
    width, height = width_height(request.size)
    shape = (request.frames, height, width, 3)
    frames = rng.integers(0, 256, shape, dtype=np.uint8)
    edits = {} if number == "7" else {"object": f"prompt {number}"}
    return Clip(request.ref, frames, 4.0, f"caption {number}", edits)


def no_encoder(folder: str, geometry: str) -> Any:
    raise UserError(Problem(folder, "no CLIP weights", fix="download them"))


def fake_parts() -> Parts:
    """Parts without networks; see the module's docstring."""
    return Parts(
        methods=METHODS,
        metrics=METRICS,
        clip_sources=CLIPS,
        method_config=CONFIGS.__getitem__,
        parse_backbone=lambda value: value,
        backbone_identity=lambda config, family: {"unet": str(config)},
        encoder_folder=lambda name, backbone: name,
        encoder_identity=lambda folder, geometry: [folder, geometry],
        expand_refs=expand_refs,
        clip_id=clip_id,
        load_clip=load_clip,
        load_backbone=lambda config, family: "networks",
        load_encoder=no_encoder,
        flow=lambda clip, shared, estimator: None,
        estimator=lambda name: None,
        control=lambda kind, clip, annotator_range: None,
    )


def fake_report(folder: Path) -> Path:
    """A report of one line."""
    page = folder / "report" / "index.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text("<p>report</p>", encoding="utf-8")
    (page.parent / "table.md").write_text("| row |\n", encoding="utf-8")
    return page


if __name__ == "__main__":
    import fake_parts as this

    from crossframe.cli import Tools, main

    main(obj=Tools(this.fake_parts, this.fake_report))
