"""Projections of a face embedding and of sound features into tokens to attend to."""

from __future__ import annotations

from torch import Tensor, nn


class ImageProjection(nn.Module):
    """Face embedding (b e) -> identity tokens (b n c): linear, then layer norm of each token."""

    def __init__(self, face_width: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Linear(face_width, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return tokens (b n c). Those of a zero embedding are the unconditional ones."""
        return self.norm(self.proj(embedding).unflatten(-1, (self.tokens, -1)))


class AudioProjection(nn.Module):
    """Windows of sound (b f w blocks channels) -> audio tokens (b f m c).

    Three linear layers with ReLU between, then layer norm of each token.
    """

    def __init__(self, features: int, hidden: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj1 = nn.Linear(features, hidden)
        self.proj2 = nn.Linear(hidden, hidden)
        self.proj3 = nn.Linear(hidden, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, windows: Tensor) -> Tensor:
        """Return tokens (b f m c) of windows (b f w blocks channels), flattened in that order."""
        x = self.proj1(windows.flatten(2)).relu()
        x = self.proj2(x).relu()
        return self.norm(self.proj3(x).unflatten(-1, (self.tokens, -1)))
