"""Estimators of optical flow behind one interface.

Shapes: f frames, p = f-1 pairs, h height, w width. Flow is (dx, dy) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.checkpoints import require_no_code, require_plain_tensors
from crossframe.errors import NotAvailable
from crossframe.flow.fields import FlowFields, checked_flow, dis_forward
from crossframe.flow.table import FLOWS, flow_networks
from crossframe.weights import locate

PairNetwork = Callable[[Tensor, Tensor], Tensor]
"""Maps two batches of frames, each (n, 3, h, w) in [0, 1], to the flow (n, 2, h, w) between."""


class FlowEstimator(Protocol):
    """Estimates flow. `name` is kept with every score, `check` is the forward-backward check."""

    name: str
    check: str

    def forward(self, frames: np.ndarray) -> Tensor:
        """(f, h, w, 3) uint8 RGB -> (p, 2, h, w) float32, from each frame to the next."""


def load_estimator(name: str, device: torch.device | str = "cpu") -> FlowEstimator:
    """Return the estimator called `name` in `FLOWS`; networks run on `device`.

    Raises UserError for other names, NotAvailable when its package or weights are absent.
    """
    kind = FLOWS.load(name)
    made: FlowEstimator = kind(device=device) if flow_networks(name) else kind()
    return made


def both_ways(estimator: FlowEstimator, frames: np.ndarray) -> FlowFields:
    """Estimate the flow of (f, h, w, 3) uint8 RGB in both directions, and where they agree."""
    forward = estimator.forward(frames)
    backward = estimator.forward(frames[::-1]).flip(0)
    return checked_flow(forward, backward, estimator.name, estimator.check)


class DisFlow:
    """OpenCV's DIS, medium preset, on grey frames."""

    name, check = "dis", "sundaram"

    def forward(self, frames: np.ndarray) -> Tensor:
        """(f, h, w, 3) uint8 RGB -> (p, 2, h, w) float32. NotAvailable for tiny frames."""
        return dis_forward(frames)


class NetworkFlow:
    """A network over pairs of frames, one pair at a time; sides are padded to its multiple."""

    name, check, multiple = "", "sundaram", 8

    def __init__(self, network: PairNetwork, device: torch.device | str = "cpu") -> None:
        """network: on `device`, where it is given its frames."""
        self.network, self.device = network, device

    @torch.no_grad()
    def forward(self, frames: np.ndarray) -> Tensor:
        """(f, h, w, 3) uint8 RGB -> (p, 2, h, w) float32 on the CPU; padding repeats the border."""
        if len(frames) < 2:
            raise NotAvailable("optical flow", f"needs 2 frames or more, not {len(frames)}")
        height, width = frames.shape[1:3]
        pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
        bottom, right = -height % self.multiple, -width % self.multiple
        padded = F.pad(pictures, (0, right, 0, bottom), mode="replicate").to(self.device)
        flows = [
            self.network(padded[t : t + 1], padded[t + 1 : t + 2]) for t in range(len(padded) - 1)
        ]
        return torch.cat(flows)[..., :height, :width].float().cpu()


class RaftFlow(NetworkFlow):
    """RAFT (Teed & Deng 2020) of torchvision: large, weights C_T_V2, 20 refinement steps."""

    name, check, multiple = "raft", "sundaram", 8

    def __init__(
        self, network: PairNetwork | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Load the weights unless a network is given. Raises NotAvailable without them."""
        super().__init__(network or _raft(device), device)


class GmFlow(NetworkFlow):
    """GMFlow (Xu et al. 2022), one scale, through ptlflow."""

    name, check, multiple = "gmflow", "gmflow", 16

    def __init__(
        self, network: PairNetwork | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Load the weights unless a network is given. Raises NotAvailable without them."""
        super().__init__(network or _gmflow(device), device)


def _raft(device: torch.device | str) -> PairNetwork:
    path = locate("raft")
    try:
        from torchvision.models.optical_flow import raft_large
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch
        fix = "install the torchvision that matches your torch"
        raise NotAvailable("raft", f"needs torchvision: {error}", fix) from error
    require_plain_tensors(path, "raft")
    network = raft_large()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval().requires_grad_(False).to(device)
    return lambda one, two: network(one * 2 - 1, two * 2 - 1, num_flow_updates=20)[-1]


def _gmflow(device: torch.device | str) -> PairNetwork:
    path = locate("gmflow")
    try:
        import ptlflow
    except ImportError as error:
        fix = "pip install 'crossframe[ptlflow]', best in an environment of its own"
        raise NotAvailable("gmflow", f"needs ptlflow: {error}", fix) from error
    require_no_code(path, "gmflow")
    network: Any = ptlflow.get_model("gmflow", ckpt_path=str(path))
    network.eval().requires_grad_(False).to(device)
    return lambda one, two: network({"images": torch.stack((one, two), dim=1)})["flows"][:, 0]
