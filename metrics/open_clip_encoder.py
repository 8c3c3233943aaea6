"""Encoders of the package open_clip (an extra), behind the interface of `metrics.encoders`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.checkpoints import SAFETENSORS, require_plain_tensors, require_whole
from crossframe.errors import NotAvailable, Problem, UserError
from metrics.image_input import in_batches, prepare
from metrics.preprocessing import Preprocessing, with_geometry


class OpenClipEncoder:
    """A model of open_clip in float32; its image input is prepared here, not by its transform."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        name: str,
        device: str = "cpu",
        batch: int = 32,
    ) -> None:
        self.model = model.eval().requires_grad_(False).float().to(device)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.name = name
        self.device = device
        self.batch = batch
        self.temperature = math.exp(float(model.logit_scale))

    @classmethod
    def from_name(cls, name: str, geometry: str = "own", device: str = "cpu") -> OpenClipEncoder:
        """Load `MODEL/FILE`, an architecture and a local checkpoint; never downloads.

        Raises NotAvailable without the package or the file, UserError for other names and for
        a checkpoint with more than plain tensors.
        """
        architecture, _, file = name.partition("/")
        if not file:
            raise UserError(Problem("encoder", f"open_clip:{name}", "open_clip:MODEL/FILE"))
        if not Path(file).is_file():
            fix = f"hf download laion/... --include open_clip_model.safetensors, for {architecture}"
            raise NotAvailable("clip", f"no open_clip weights in {file}", fix)
        check = require_whole if file.endswith(SAFETENSORS) else require_plain_tensors
        check(Path(file), "encoder")
        try:
            import open_clip
        except (ImportError, RuntimeError) as error:  # it needs a matching torchvision
            fix = "pip install 'crossframe[openclip]'"
            raise NotAvailable("clip", f"needs open_clip: {error}", fix) from error
        model = open_clip.create_model(architecture, pretrained=file)
        label = name if geometry == "own" else f"{name}, {geometry}"
        preprocessing = with_geometry(_preprocessing(model.visual), geometry)
        tokenizer = open_clip.get_tokenizer(architecture)
        return cls(model, tokenizer, preprocessing, f"open_clip:{label}", device)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d) float32 of unit length, on the CPU."""
        return in_batches(self._encode, images, self.batch, self.device)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """M texts -> (m, d) float32 of unit length, on the CPU; cut at the token limit."""
        features = self.model.encode_text(self.tokenizer(list(texts)).to(self.device))
        return F.normalize(features.float(), dim=-1).cpu()

    def _encode(self, images: Tensor) -> Tensor:
        return self.model.encode_image(prepare(images, self.preprocessing))


def _preprocessing(visual: Any) -> Preprocessing:
    side = visual.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return Preprocessing(height, (height, width), tuple(visual.image_mean), tuple(visual.image_std))
