"""Names and shapes of Stable Diffusion 1.x and ControlNet checkpoints, from the original design.

Written down from the modules of the latent-diffusion code (an encoder-decoder of numbered blocks),
independently of diffusers and of its tables of names. All sizes are arguments, so that the same
layout serves a tiny network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]


@dataclass(frozen=True)
class Size:
    """Sizes of the UNet. attention: levels with transformers."""

    channels: int = 320
    mult: Sequence[int] = (1, 2, 4, 4)
    blocks: int = 2
    attention: Sequence[int] = (0, 1, 2)
    context: int = 768


def _layer(name: str, *shape: int, bias: bool = True) -> Named:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _res(name: str, size: Size, before: int, after: int) -> Named:
    yield from _layer(f"{name}.in_layers.0", before)
    yield from _layer(f"{name}.in_layers.2", after, before, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", after, 4 * size.channels)
    yield from _layer(f"{name}.out_layers.0", after)
    yield from _layer(f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        yield from _layer(f"{name}.skip_connection", after, before, 1, 1)


def _transformer(name: str, size: Size, c: int) -> Named:
    yield from _layer(f"{name}.norm", c)
    yield from _layer(f"{name}.proj_in", c, c, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, keys in (("attn1", c), ("attn2", size.context)):
        yield from _layer(f"{block}.{attention}.to_q", c, c, bias=False)
        yield from _layer(f"{block}.{attention}.to_k", c, keys, bias=False)
        yield from _layer(f"{block}.{attention}.to_v", c, keys, bias=False)
        yield from _layer(f"{block}.{attention}.to_out.0", c, c)
    yield from _layer(f"{block}.ff.net.0.proj", 8 * c, c)
    yield from _layer(f"{block}.ff.net.2", c, 4 * c)
    for index in (1, 2, 3):
        yield from _layer(f"{block}.norm{index}", c)
    yield from _layer(f"{name}.proj_out", c, c, 1, 1)


def _encoder(size: Size) -> tuple[list[tuple[str, Shape]], list[int]]:
    """Time embedding, input and middle blocks; and the channels that each input block gives."""
    made = [*_layer("time_embed.0", 4 * size.channels, size.channels)]
    made += _layer("time_embed.2", 4 * size.channels, 4 * size.channels)
    made += _layer("input_blocks.0.0", size.channels, 4, 3, 3)
    given, channels = [size.channels], size.channels
    for level, mult in enumerate(size.mult):
        for _ in range(size.blocks):
            name, after = f"input_blocks.{len(given)}", mult * size.channels
            made += _res(f"{name}.0", size, channels, after)
            if level in size.attention:
                made += _transformer(f"{name}.1", size, after)
            channels = after
            given.append(channels)
        if level < len(size.mult) - 1:
            made += _layer(f"input_blocks.{len(given)}.0.op", channels, channels, 3, 3)
            given.append(channels)
    made += _res("middle_block.0", size, channels, channels)
    made += _transformer("middle_block.1", size, channels)
    made += _res("middle_block.2", size, channels, channels)
    return made, given


def unet(size: Size = Size(), prefix: str = "model.diffusion_model.") -> dict[str, Shape]:
    """The UNet."""
    made, skips = _encoder(size)
    channels, index = skips[-1], 0
    for level, mult in reversed(list(enumerate(size.mult))):
        for block in range(size.blocks + 1):
            name, after, inner = f"output_blocks.{index}", mult * size.channels, 1
            made += _res(f"{name}.0", size, channels + skips.pop(), after)
            if level in size.attention:
                made += _transformer(f"{name}.1", size, after)
                inner = 2
            if level and block == size.blocks:
                made += _layer(f"{name}.{inner}.conv", after, after, 3, 3)
            channels, index = after, index + 1
    made += _layer("out.0", channels)
    made += _layer("out.2", 4, channels, 3, 3)
    return {prefix + name: shape for name, shape in made}


def controlnet(
    size: Size = Size(), hint: Sequence[int] = (16, 32, 96, 256), prefix: str = "control_model."
) -> dict[str, Shape]:
    """A ControlNet: the first half of the UNet, the branch of the hint, zero convolutions."""
    made, given = _encoder(size)
    widths = [3, hint[0]]
    for before, after in pairwise(hint):
        widths += [before, after]
    widths.append(size.channels)
    for index, (before, after) in enumerate(pairwise(widths)):
        made += _layer(f"input_hint_block.{2 * index}", after, before, 3, 3)
    for index, channels in enumerate(given):
        made += _layer(f"zero_convs.{index}.0", channels, channels, 1, 1)
    made += _layer("middle_block_out.0", given[-1], given[-1], 1, 1)
    return {prefix + name: shape for name, shape in made}


def _picture_res(name: str, before: int, after: int) -> Named:
    yield from _layer(f"{name}.norm1", before)
    yield from _layer(f"{name}.conv1", after, before, 3, 3)
    yield from _layer(f"{name}.norm2", after)
    yield from _layer(f"{name}.conv2", after, after, 3, 3)
    if before != after:
        yield from _layer(f"{name}.nin_shortcut", after, before, 1, 1)


def _picture_middle(name: str, c: int) -> Named:
    yield from _picture_res(f"{name}.block_1", c, c)
    yield from _layer(f"{name}.attn_1.norm", c)
    for part in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{name}.attn_1.{part}", c, c, 1, 1)
    yield from _picture_res(f"{name}.block_2", c, c)


def vae(
    widths: Sequence[int] = (128, 256, 512, 512),
    blocks: int = 2,
    prefix: str = "first_stage_model.",
) -> dict[str, Shape]:
    """The autoencoder with 4 latent channels."""
    made = [*_layer("encoder.conv_in", widths[0], 3, 3, 3)]
    channels = widths[0]
    for level, after in enumerate(widths):
        for block in range(blocks):
            made += _picture_res(f"encoder.down.{level}.block.{block}", channels, after)
            channels = after
        if level < len(widths) - 1:
            made += _layer(f"encoder.down.{level}.downsample.conv", channels, channels, 3, 3)
    for half, out in (("encoder", 8), ("decoder", 3)):
        made += _picture_middle(f"{half}.mid", widths[-1])
        last = channels if half == "encoder" else widths[0]
        made += _layer(f"{half}.norm_out", last)
        made += _layer(f"{half}.conv_out", out, last, 3, 3)
    made += _layer("decoder.conv_in", widths[-1], 4, 3, 3)
    for level, after in reversed(list(enumerate(widths))):
        for block in range(blocks + 1):
            made += _picture_res(f"decoder.up.{level}.block.{block}", channels, after)
            channels = after
        if level:
            made += _layer(f"decoder.up.{level}.upsample.conv", channels, channels, 3, 3)
    made += _layer("quant_conv", 8, 8, 1, 1)
    made += _layer("post_quant_conv", 4, 4, 1, 1)
    return {prefix + name: shape for name, shape in made}


def text_encoder(
    width: int = 768,
    inner: int = 3072,
    layers: int = 12,
    words: int = 49408,
    positions: int = 77,
    prefix: str = "cond_stage_model.transformer.text_model.",
) -> dict[str, Shape]:
    """CLIP's text half, with the table of positions that old files carry."""
    made: list[tuple[str, Shape]] = [("embeddings.position_ids", (1, positions))]
    made.append(("embeddings.token_embedding.weight", (words, width)))
    made.append(("embeddings.position_embedding.weight", (positions, width)))
    for index in range(layers):
        name = f"encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made += _layer(f"{name}.self_attn.{part}", width, width)
        made += _layer(f"{name}.layer_norm1", width)
        made += _layer(f"{name}.layer_norm2", width)
        made += _layer(f"{name}.mlp.fc1", inner, width)
        made += _layer(f"{name}.mlp.fc2", width, inner)
    made += _layer("final_layer_norm", width)
    return {prefix + name: shape for name, shape in made}
