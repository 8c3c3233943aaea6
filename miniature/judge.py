"""A classifier of colour, shape and pattern, apart from CLIP: it judges if prompts were obeyed."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miniature.data import pictures
from miniature.fit import Fit, Recipe, device, work_folder
from miniature.shapes import PATTERNS, SHAPES
from miniature.world import COLOURS, Scene

RECIPE = Recipe(steps=1500, batch=32, rate=2e-3, average=0.99)
IMAGE_SIZE = 64
NOISE = 0.05
WIDTHS = (3, 24, 48, 72, 96)
HEADS = {"colour": tuple(COLOURS), "shape": tuple(SHAPES), "pattern": tuple(PATTERNS)}


class Judge(nn.Module):
    """Names the colour and shape of the only sprite and the pattern of the background."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, wider in pairwise(WIDTHS):
            layers += [nn.Conv2d(wide, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.SiLU()]
            layers += [
                nn.Conv2d(wider, wider, 3, 1, 1),
                nn.BatchNorm2d(wider),
                nn.SiLU(),
            ]
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(WIDTHS[-1], len(names)) for name, names in HEADS.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits per attribute of pictures (n, 3, h, w) in [0, 1], h = w any multiple of 64."""
        small = F.adaptive_avg_pool2d(images, IMAGE_SIZE)
        features = self.features(small * 2 - 1)
        return {name: head(features) for name, head in self.heads.items()}


def answers(scenes: list[Scene]) -> dict[str, Tensor]:
    """The true class numbers (n,) of single-sprite scenes."""
    named = [(s.sprites[0].colour, s.sprites[0].shape, s.pattern) for s in scenes]
    columns = zip(*named, strict=True)
    return {
        name: torch.tensor([classes.index(value) for value in column])
        for (name, classes), column in zip(HEADS.items(), columns, strict=True)
    }


def losses(net: Judge, step: int) -> dict[str, Tensor]:
    """Cross-entropy of the three attributes."""
    images, scenes = pictures(step * RECIPE.batch, RECIPE.batch, IMAGE_SIZE, sprites=1)
    truth = answers(scenes)
    logits = net((images + NOISE * torch.randn_like(images)).to(device()))
    return {
        name: F.cross_entropy(value, truth[name].to(value.device)) for name, value in logits.items()
    }


def train() -> Judge:
    """Train or resume; returns the averaged network."""
    run = Fit(Judge().to(device()), RECIPE, work_folder() / "judge")
    run.run(lambda step: losses(run.net, step))
    run.use_average()
    return run.net
