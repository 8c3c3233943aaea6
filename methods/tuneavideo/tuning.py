"""One-shot tuning: a network learns to denoise one clip under its caption (paper section 4.2).

Every step draws noise for each frame and one timestep for the clip from streams of one seed, named
by the number of the step: a tuning that goes on from a checkpoint sees what it would have seen, and
the first steps of a long tuning are those of a short one.

Shapes: f frames, latents (f, 4, h, w) float32.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from crossframe.errors import Diverged, Problem, UserError
from crossframe.files import write_bytes
from crossframe.keys import array_sha256, derive_seed, identity
from methods.axes import shared_fraction
from methods.backbones import Backbone
from methods.base import Progress
from methods.ddim import add_noise
from methods.inflation import InflatedNet
from methods.noise import frame_noise
from methods.tuneavideo.adapters import adapters
from methods.tuneavideo.config import Tuning
from methods.tuneavideo.network import standing_in, trainable_names

CHECKPOINT_SECONDS = 60.0
# A finished tuning leaves its state for a longer one to go on from, if it takes no more than this.
KEPT_BYTES = 64 << 20
LOSSES = "losses"
_LABEL = "crossframe"
# prediction -> (latents, noise, alpha-bar) -> what the network shall say
TARGETS: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "epsilon": lambda clean, noise, a: noise,
    "v_prediction": lambda clean, noise, a: math.sqrt(a) * noise - math.sqrt(1 - a) * clean,
    "sample": lambda clean, noise, a: clean,
}


@dataclass(frozen=True)
class Lesson:
    """What a network is tuned on.

    mean, spread: of the autoencoder's posterior of each frame, scaled, (f, 4, h, w) float32; a
        spread of zeros makes every draw the mean.
    text: states of the caption, (1, n, c), in the network's dtype.
    alpha_bar: cumulative signal variance of every trained timestep.
    prediction: what the network predicts, `epsilon`, `v_prediction` or `sample`.
    seed: of all that is drawn.
    """

    mean: Tensor
    spread: Tensor
    text: Tensor
    alpha_bar: tuple[float, ...]
    prediction: str
    seed: int

    def latents(self, index: int) -> Tensor:
        """Return draw `index` of the latents, (f, 4, h, w)."""
        noise = frame_noise(self.seed, ("posterior", index), len(self.mean), self._shape, 0.0)
        return self.mean + self.spread * noise.to(self.mean.device)

    def noise(self, index: int, shared: float) -> Tensor:
        """Return draw `index` of the noise, (f, 4, h, w)."""
        noise = frame_noise(self.seed, ("tuning", index), len(self.mean), self._shape, shared)
        return noise.to(self.mean.device)

    def timestep(self, index: int) -> int:
        """Return draw `index` of the timestep, uniform over all that were trained."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "timestep", index))
        return int(torch.randint(len(self.alpha_bar), (), generator=generator))

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape[1:])


def make_lesson(
    backbone: Backbone, frames: Tensor, text: Tensor, latents: str, seed: int
) -> Lesson:
    """Return the lesson of a clip (f, 3, h, w) in [0, 1] with the caption's states (1, n, c).

    latents: `mode` of the autoencoder's posterior, or `sample`.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler.from_config(dict(backbone.scheduler_config))
    mean, spread = encode_posterior(backbone, frames)
    return Lesson(
        mean=mean,
        spread=spread if latents == "sample" else torch.zeros_like(spread),
        text=text,
        alpha_bar=tuple(scheduler.alphas_cumprod.double().tolist()),
        prediction=scheduler.config.prediction_type,
        seed=seed,
    )


def encode_posterior(backbone: Backbone, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the scaled latents of frames (f, 3, h, w) in [0, 1]."""
    vae, scale = backbone.vae, backbone.vae.config.scaling_factor
    chunks = frames.to(backbone.device, backbone.dtype).split(backbone.chunk)
    found = [vae.encode(chunk * 2 - 1).latent_dist for chunk in chunks]
    mean, spread = (torch.cat([getattr(d, x).float() for d in found]) for x in ("mean", "std"))
    return mean * scale, spread * scale


def tuning_loss(
    net: InflatedNet, lesson: Lesson, latents: Tensor, noise: Tensor, timestep: int
) -> Tensor:
    """Return the mean squared error of a network on noised latents (f, 4, h, w), a float32 scalar.

    Call it, and the backward pass, inside `net.frames`.
    """
    alpha_bar = lesson.alpha_bar[timestep]
    noisy = add_noise(latents, noise, alpha_bar).to(lesson.text.dtype)
    states = lesson.text.expand(len(latents), -1, -1)
    output = net.net(noisy, timestep, states).sample
    target = TARGETS[lesson.prediction](latents, noise, alpha_bar)
    return F.mse_loss(output.float(), target)


