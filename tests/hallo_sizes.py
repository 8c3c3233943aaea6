"""Sizes of small Hallo networks for tests."""

from methods.hallo.sizes import Sizes

NANO = Sizes(
    widths=(32, 64, 64, 64),
    layers=1,
    heads=2,
    token_width=32,
    motion_heads=2,
    audio_width=32,
    face_width=16,
    audio_blocks=1,
    audio_channels=8,
    audio_hidden=32,
    audio_tokens=4,
    locator_widths=(4, 8, 8, 16),
)
"""Networks of 6.0 M parameters, with all modules and names of the released ones."""
