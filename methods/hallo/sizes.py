"""How large Hallo's networks are. Torch-free.

The released widths are those of `net.pth`; smaller ones have the same modules and the same names.
Four levels of resolution are part of the method: masks, blocks and levels are counted on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from crossframe.errors import Problem, UserError, did_you_mean

Part = Literal["down", "mid", "up"]

LEVELS = 4
MOTION_GROUPS = 32
"""Groups of the motion modules' norm, whatever the groups of the other norms are."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the five networks; the default is the released one.

    latent_channels: of the image autoencoder's latents.
    widths: channels at the four levels of both UNets, full latent resolution first.
    layers: residual blocks per down block; up blocks have one more.
    heads: of spatial and audio attention. groups: of all group norms but the motion modules'.
    token_width: channels of identity tokens.
    motion_heads, positions: heads of the motion modules, and frames that they can tell apart,
        motion frames included.
    audio_width: channels of audio tokens.
    masked_blocks, masked_levels: where audio attention has one branch per region; anywhere else it
        is a single one without masks, whose weights have other names.
    face_width: of the face embedding. identity_tokens: made of it.
    window: frames of sound that one frame hears. audio_blocks, audio_channels: of its features.
    audio_hidden: width of the audio projection. audio_tokens: per frame.
    locator_widths: channels of the face locator, whose output has 1/8 of the resolution.

    Raises UserError for sizes that the networks cannot have.
    """

    latent_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    heads: int = 8
    groups: int = 32
    token_width: int = 768
    motion_heads: int = 8
    positions: int = 32
    audio_width: int = 768
    masked_blocks: tuple[str, ...] = ("down", "mid", "up")
    masked_levels: tuple[int, ...] = (0, 1, 2, 3)
    face_width: int = 512
    identity_tokens: int = 4
    window: int = 5
    audio_blocks: int = 12
    audio_channels: int = 768
    audio_hidden: int = 512
    audio_tokens: int = 32
    locator_widths: tuple[int, ...] = (16, 32, 64, 128)

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise UserError(problems)

    def is_masked(self, part: str, level: int) -> bool:
        """Tell whether audio attention at a place has one masked branch per region."""
        return part in self.masked_blocks and level in self.masked_levels

    def plain(self) -> dict[str, Any]:
        """Return the sizes as JSON can hold them; `read_sizes` reads them back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def read_sizes(given: Mapping[str, Any], where: str = "backbone") -> Sizes:
    """Read what `Sizes.plain` wrote; raises UserError, located at `where`, for anything else."""
    known = {field.name: field.default for field in fields(Sizes)}
    problems = [
        Problem(where, f"unknown size {name!r}", ", ".join(known), did_you_mean(name, known))
        for name in given
        if name not in known
    ]
    problems += [
        Problem(f"{where}: {name}", f"{value!r} is of the wrong kind", f"as in {known[name]!r}")
        for name, value in given.items()
        if name in known and not _is_kind(value, known[name])
    ]
    if problems:
        raise UserError(problems)
    read: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
    return Sizes(**read)


@dataclass(frozen=True)
class Place:
    """One block of a UNet.

    name: as in `down_blocks.0`. part, level: where it stands; level 0 has the full resolution.
    audio_widths: inner width of the audio module of each layer; () for a block without attention.
    """

    name: str
    part: Part
    level: int
    audio_widths: tuple[int, ...] = ()


def places(sizes: Sizes) -> Iterator[Place]:
    """Yield the blocks of the denoising network in the order of its computation.

    An audio module is as wide as what *enters* the block or, in down blocks, the layer: the
    released code passes `in_channels` on, and its checkpoint has these widths.
    """
    deepest, widths, heads = LEVELS - 1, sizes.widths, sizes.heads
    for i in range(deepest):
        entering = (widths[max(i - 1, 0)], *[widths[i]] * (sizes.layers - 1))
        yield Place(f"down_blocks.{i}", "down", i, _inner(entering, heads))
    yield Place(f"down_blocks.{deepest}", "down", deepest)
    yield Place("mid_block", "mid", deepest, _inner((widths[deepest],), heads))
    yield Place("up_blocks.0", "up", deepest)
    for level in reversed(range(deepest)):
        entering = (widths[max(level - 1, 0)],) * (sizes.layers + 1)
        yield Place(f"up_blocks.{deepest - level}", "up", level, _inner(entering, heads))


def _inner(widths: tuple[int, ...], heads: int) -> tuple[int, ...]:
    return tuple(heads * (width // heads) for width in widths)


def _problems(sizes: Sizes) -> Iterator[Problem]:
    where = "sizes"
    if len(sizes.widths) != LEVELS or len(sizes.locator_widths) != LEVELS:
        yield Problem(where, "widths and locator_widths have one entry per level", f"{LEVELS} each")
    for name in ("groups", "heads", "motion_heads"):
        if odd := [width for width in sizes.widths if width % getattr(sizes, name)]:
            yield Problem(f"{where}: {name}", f"does not divide the widths {odd}")
    if odd := [width for width in sizes.widths if width % MOTION_GROUPS]:
        yield Problem(f"{where}: widths", f"{odd} are no multiples of {MOTION_GROUPS}")
    if unknown := set(sizes.masked_blocks) - {"down", "mid", "up"}:
        yield Problem(f"{where}: masked_blocks", f"{sorted(unknown)}", "down, mid, up")
    if not sizes.window % 2:
        yield Problem(f"{where}: window", f"{sizes.window} has no middle", "an odd number")


def _is_kind(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        kind = type(default[0])
        return isinstance(value, list | tuple) and all(type(entry) is kind for entry in value)
    return type(value) is type(default)
