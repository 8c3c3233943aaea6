"""RIFE: real-time intermediate flow estimation (Huang et al., ECCV 2022, arXiv 2011.06294).

The network is IFNet in the variant "HDv3" (version 3 of the practical release), which the released
ControlVideo uses: three blocks from coarse to fine refine the flow from the middle picture to both
others and a mask that blends them. Each block is run on the pair and on the swapped pair, and the
two answers are averaged, so that swapping the pictures gives the same middle. The published file
also holds a teacher block of training (`block_tea`), which is left out.

Shapes: n pairs, h height, w width. Flow (n, 4, h, w) is (dx, dy) to the first, (dx, dy) to the
second picture, in pixels of full resolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossframe.checkpoints import SAFETENSORS, require_plain_tensors, require_whole
from crossframe.errors import Problem, UserError
from crossframe.flow.fields import warp_backward
from methods.interpolators.rife_weights import WHERE, locate_rife

SCALES = (4, 2, 1)
CHANNELS = 90
MULTIPLE = 32
"""Sides are padded to multiples: the coarsest block works at a quarter, and halves that twice."""


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


def _residual() -> nn.Sequential:
    return nn.Sequential(_convolution(CHANNELS, CHANNELS), _convolution(CHANNELS, CHANNELS))


def _upsampling(outputs: int) -> nn.Sequential:
    half = CHANNELS // 2
    return nn.Sequential(
        nn.ConvTranspose2d(CHANNELS, half, 4, 2, 1),
        nn.PReLU(half),
        nn.ConvTranspose2d(half, outputs, 4, 2, 1),
    )


class Block(nn.Module):
    """One refinement: pictures, mask and flow so far -> what to add to flow and mask."""

    def __init__(self) -> None:
        super().__init__()
        half = CHANNELS // 2
        self.conv0 = nn.Sequential(_convolution(7 + 4, half, 2), _convolution(half, CHANNELS, 2))
        self.convblock0, self.convblock1 = _residual(), _residual()
        self.convblock2, self.convblock3 = _residual(), _residual()
        self.conv1, self.conv2 = _upsampling(4), _upsampling(1)

    def forward(self, seen: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """seen (n, 7, h, w), flow (n, 4, h, w) -> flow (n, 4, h, w), mask (n, 1, h, w).

        The work is done at 1/scale of the resolution.
        """
        x = torch.cat([_resize(seen, 1 / scale), _resize(flow, 1 / scale) / scale], dim=1)
        x = self.conv0(x)
        for residual in (self.convblock0, self.convblock1, self.convblock2, self.convblock3):
            x = residual(x) + x
        return _resize(self.conv1(x), scale) * scale, _resize(self.conv2(x), scale)


class IFNet(nn.Module):
    """Three blocks, coarse to fine."""

    def __init__(self) -> None:
        super().__init__()
        self.block0, self.block1, self.block2 = Block(), Block(), Block()

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Middle of (n, 3, h, w) in [0, 1], twice; sides are multiples of 32. Same shape out."""
        flow, mask = one.new_zeros(len(one), 4, *one.shape[2:]), torch.zeros_like(one[:, :1])
        moved = one, two
        for block, scale in zip((self.block0, self.block1, self.block2), SCALES, strict=True):
            there = block(torch.cat([*moved, mask], 1), flow, scale)
            back = block(torch.cat([moved[1], moved[0], -mask], 1), _swap(flow), scale)
            flow = flow + (there[0] + _swap(back[0])) / 2
            mask = mask + (there[1] - back[1]) / 2
            moved = warp_backward(one, flow[:, :2]), warp_backward(two, flow[:, 2:])
        share = mask.sigmoid()
        return moved[0] * share + moved[1] * (1 - share)


class Rife:
    """The network as an interpolator: pictures of any size, in chunks, on one device."""

    def __init__(self, network: nn.Module, device: torch.device, chunk: int = 4) -> None:
        self.network = network.to(device).eval().requires_grad_(False)
        self.device, self.chunk = device, chunk

    def middle(self, one: Tensor, two: Tensor) -> Tensor:
        """(n, 3, h, w) twice -> (n, 3, h, w); the border is repeated as padding."""
        pairs = zip(one.split(self.chunk), two.split(self.chunk), strict=True)
        return torch.cat([self._middle(*pair) for pair in pairs]).to(one)

    def _middle(self, one: Tensor, two: Tensor) -> Tensor:
        height, width = one.shape[-2:]
        sides = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        padded = (F.pad(x.to(self.device, torch.float32), sides, "replicate") for x in (one, two))
        return self.network(*padded)[..., :height, :width].clamp(0, 1)


def load_rife(device: torch.device) -> Rife:
    """Return RIFE with the published weights.

    Raises NotAvailable when they are absent, UserError when the file is damaged, asks to run code,
    or holds other tensors.
    """
    network = IFNet()
    fill(network, read_tensors(locate_rife()))
    return Rife(network, device)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or pickled file (read under `weights_only`)."""
    if path.suffix == SAFETENSORS:
        from safetensors.torch import load_file

        require_whole(path, WHERE)
        return load_file(path)
    require_plain_tensors(path, WHERE)
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load published tensors: names may begin with `module.`, the teacher is left out.

    Raises UserError for tensors that are missing, unknown or of another shape.
    """
    named = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    given = {name: t for name, t in named.items() if not name.startswith("block_tea.")}
    wanted = network.state_dict()
    wrong = sorted(given.keys() ^ wanted.keys()) or sorted(
        name for name, tensor in given.items() if tensor.shape != wanted[name].shape
    )
    if wrong:
        what = f"{len(wrong)} tensors are not those of IFNet_HDv3, among them {wrong[0]}"
        raise UserError(Problem(WHERE, what, fix="use the file that ControlVideo links"))
    network.load_state_dict({name: tensor.float() for name, tensor in given.items()})


def _resize(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _swap(flow: Tensor) -> Tensor:
    return torch.cat([flow[:, 2:], flow[:, :2]], dim=1)