def tune(
    net: InflatedNet,
    lesson: Lesson,
    options: Tuning,
    *,
    recompute: bool = False,
    checkpoint: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Tensor]:
    """Tune an inflated network, which is itself again on leaving.

    Args:
        net: from `inflate_tuned`, with the tensors to start from.
        recompute: compute activations anew in the backward pass: a third more time for much less
            memory, and the same result.
        checkpoint: file that keeps the state about once a minute, from which the same tuning, or
            one of more steps, goes on. It stays at the end if it is small (`KEPT_BYTES`), so that
            a longer tuning needs its own steps only, and is removed otherwise.

    Returns:
        The tuned tensors by released name, float32 on the CPU, for `inflate_tuned` on top of those
        that `net` was made with; and `losses`, (steps,), the loss of every step.

    Raises:
        UserError: when the checkpoint is damaged or of another tuning.
        Diverged: when the loss is not finite.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        _less_memory(net.net, recompute),
        _trainable(net.net, options, lesson.seed) as (parameters, tuned),
    ):
        run = _Run(net, lesson, options, parameters)
        if checkpoint is not None:
            run.resume(checkpoint)
        kept = time.monotonic()
        while len(run.losses) < options.steps:
            run.step()
            progress(len(run.losses), options.steps)
            if checkpoint is not None and time.monotonic() - kept > CHECKPOINT_SECONDS:
                run.keep(checkpoint)
                kept = time.monotonic()
        made = {name: tensor.detach().float().cpu() for name, tensor in tuned().items()}
        if checkpoint is not None:
            run.leave(checkpoint)
    return {**made, LOSSES: torch.tensor(run.losses)}


class _Run:
    """A tuning under way: parameters, optimiser, scaler and the losses so far."""

    def __init__(
        self,
        net: InflatedNet,
        lesson: Lesson,
        options: Tuning,
        parameters: Mapping[str, nn.Parameter],
    ) -> None:
        self.net, self.lesson, self.options, self.parameters = net, lesson, options, parameters
        self.losses: list[float] = []
        self.device = lesson.mean.device.type
        self.optimizer = torch.optim.AdamW(
            parameters.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        half = options.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device, enabled=half)

    def step(self) -> None:
        """Take one optimiser step; raises Diverged when the loss is not finite."""
        loss = self._backward()
        value = float(loss)
        if not math.isfinite(value):
            what = f"the loss of step {len(self.losses) + 1} is {value}"
            fix = "lower tuning.learning_rate, or set tuning.precision: float32"
            raise Diverged(Problem("tuning", what, fix=fix))
        self.scaler.unscale_(self.optimizer)
        if self.options.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(value)

    def _backward(self) -> Tensor:
        options, lesson, index = self.options, self.lesson, len(self.losses)
        if options.repeat is not None:
            index %= options.repeat
        timestep, noise = (
            lesson.timestep(index),
            lesson.noise(index, shared_fraction(options.noise)),
        )
        precision = getattr(torch, options.precision)
        with self.net.frames(len(noise), timestep=timestep):
            with torch.autocast(self.device, precision, enabled=precision != torch.float32):
                loss = tuning_loss(self.net, lesson, lesson.latents(index), noise, timestep)
            self.scaler.scale(loss).backward()
        return loss.detach()

    def keep(self, path: Path) -> None:
        """Write the state to `path`, atomically."""
        tensors = {f"parameters.{name}": p.detach() for name, p in self.parameters.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        label = {"tuning": self._identity(), "scaler": self.scaler.state_dict()}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(path, save(tensors, metadata={_LABEL: json.dumps(label)}))

    def leave(self, path: Path) -> None:
        """Write the last state to `path` if it is small, and remove what is there otherwise."""
        numbers = sum(parameter.numel() for parameter in self.parameters.values())
        if 3 * 4 * numbers > KEPT_BYTES:  # parameters and two moments
            path.unlink(missing_ok=True)
        else:
            self.keep(path)

    def resume(self, path: Path) -> None:
        """Go on from the state in `path`, if there is one and it has not gone too far.

        A shorter tuning of another runner may take it away, or leave its own, at any time.
        """
        found = _read(path)
        if found is None:
            return
        tensors, label = found
        if label["tuning"] != self._identity():
            raise UserError(Problem(str(path), "holds another tuning", fix="delete the file"))
        losses = tensors.pop("losses").tolist()
        if len(losses) > self.options.steps:
            return
        self.losses = losses
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameters.{name}"])
        whole = self.optimizer.state_dict()
        whole["state"] = _optimizer_state(tensors)
        self.optimizer.load_state_dict(whole)
        self.scaler.load_state_dict(label["scaler"])

    def _identity(self) -> str:
        """Key of the tuning, its number of steps apart."""
        lesson, options = self.lesson, self.options
        seen = [lesson.mean, lesson.spread, lesson.text.float()]
        return identity(
            [
                {**options.decisive(), "steps": None},
                [array_sha256(tensor.cpu().numpy()) for tensor in seen],
                [lesson.alpha_bar, lesson.prediction, lesson.seed, str(lesson.text.dtype)],
                {name: list(p.shape) for name, p in self.parameters.items()},
            ]
        )


Trainable = tuple[Mapping[str, nn.Parameter], Callable[[], Mapping[str, Tensor]]]


@contextmanager
def _trainable(net: nn.Module, options: Tuning, seed: int) -> Iterator[Trainable]:
    """Yield what is to be trained, and a function that returns the tensors it amounts to."""
    own = dict(net.named_parameters())
    names = trainable_names(own, options.train)
    if options.train == "lora":
        with adapters(net, names, options.lora_rank, derive_seed(seed, "adapters")) as made:
            yield made
        return
    parameters = {name: nn.Parameter(own[name].detach().float().clone()) for name in names}
    with standing_in(net, parameters):
        yield parameters, lambda: parameters


@contextmanager
def _less_memory(net: Any, wanted: bool) -> Iterator[None]:
    """Recompute activations in the backward pass, if `wanted`, inside the block."""
    if not wanted or net.is_gradient_checkpointing:
        yield
        return
    net.enable_gradient_checkpointing()
    try:
        yield
    finally:
        net.disable_gradient_checkpointing()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the label of a checkpoint, None without one; UserError for a damaged one."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            label: dict[str, Any] = json.loads((file.metadata() or {})[_LABEL])
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        what = f"is no whole checkpoint ({error})"
        raise UserError(Problem(str(path), what, fix="delete the file")) from error
    return tensors, label


def _optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            number, _, key = rest.partition(".")
            state.setdefault(int(number), {})[key] = tensor
    return state
