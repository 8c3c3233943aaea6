"""What each attention layer of a batch is guided by, prepared once and picked for every step.

Shapes: n frames of the batch, d tokens of a level, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from methods.attention import TokenGuide, Tokens
from methods.fresco.attention import Paths, layer_guide, token_lists, unseen_tokens
from methods.fresco.config import FrescoConfig, Levels
from methods.fresco.correspondence import Flows
from methods.fresco.trajectories import trajectories
from methods.inflation import InflatedNet
from methods.patterns import parse_pattern

EFFICIENT = "full"
"""The pattern whose tokens can be chosen: others name frames, which they attend to whole."""


@dataclass(frozen=True)
class LayerData:
    """Data of the three parts of FRESCO's attention at one layer; None where a part is absent."""

    tokens: Tokens | None
    reference: Tensor | None
    paths: Paths | None


def guided_layers(unet: InflatedNet, config: FrescoConfig) -> tuple[str, ...]:
    """Return the layers with spatial-guided attention, which need features of the source."""
    guidance = config.spatial_attention
    return tuple(x for x in unet.layers if guidance.on and _takes_part(unet, x, guidance.levels))


def layer_data(
    unet: InflatedNet,
    config: FrescoConfig,
    flows: Flows,
    frames: Tensor,
    reference: Mapping[str, Tensor],
    factor: int,
) -> dict[str, LayerData]:
    """Prepare every layer of a batch, by name.

    flows: of the batch, on the device of the network. frames: its source, (n, 3, H, W), there too.
    reference: what the source brought into the layers, (b n, d, c). factor: pixels per latent.
    """
    levels = {layer: unet.level(layer) for layer in unet.layers}
    tokens, paths = {}, {}
    for level in set(levels.values()):
        scale = factor * 2**level
        height, width = (side // scale for side in frames.shape[-2:])
        if config.attention.tokens == "unseen" and config.attention.pattern == EFFICIENT:
            hidden = flows.hidden_backward[:-1]
            tokens[level] = token_lists(unseen_tokens(hidden, height, width))
        guidance = config.temporal_attention
        if guidance.on and (guidance.levels is None or level in guidance.levels):
            paths[level] = trajectories(flows, frames, scale)
    return {
        layer: LayerData(tokens.get(level), reference.get(layer), paths.get(level))
        for layer, level in levels.items()
    }


def guides_at(
    data: Mapping[str, LayerData], config: FrescoConfig, index: int, timestep: int
) -> dict[str, TokenGuide]:
    """Return the guides of step `index` (0 = the first that is run), by layer."""
    spatial, temporal = config.spatial_attention, config.temporal_attention
    with_spatial = spatial.steps is None or index < spatial.steps
    lowest, highest = temporal.timesteps or (timestep, timestep)
    with_temporal = lowest <= timestep <= highest
    return {
        layer: layer_guide(
            one.tokens,
            one.reference if with_spatial else None,
            one.paths if with_temporal else None,
            spatial=spatial.factor,
            temporal=temporal.factor,
        )
        for layer, one in data.items()
    }


def attended_share(data: Mapping[str, LayerData], pattern: str, frames: int) -> float:
    """Return which share of a batch's tokens a query attends to, the mean over frames and layers.

    pattern: of `attention`, over `frames` frames. 1 is all tokens of all frames; 0 where no layer
    takes part.
    """
    table = parse_pattern(pattern).table(frames)
    shares = [_share_of(one.tokens, table) for one in data.values()]
    return fmean(shares) if shares else 0.0


def _share_of(tokens: Tokens | None, table: Sequence[Sequence[int]]) -> float:
    frames = len(table)
    if tokens is None:
        return fmean(len(keys) / frames for keys in table)
    every = frames * len(tokens[0])  # of the first frame all are chosen
    return fmean(sum(len(tokens[key]) for key in keys) / every for keys in table)


def _takes_part(unet: InflatedNet, layer: str, levels: Levels | None) -> bool:
    return levels is None or unet.level(layer) in levels
