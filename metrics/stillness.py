"""Scores that a video gains on by standing still, and how to notice it. Torch-free."""

from __future__ import annotations

MOTION = "motion/ratio"
STILL_BELOW = 0.9
"""What has a motion ratio below this moves less than its source."""

STILLNESS_WINS = (
    "clip_frame/", "warp/", "flicker/", "pixel_mse/", "lpips/consecutive", "tlpips",
    "dino_subject/", "i2v_subject", "i2v_background", "i2v_image/",
)  # fmt: skip
"""Metrics (by how their ids begin) that a video gains on by moving less."""
