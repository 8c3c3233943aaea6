"""Who a portrait shows: the face embedding that Hallo's identity tokens are made of.

The released networks read embeddings of insightface's `antelopev2` (detector scrfd_10g, recognition
glintr100), as they are, without normalisation. Those of its other sets lie in other spaces and have
the same length, so that nothing but the pictures would tell.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossframe.errors import NotAvailable, Problem, UserError

# A portrait (3, h, w) in [0, 1] -> the embedding (e,) of its largest face, float32 on the CPU.
FaceEncoder = Callable[[Tensor], Tensor]

DETECTOR = "scrfd_10g_bnkps.onnx"
_DETECTED_AT = (640, 640)


class InsightFaces:
    """insightface's analysis of faces. analysis: a prepared `insightface.app.FaceAnalysis`."""

    def __init__(self, analysis: Any) -> None:
        self.analysis = analysis

    def __call__(self, image: Tensor) -> Tensor:
        """Return the embedding of the largest face of an image (3, h, w) in [0, 1].

        Raises UserError where no face is found. The released code goes on with zeros then, and
        fails when it makes the masks.
        """
        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        faces = self.analysis.get(np.ascontiguousarray(pixels[:, :, ::-1]))
        if not faces:
            fix = "use a portrait that shows one face from the front"
            raise UserError(Problem("portrait", "insightface finds no face in it", fix=fix))
        return torch.from_numpy(np.asarray(max(faces, key=_area)["embedding"], np.float32))


def load_face_encoder(path: Path) -> FaceEncoder:
    """Return the encoder of a recognition network `<root>/models/glintr100.onnx`.

    The detector lies beside it. Raises UserError where it does not, and where insightface is not
    installed.
    """
    if not (path.parent / DETECTOR).is_file():
        what = f"{str(path.parent)!r} lacks {DETECTOR}"
        raise UserError(Problem("backbone.face_encoder", what, fix="take the whole antelopev2"))
    try:
        app = importlib.import_module("insightface.app")
    except ImportError as error:
        fix = "install it: pip install 'crossframe[portraits]'"
        raise NotAvailable("backbone.face_encoder", f"insightface: {error}", fix) from error
    # The name of a set is a folder below `models`; the released layout has none.
    analysis = app.FaceAnalysis(
        name="", root=str(path.parent.parent), allowed_modules=["detection", "recognition"]
    )
    analysis.prepare(ctx_id=0 if torch.cuda.is_available() else -1, det_size=_DETECTED_AT)
    return InsightFaces(analysis)


def _area(face: Any) -> float:
    x0, y0, x1, y1 = face["bbox"]
    return float((x1 - x0) * (y1 - y0))
