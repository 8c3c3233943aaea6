"""Audio modules: spatial tokens that attend to the sound of their own frame, region by region.

Hierarchical audio-visual attention, section 3.2 of the paper: lips, face and what is around it have
an attention of their own each, whose results are masked, pass through zero-initialised 1x1
convolutions, are weighted and added. (The paper splits one result by masks; the released code has
three attentions.) Where regions are told apart is a matter of `Sizes`.
Shapes: `methods.hallo.calls`.
"""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from methods.hallo.calls import EQUAL, REGIONS
from methods.hallo.options import Scales


class AudioBlock(nn.Module):
    """Self-attention, attention to audio tokens, feed-forward; all residual.

    masked: one branch per region (`attn2_0` full, `attn2_1` face, `attn2_2` lip) rather than a
        single `attn2` that knows neither masks nor scales. The zero convolutions are there in both
        layouts and used in the first.
    """

    def __init__(self, width: int, heads: int, audio_width: int, *, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, heads=heads, dim_head=width // heads)
        for name in _branches(masked):
            across = Attention(width, audio_width, heads=heads, dim_head=width // heads)
            self.add_module(name, across)
        for region in REGIONS:
            self.add_module(f"zero_conv_{region}", zeroed(nn.Conv2d(width, width, 1)))
        self.ff = FeedForward(width)

    def forward(
        self, x: Tensor, audio: Tensor, masks: Tensor | None = None, scales: Scales = EQUAL
    ) -> Tensor:
        """Return tokens like x (r d c).

        audio: (r m c'), of the row's own frame. masks: (r 3 d) in [0, 1]; None is 1 everywhere.
        """
        x = x + self.attn1(self.norm1(x))
        query = self.norm2(x)
        if self.masked:
            for index, scale in enumerate((scales.pose, scales.face, scales.lip)):
                mask = None if masks is None else masks[:, index, :, None]
                x = x + scale * self._branch(index, query, audio, mask)
        else:
            x = x + self.get_submodule("attn2")(query, audio)
        return x + self.ff(self.norm3(x))

    def _branch(self, index: int, query: Tensor, audio: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of one region, masked, then its zero convolution, whose bias is not masked."""
        heard = self.get_submodule(f"attn2_{index}")(query, audio)
        conv = self.get_submodule(f"zero_conv_{REGIONS[index]}")
        return _pointwise(conv, heard if mask is None else heard * mask)


class AudioModule(nn.Module):
    """An `AudioBlock` between 1x1 convolutions, around which the input is added again.

    width: channels of the block of the UNet. inner: of the audio block; see `sizes.places`.
    """

    def __init__(
        self, width: int, inner: int, heads: int, groups: int, audio_width: int, *, masked: bool
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, inner, 1)
        block = AudioBlock(inner, heads, audio_width, masked=masked)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Conv2d(inner, width, 1)

    def forward(
        self, x: Tensor, audio: Tensor, masks: Tensor | None = None, scales: Scales = EQUAL
    ) -> Tensor:
        """Return features like x (r c h w); audio, masks, scales as in `AudioBlock`."""
        h_rdc = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h_rdc = block(h_rdc, audio, masks, scales)
        return x + self.proj_out(h_rdc.transpose(1, 2).unflatten(2, x.shape[2:]))


def zeroed(module: nn.Module) -> nn.Module:
    """Set all parameters of a module to 0 and return it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _branches(masked: bool) -> list[str]:
    return [f"attn2_{index}" for index in range(len(REGIONS))] if masked else ["attn2"]


def _pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution of tokens (r d c)."""
    weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
    return F.linear(x, weight.flatten(1), bias)
