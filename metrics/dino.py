"""Subject consistency of VBench: the consistency of `clip_frame/vbench` on DINO's features.

Shapes: f frames, n pictures, d embedding size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTModel

from crossframe.weights import NETWORKS, label, locate
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.clip_frame import vbench_cosines
from metrics.encoders import load_network
from metrics.image_input import in_batches, prepare
from metrics.preprocessing import DINO, Preprocessing

NAME = "dino_subject/vbench"


class DinoEncoder:
    """A DINO vision transformer: the class token of the last layer, after its normalisation."""

    def __init__(self, model: ViTModel, name: str, preprocessing: Preprocessing = DINO) -> None:
        self.model = model.eval().requires_grad_(False).float()
        self.name = name
        self.preprocessing = preprocessing

    @classmethod
    def from_folder(cls, folder: Path) -> DinoEncoder:
        """Load from a `from_pretrained` folder.

        Raises NotAvailable when it cannot be read, UserError when it leaves layers empty.
        """
        fix = NETWORKS["dino"].command
        return cls(load_network(ViTModel, folder, fix, add_pooling_layer=False), label(folder))

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d) float32 of unit length, on the CPU."""
        return in_batches(self._encode, images, 32, self.model.device)

    def _encode(self, images: Tensor) -> Tensor:
        pixels = prepare(images, self.preprocessing)
        # Pictures are not cropped, so the grid of patches differs from that of the training.
        states: Tensor = self.model(pixels, interpolate_pos_encoding=True).last_hidden_state
        return states[:, 0]


def subject(inputs: MetricInputs) -> MetricValue:
    """`dino_subject/vbench`: one value per frame after the first.

    Raises NotAvailable for a single frame, or without DINO's weights.
    """
    require_pairs(NAME, len(inputs.frames))
    encoder = inputs.resident.get("dino", lambda: DinoEncoder.from_folder(locate("dino")))
    features = inputs.memo.get("dino_features", lambda: encoder.encode_images(inputs.frames))
    return mean_of(vbench_cosines(features), encoder=encoder.name)
