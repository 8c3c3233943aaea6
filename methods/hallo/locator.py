"""The face locator: an image of where the face may be, as features of the latents' resolution."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from methods.hallo.audio import zeroed


class FaceLocator(nn.Module):
    """3x3 convolutions with SiLU between, three of them of stride 2, the last one zero at first.

    widths: channels at the four resolutions. out: channels of the first level of the UNet.
    """

    def __init__(self, widths: tuple[int, ...], out: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        pairs = pairwise(widths)
        self.blocks = nn.ModuleList(
            nn.Conv2d(width, wide, 3, padding=1, stride=stride)
            for width, deeper in pairs
            for wide, stride in ((width, 1), (deeper, 2))
        )
        self.conv_out = zeroed(nn.Conv2d(widths[-1], out, 3, padding=1))

    def forward(self, mask: Tensor) -> Tensor:
        """Return features (b c f h/8 w/8) of masks (b 3 f h w) in [0, 1]; sides are rounded up."""
        b, _, f = mask.shape[:3]
        x = F.silu(self.conv_in(mask.transpose(1, 2).flatten(0, 1)))
        for conv in self.blocks:
            x = F.silu(conv(x))
        return self.conv_out(x).unflatten(0, (b, f)).transpose(1, 2)
