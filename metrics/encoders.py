"""Image and text encoders behind the CLIP metrics.

`CLIPModel.get_image_features` returned a tensor up to transformers 4 and returns an output object
since 5, whose `pooler_output` is projected, while `vision_model(...).pooler_output` is not. All of
that is hidden behind `CLIPEncoder`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from crossframe.errors import Problem, UserError
from metrics.errors import MetricUnavailable

HOW_TO_GET_CLIP = (
    "download one, for instance `hf download openai/clip-vit-large-patch14 --local-dir DIR`, and "
    "name its folder as the encoder"
)
# The numbers that Pillow, and so every preprocessing file, gives to its filters.
_FILTERS = {2: "bilinear", 3: "bicubic"}


class ImageTextEncoder(Protocol):
    """Maps images and texts into one space. `name` is kept with every score."""

    name: str

    def encode_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d) float32 of unit length, on the CPU."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """M texts -> (m, d) float32 of unit length, on the CPU."""


@dataclass(frozen=True)
class Preprocess:
    """How pictures become the input of an encoder.

    crop: (h, w) of the result. resize: the shorter side in pixels, or (h, w) to which the picture
    is squashed. mode: interpolation, always antialiased. mean, std: per channel, for [0, 1].
    """

    crop: tuple[int, int]
    resize: int | tuple[int, int]
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> Preprocess:
        """Read what a transformers folder says. Raises MetricUnavailable or UserError."""
        config = _processor_config(folder)
        try:
            size, crop = config["size"], config.get("crop_size", config["size"])
            resize = size.get("shortest_edge") or (size["height"], size["width"])
            mode = _FILTERS[config.get("resample", 3)]
            mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
            edges = (crop["height"], crop["width"])
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(
                Problem(
                    str(folder),
                    f"cannot use the preprocessing in its image processor file: {error!r}",
                    allowed="size, crop_size, image_mean, image_std, resample 2 or 3",
                )
            ) from error
        return cls(edges, resize, mode, mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, 3, *crop), normalised."""
        resized = F.interpolate(images, self._resized(images), mode=self.mode, antialias=True)
        mean, std = (images.new_tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (_centre_crop(resized, self.crop).clamp(0, 1) - mean) / std

    def _resized(self, images: Tensor) -> tuple[int, int]:
        if isinstance(self.resize, tuple):
            return self.resize
        height, width = images.shape[-2:]
        shorter = min(height, width)
        return height * self.resize // shorter, width * self.resize // shorter


class CLIPEncoder:
    """A transformers `CLIPModel`, in float32, with its tokenizer and its own preprocessing."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: Any,
        preprocess: Preprocess,
        name: str,
        batch: int = 32,
    ) -> None:
        self.model = model.eval().requires_grad_(False).float()
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.name = name
        self.batch = batch

    @classmethod
    def from_folder(cls, path: str | Path, device: str = "cpu") -> CLIPEncoder:
        """Load from a `from_pretrained` folder; never downloads.

        Raises MetricUnavailable when the folder, its weights or its preprocessing file is absent,
        UserError when the weights do not fill the model or cannot be read.
        """
        folder = Path(path)
        if not (folder / "config.json").is_file():
            raise MetricUnavailable("clip", f"no CLIP weights in {folder}", HOW_TO_GET_CLIP)
        preprocess = Preprocess.from_folder(folder)
        model = _load_model(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model.to(device), tokenizer, preprocess, folder.name)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d) float32 of unit length, on the CPU."""
        chunks = [
            projected(self.model, self.model.get_image_features(pixel_values=self.preprocess(part)))
            for part in images.float().to(self.model.device).split(self.batch)
        ]
        return F.normalize(torch.cat(chunks), dim=-1).cpu()

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """M texts -> (m, d) float32 of unit length, on the CPU; cut at the token limit."""
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        features = self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return F.normalize(projected(self.model, features), dim=-1).cpu()


def projected(model: CLIPModel, features: Any) -> Tensor:
    """Return the (n, projection_dim) tensor that `get_*_features` gave, of either generation."""
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    expected = model.config.projection_dim
    if tensor.ndim != 2 or tensor.shape[-1] != expected:
        raise RuntimeError(
            f"CLIP features of shape {tuple(tensor.shape)} are not projected to {expected}"
        )
    return tensor


def _load_model(folder: Path) -> CLIPModel:
    try:
        model, report = CLIPModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise MetricUnavailable(
            "clip", f"cannot load {folder}: {reason}", HOW_TO_GET_CLIP
        ) from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(Problem(str(folder), f"its weights lack {missing}", fix=HOW_TO_GET_CLIP))
    return model


def _processor_config(folder: Path) -> Mapping[str, Any]:
    """Read `preprocessor_config.json`, or its part of transformers 5's `processor_config.json`."""
    alone, combined = folder / "preprocessor_config.json", folder / "processor_config.json"
    if alone.is_file():
        found: Mapping[str, Any] = json.loads(alone.read_text(encoding="utf-8"))
        return found
    if combined.is_file():
        inner: Mapping[str, Any] = json.loads(combined.read_text(encoding="utf-8"))
        return inner.get("image_processor", {})
    raise MetricUnavailable(
        "clip", f"no {alone.name} in {folder}", "it must state size, image_mean and image_std"
    )


def _centre_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = ((have - want) // 2 for have, want in zip(images.shape[-2:], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]]
