"""AlexNet and VGG-16 as feature extractors, filled from torchvision's checkpoints.

The layers are those of Krizhevsky (2014, "One weird trick") and Simonyan & Zisserman (2015). They
are built here, so that a torchvision that does not fit torch takes nothing down with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from crossframe.checkpoints import require_plain_tensors
from crossframe.errors import Problem, UserError
from crossframe.weights import locate


class Trunk(nn.Module):
    """The convolutions of a classifier. `taps` are the layers whose outputs are returned."""

    def __init__(self, layers: Sequence[nn.Module], taps: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.taps = tuple(taps)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(n, 3, h, w), normalised -> the tapped (n, d, h', w'), in order."""
        tapped = []
        for index, layer in enumerate(list(self.features)[: self.taps[-1] + 1]):
            images = layer(images)
            if index in self.taps:
                tapped.append(images)
        return tapped

    def fill(self, path: Path) -> None:
        """Load a classifier's checkpoint; its layers after the convolutions are ignored.

        Raises UserError when it holds more than plain tensors or lacks some.
        """
        require_plain_tensors(path, "weights")
        state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        wanted = self.state_dict()
        if lacking := sorted(set(wanted) - set(state)):
            what = f"{str(path)!r} lacks {', '.join(lacking[:3])}"
            raise UserError(Problem("weights", what, fix="download it again"))
        self.load_state_dict({name: state[name] for name in wanted})


def alexnet() -> Trunk:
    """AlexNet, tapped after each of its five rectifiers, without weights."""
    pool = nn.MaxPool2d(3, 2)
    layers = [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), pool),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
    return Trunk(layers, [i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)])


def vgg16_to_relu4_3() -> Trunk:
    """VGG-16 up to the last rectifier before its fourth pooling, without weights."""
    layers: list[nn.Module] = []
    channels = 3
    for block in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512)):
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return Trunk(layers[:-1], [len(layers) - 2])


def load_alexnet() -> Trunk:
    """AlexNet with ImageNet weights. Raises NotAvailable when they are absent."""
    return _filled(alexnet(), "alexnet")


def load_vgg16() -> Trunk:
    """VGG-16 up to relu4_3, ImageNet weights. NotAvailable when they are absent."""
    return _filled(vgg16_to_relu4_3(), "vgg16")


def _filled(trunk: Trunk, name: str) -> Trunk:
    trunk.fill(locate(name))
    return trunk
