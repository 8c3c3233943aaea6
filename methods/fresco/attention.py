"""FRESCO's attention (arXiv 2403.12962, section 4.1) as guides of the shared attention core.

Three parts, each of its own: keys and values from the tokens that no earlier frame shows (efficient
cross-frame attention), queries re-mixed by the similarities of the source (spatial guidance), and
results re-mixed along the source's motion (temporal guidance).

Shapes (letters as in `methods.attention`): d = tokens of a frame, row-major; h heads, e channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.attention import (
    OutputTransform,
    QueryTransform,
    TokenGuide,
    Tokens,
    split_heads,
    unfold_frames,
)


@dataclass(frozen=True)
class Paths:
    """Trajectories of tokens through f frames, at one resolution.

    forward: (f, d) int64, the token of frame i on trajectory t; row 0 counts up.
    backward: (f, d) int64, its inverse: the trajectory of each token.
    linked: (d, f, f) bool, whether two frames of a trajectory are joined by unbroken motion.
    """

    forward: Tensor
    backward: Tensor
    linked: Tensor

    def to(self, device: torch.device) -> Paths:
        """The same on another device."""
        return Paths(*(part.to(device) for part in (self.forward, self.backward, self.linked)))


def unseen_tokens(occluded: Tensor, height: int, width: int) -> Tensor:
    """Tokens that are keys in efficient cross-frame attention, (f, d) bool with d = height width.

    Frame 0: all. Frame i: those that frame i-1 does not show, where the occlusion, resized
    bilinearly (align_corners off, no antialiasing), exceeds one half; a tie does not.

    occluded: (f-1, H, W) bool or 0/1, on the grid of the later frame of each pair. H and W are
        height and width times one scale, or a few pixels more, which are left out.
    """
    scale = occluded.shape[-2] // height
    resized = F.interpolate(occluded[:, None].float(), scale_factor=1 / scale, mode="bilinear")
    hidden = resized[:, 0, :height, :width] > 0.5
    return torch.cat([hidden.new_ones(1, height, width), hidden]).flatten(1)


def token_lists(chosen: Tensor) -> Tokens:
    """(f, d) bool -> for each frame, the indices of its chosen tokens."""
    return tuple(row.nonzero()[:, 0] for row in chosen)


def spatial_queries(reference: Tensor, factor: float) -> QueryTransform:
    """Return the query transform of spatial guidance (paper eq. 2).

    Q <- softmax(factor Qr Kr^T / sqrt(e)) Q in each frame and head, where Qr and Kr are the layer's
    own projections of the source's features.

    reference: (b f, d, c), what entered the layer when the source was shown; calls with fewer
        guidance rows use the last ones. factor: one over the paper's lambda_s; smaller is smoother.
    """

    def transform(attn: Any, query_bfdhe: Tensor) -> Tensor:
        """Queries re-mixed by the similarities of the reference's tokens."""
        b, f = query_bfdhe.shape[:2]
        tokens = reference[-b * f :].to(query_bfdhe)
        asking, asked = (split_heads(attn, project(tokens)) for project in (attn.to_q, attn.to_k))
        mixed = scaled_attention(asking, asked, query_bfdhe.flatten(0, 1), factor)
        return unfold_frames(mixed, f)

    return transform


def temporal_outputs(paths: Paths, factor: float) -> OutputTransform:
    """Return the output transform of temporal guidance (paper eq. 3).

    O <- softmax(factor Q K^T / sqrt(e)) O over the frames of each trajectory, the own frame
    included, with queries and keys as the layer projected them.

    factor: one over the paper's lambda_t; smaller is smoother.
    """

    def transform(query_bfdhe: Tensor, key_bfdhe: Tensor, out_bfdhe: Tensor) -> Tensor:
        """Results re-mixed along the paths."""
        query, key, out = (
            _by_path(x_bfdhe, paths.forward) for x_bfdhe in (query_bfdhe, key_bfdhe, out_bfdhe)
        )
        linked = paths.linked[:, None].repeat(len(query_bfdhe), 1, 1, 1)
        mixed = scaled_attention(query, key, out, factor, mask=linked)
        mixed_bdfhe = mixed.unflatten(0, (len(query_bfdhe), -1))
        return _take_tokens(mixed_bdfhe.transpose(1, 2), paths.backward)

    return transform


def scaled_attention(
    query: Tensor, key: Tensor, value: Tensor, factor: float, mask: Tensor | None = None
) -> Tensor:
    """Softmax(factor q k^T / sqrt(e)) v of every head; (n, l, h, e) in and out.

    mask: (n, 1 or h, l, l) bool, True where a key may be attended to.
    """
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        scale=factor * query.shape[-1] ** -0.5,
    )
    return out.transpose(1, 2)


def layer_guide(
    tokens: Tokens | None,
    reference: Tensor | None,
    paths: Paths | None,
    *,
    spatial: float,
    temporal: float,
) -> TokenGuide:
    """Return the guide of one layer; a part whose data are None is absent.

    spatial, temporal: the factors of `spatial_queries` and `temporal_outputs`.
    """
    return TokenGuide(
        tokens=tokens,
        query=_optional(spatial_queries, reference, spatial),
        output=_optional(temporal_outputs, paths, temporal),
    )


def _optional(make: Callable[[Any, float], Any], data: Any, factor: float) -> Any:
    return None if data is None else make(data, factor)


def _by_path(x_bfdhe: Tensor, forward: Tensor) -> Tensor:
    """(b, f, d, h, e) -> (b d, f, h, e), d now counting trajectories."""
    return _take_tokens(x_bfdhe, forward).transpose(1, 2).flatten(0, 1)


def _take_tokens(x_bfdhe: Tensor, index: Tensor) -> Tensor:
    """Token index[i, t] of frame i at place (i, t); index (f, d)."""
    frames = torch.arange(len(index), device=index.device)[:, None]
    return x_bfdhe[:, frames, index]
