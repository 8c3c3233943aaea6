"""Image and text encoders behind the CLIP metrics.

`CLIPModel.get_image_features` returned a tensor up to transformers 4 and returns an output object
since 5, whose `pooler_output` is projected, while `vision_model(...).pooler_output` is not. All of
that is hidden behind `CLIPEncoder`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from crossframe.checkpoints import require_readable
from crossframe.errors import NotAvailable, Problem, UserError
from crossframe.weights import OPEN_CLIP, label, repository
from metrics.image_input import in_batches, prepare
from metrics.preprocessing import Preprocessing, read_preprocessing

HOW_TO_GET_CLIP = (
    "download one, for instance `hf download openai/clip-vit-large-patch14 --local-dir DIR`, and "
    "name its folder as the encoder"
)


class ImageTextEncoder(Protocol):
    """Maps images and texts into one space.

    name: kept with every score; tells weights and preprocessing. temperature: the learned factor
    on cosines, exp(logit_scale).
    """

    name: str
    temperature: float

    def encode_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d) float32 of unit length, on the CPU."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """M texts -> (m, d) float32 of unit length, on the CPU."""


def load_encoder(name: str, geometry: str = "own", device: str = "cpu") -> ImageTextEncoder:
    """Load an encoder: a folder, an id of the hub's local copies, or `open_clip:MODEL/PRETRAINED`.

    geometry: a name of `metrics.preprocessing.GEOMETRIES`. Never downloads. Raises
    NotAvailable with the command to get what is absent, UserError for broken weights.
    """
    if name.startswith(OPEN_CLIP):
        from metrics.open_clip_encoder import OpenClipEncoder

        return OpenClipEncoder.from_name(name.removeprefix(OPEN_CLIP), geometry, device)
    folder = repository(name)
    if folder is None:
        fix = f"hf download {name}" if name.count("/") == 1 else HOW_TO_GET_CLIP
        raise NotAvailable("clip", f"no CLIP weights called {name} on this machine", fix)
    return CLIPEncoder.from_folder(folder, device, geometry)


class CLIPEncoder:
    """A transformers `CLIPModel`, in float32, with its tokenizer and its preprocessing."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: Any,
        preprocessing: Preprocessing,
        name: str,
        batch: int = 32,
    ) -> None:
        self.model = model.eval().requires_grad_(False).float()
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.name = name
        self.batch = batch
        self.temperature = math.exp(float(model.logit_scale))

    @classmethod
    def from_folder(
        cls, path: str | Path, device: str = "cpu", geometry: str = "own"
    ) -> CLIPEncoder:
        """Load from a `from_pretrained` folder; never downloads.

        Raises NotAvailable when the folder, its weights or its preprocessing file is absent,
        UserError when the weights do not fill the model or cannot be read.
        """
        folder = Path(path)
        if not (folder / "config.json").is_file():
            raise NotAvailable("clip", f"no CLIP weights in {folder}", HOW_TO_GET_CLIP)
        preprocessing = read_preprocessing(folder, geometry)
        model = load_network(CLIPModel, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        name = label(folder) if geometry == "own" else f"{label(folder)}, {geometry}"
        return cls(model.to(device), tokenizer, preprocessing, name)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d) float32 of unit length, on the CPU."""
        return in_batches(self._project, images, self.batch, self.model.device)

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

    def _project(self, images: Tensor) -> Tensor:
        pixels = prepare(images, self.preprocessing)
        return projected(self.model, self.model.get_image_features(pixel_values=pixels))


def projected(model: CLIPModel, features: Any) -> Tensor:
    """Return the (n, projection_dim) tensor that `get_*_features` gave, of either generation."""
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    expected = model.config.projection_dim
    if tensor.ndim != 2 or tensor.shape[-1] != expected:
        raise RuntimeError(
            f"CLIP features of shape {tuple(tensor.shape)} are not projected to {expected}"
        )
    return tensor


def load_network(kind: Any, folder: Path, fix: str = HOW_TO_GET_CLIP, **options: Any) -> Any:
    """Load a transformers class from a folder, in float32; never downloads.

    Raises NotAvailable when it cannot be read, UserError when it does not fill the network, is
    cut short, or is a pickled file with more than plain tensors.
    """
    require_readable(folder, "encoder")
    try:
        network, report = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise NotAvailable("encoder", f"cannot load {folder}: {reason}", fix) from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(Problem(str(folder), f"its weights lack {missing}", fix=fix))
    return network
