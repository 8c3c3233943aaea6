"""The training loop of the miniature world's networks: resumable, seeded, on CPU or GPU.

Batches are functions of the step number alone, so a run that was killed continues with the same
data and ends with the same weights. A checkpoint is one safetensors file (weights, moving average,
Adam moments) written atomically.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from rich.progress import TextColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from crossframe.files import append_line, replacing
from crossframe.progress import progress_bars

Net = TypeVar("Net", bound=nn.Module)
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Adam's state of a parameter; none before it first had a gradient."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train; part of every model card. ``stop``: see ``end``."""

    steps: int
    batch: int
    rate: float
    warmup: int = 100
    decay: float = 0.01
    average: float = 0.999
    seed: int = 0
    stop: int | None = None

    @property
    def end(self) -> int:
        """Step at which training ends: ``steps``, or ``stop`` when it is broken off before."""
        return self.steps if self.stop is None else self.stop

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to a fiftieth of ``rate``."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def work_folder() -> Path:
    """Where checkpoints and cached latents lie: ``$CROSSFRAME_MINIATURE`` or ``runs/miniature``."""
    return Path(os.environ.get("CROSSFRAME_MINIATURE", "runs/miniature"))


def phase_folder(name: str, phase: int, recipes: Sequence[Recipe]) -> Path:
    """Checkpoint folder of one of the recipes that a network is trained by, one after the other."""
    return work_folder() / (name if len(recipes) == 1 else f"{name}-{phase}")


def device() -> torch.device:
    """A GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Fit(Generic[Net]):
    """One training run of ``net`` under ``recipe``, kept in ``folder``.

    ``loss(step)`` returns a dict of scalar tensors; their sum is minimised, and every 50 steps each
    is logged to ``losses.csv``.
    """

    def __init__(self, net: Net, recipe: Recipe, folder: Path) -> None:
        self.net, self.recipe, self.folder = net, recipe, folder
        self.parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(),
            lr=recipe.rate,
            weight_decay=recipe.decay,
            betas=(0.9, 0.99),
        )
        self.step = 0
        self.seconds = 0.0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Write the whole state of the run."""
        tensors = {f"weight/{n}": p.detach() for n, p in self.parameters.items()}
        tensors |= {f"average/{n}": a for n, a in self.average.items()}
        for name, p in self.parameters.items():
            state = self.optimiser.state[p]
            tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS if moment in state}
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.checkpoint) as path:
            meta = {"step": str(self.step), "seconds": repr(self.seconds)}
            save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=meta)

    def resume(self) -> None:
        """Continue from the checkpoint in the folder, if there is one."""
        if not self.checkpoint.exists():
            return
        with safe_open(self.checkpoint, "pt") as stored:
            meta, kept = stored.metadata(), set(stored.keys())
            self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
            for name, p in self.parameters.items():
                p.data.copy_(stored.get_tensor(f"weight/{name}"))
                self.average[name].copy_(stored.get_tensor(f"average/{name}"))
                if f"{MOMENTS[1]}/{name}" in kept:
                    state = {m: stored.get_tensor(f"{m}/{name}") for m in MOMENTS}
                    moments = {m: value.to(p.device) for m, value in state.items() if m != "step"}
                    self.optimiser.state[p] = {"step": state["step"], **moments}

    def run(self, loss: Callable[[int], Mapping[str, Tensor]], every: float = 60.0) -> None:
        """Train up to ``recipe.end``, with a checkpoint every ``every`` seconds."""
        self.resume()
        self.net.train()
        with progress_bars(None, TextColumn("{task.fields[losses]}")) as progress:
            task = progress.add_task(
                self.folder.name, total=self.recipe.end, completed=self.step, losses=""
            )
            saved = time.monotonic()
            while self.step < self.recipe.end:
                began = time.monotonic()
                parts = self._update(loss)
                self.seconds += time.monotonic() - began
                progress.update(task, completed=self.step, losses=_format(parts))
                if self.step % 50 == 0:
                    append_line(self.folder / "losses.csv", _row(self.step, self.seconds, parts))
                if time.monotonic() - saved > every:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def _update(self, loss: Callable[[int], Mapping[str, Tensor]]) -> dict[str, float]:
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate(self.step)
        parts = loss(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            average, weights = (
                list(self.average.values()),
                [p.data for p in self.parameters.values()],
            )
            torch._foreach_lerp_(average, weights, 1 - decay)
        return {name: float(value.detach()) for name, value in parts.items()}

    def use_average(self) -> None:
        """Put the moving average of the weights into the network, for evaluation and export."""
        for name, p in self.parameters.items():
            p.data.copy_(self.average[name])
        self.net.eval()


def _format(parts: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in parts.items())


def _row(step: int, seconds: float, parts: Mapping[str, float]) -> str:
    return ",".join(
        [
            str(step),
            f"{seconds:.1f}",
            *(f"{name}={value:.5f}" for name, value in parts.items()),
        ]
    )
