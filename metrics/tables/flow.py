"""Metrics that follow optical flow: warping errors, flicker, motion. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from crossframe.registry import Entry
from metrics.tables import row

_AVERAGED = (
    "Frame t+1 of the output is warped onto frame t (bilinear); the squared difference, of RGB in "
    "[0, 1] averaged over channels"
)
_KNOWN = (
    "The flow is exact for rendered clips. For footage it is estimated, by OpenCV's DIS (medium) "
    "on grey frames unless another estimator is named"
)
_CHECK = (
    "a pixel counts as visible when |F+B|^2 <= 0.01 (|F|^2 + |B|^2) + 0.5, with F the forward "
    "flow and B the backward flow at its target"
)
_REFUSED = "Unavailable when a pair has fewer than 30 % such pixels."
_SLOW = "Low for a frozen video whose source moves little: read it beside motion/ratio."
_SEEN = (
    "Of both, only the part of each vector along directions in which the source's picture has "
    "contrast is counted (structure tensor over 4 pixels, weaker eigenvalue at least 5 % of the "
    "stronger), because along stripes and edges motion cannot be seen and estimators invent it; "
    "the mean is over the source's pixels with contrast in some direction"
)

WARP: Mapping[str, Entry] = {
    "warp/source_flow": row(
        "metrics.warp:source_flow",
        "error between a frame and the next one warped back by the source's flow",
        direction="lower",
        range=(0.0, 1.0),
        unit="squared intensity",
        definition=(
            "Frame t+1 of the output is warped onto frame t (bilinear) by the flow of the "
            "source clip; the squared difference, of RGB in [0, 1] averaged over channels, "
            "is averaged over the pixels of frame t that stay inside the picture and are "
            f"visible in frame t+1, then over t. {_KNOWN}, and {_CHECK}. One value per pair. "
            f"{_REFUSED} Lai et al. (2018) use the same average but FlowNet2, no in-picture test "
            f"and an additional mask at motion boundaries. {_SLOW}"
        ),
        needs=["source", "flow"],
        paper_names=["warping error (ControlVideo)", "E_warp (Lai et al. 2018)"],
        torchmetric="metrics.warp:SourceFlowWarpError",
    ),
    "warp/lai2018": row(
        "metrics.warp:lai2018",
        "warping error with the masks of Lai et al.",
        direction="lower",
        range=(0.0, 1.0),
        unit="squared intensity",
        definition=(
            f"{_AVERAGED}, is averaged over the pixels of frame t that are neither occluded nor at "
            f"a motion boundary, then over t. {_KNOWN}; masks come from the flow alone: {_CHECK}, "
            "and |grad u|^2 + |grad v|^2 > 0.01 |F|^2 + 0.002 is a boundary. Pixels that leave the "
            "picture are compared with its repeated border, as in the released code, so a pure "
            f"translation does not score 0. One value per pair. {_REFUSED} The published numbers "
            "were made with FlowNet2."
        ),
        needs=["source", "flow"],
        paper_names=["E_warp (Lai et al. 2018)", "warping error (EvalCrafter, a third of it)"],
        torchmetric="metrics.warp:LaiWarpError",
    ),
    "warp/output_flow": row(
        "metrics.warp:output_flow",
        "error between a frame and the next one warped back by the output's own flow",
        direction="lower",
        range=(0.0, 1.0),
        unit="squared intensity",
        definition=(
            f"{_AVERAGED}, is averaged over the pixels of frame t that stay inside the picture and "
            "are visible in frame t+1, then over t. The flow is estimated on the output itself, by "
            f"OpenCV's DIS (medium) on grey frames unless another estimator is named, and {_CHECK}."
            f" One value per pair. {_REFUSED} For videos without a source. A flow that follows "
            "flickering texture hides it: with a source, prefer warp/source_flow."
        ),
        needs=["estimator"],
        paper_names=["warping error (EvalCrafter, with RAFT and other masks)"],
        torchmetric="metrics.warp:SourceFlowWarpError",
    ),
    "warp/long_term": row(
        "metrics.warp:long_term",
        "error between the first frame and later ones warped back to it",
        direction="lower",
        range=(0.0, 1.0),
        unit="squared intensity",
        definition=(
            "Frames t >= 2 (counting from 0) are warped onto frame 0 (bilinear) along the flow of "
            "the source added up step by step; the squared difference, of RGB in [0, 1] averaged "
            "over channels, is averaged over the pixels of frame 0 that stay inside the picture "
            f"and visible at every step, then over t. {_KNOWN}, and {_CHECK}. Frames to which "
            "less than 30 % of the pixels can be followed are left out; which frames count depends "
            "on the source alone. One value per counted frame. Unavailable when none is left. "
            "Sees slow drift, to which the short-term errors are blind."
        ),
        needs=["source", "flow"],
        paper_names=["long-term warping error (several, unstated span)"],
        torchmetric="metrics.warp:LongTermWarpError",
    ),
    "pixel_mse/fresco": row(
        "metrics.warp:pixel_mse",
        "squared error of aligned consecutive frames, without a mask",
        direction="lower",
        range=(0.0, 1.0),
        unit="squared intensity",
        definition=(
            f"{_AVERAGED}, is averaged over all pixels, then over t; outside the picture its "
            f"border is repeated. {_KNOWN}. One value per pair. The papers state neither masks nor "
            "the frames used; FRESCO estimates flow with GMFlow. Hidden and new pixels count as "
            f"errors, so compare with the source row. {_SLOW}"
        ),
        needs=["source", "flow"],
        paper_names=["Pixel-MSE (Pix2Video, Rerender, FRESCO)"],
        torchmetric="metrics.warp:AlignedPixelError",
    ),
}

FLICKER: Mapping[str, Entry] = {
    "flicker/mae": row(
        "metrics.flicker:mae",
        "difference of consecutive frames as they are",
        direction="lower",
        range=(0.0, 1.0),
        unit="intensity",
        definition=(
            "Mean absolute difference of frames t and t+1, of RGB in [0, 1], over pixels and "
            "channels, then over t. Nothing is aligned, so motion counts as flicker: meant for "
            "static scenes. One value per pair. 0 for a frozen video: read it beside motion/ratio."
        ),
        torchmetric="metrics.flicker:ConsecutiveDifference",
    ),
    "flicker/vbench": row(
        "metrics.flicker:vbench",
        "VBench's temporal flickering: one minus the difference of consecutive frames",
        direction="higher",
        range=(0.0, 1.0),
        unit="1 - intensity",
        definition=(
            "1 minus the mean absolute difference of frames t and t+1, of RGB in [0, 1], over "
            "pixels and channels, then over t. VBench applies it to static videos only, which its "
            "own filter selects; here every clip is scored. One value per pair. 1 for a frozen "
            "video: read it beside motion/ratio."
        ),
        paper_names=["temporal flickering (VBench)"],
        torchmetric="metrics.flicker:VBenchSteadiness",
    ),
    "flicker/aligned_residual": row(
        "metrics.flicker:aligned_residual",
        "change along the motion that the source does not have",
        direction="lower",
        range=(0.0, 2.0),
        unit="intensity",
        definition=(
            "Frame t+1 of the output and of the source are warped onto their frames t (bilinear) "
            "by the flow of the source; the absolute difference of the two residuals, of RGB in "
            "[0, 1] averaged over channels, is averaged over the pixels of frame t that stay "
            f"inside the picture and are visible in frame t+1, then over t. {_KNOWN}, and {_CHECK}."
            f" One value per pair. {_REFUSED} Lighting that changes in the source is not counted; "
            "the source itself scores 0."
        ),
        needs=["source", "flow"],
        torchmetric="metrics.flicker:AlignedFlicker",
    ),
}

MOTION: Mapping[str, Entry] = {
    "motion/ratio": row(
        "metrics.motion:ratio",
        "how much the output moves, relative to the source",
        direction="target",
        goal=1.0,
        range=(0.0, None),
        unit="ratio",
        definition=(
            "Mean length of the optical flow between consecutive frames of the output, divided by "
            "the same mean for the source clip. Both flows are estimated, by OpenCV's DIS (medium) "
            "on grey frames unless another estimator is named, even where the source's exact flow "
            f"is known, so that the estimator's bias cancels. {_SEEN}. 1 = moves as much as the "
            "source, 0 = frozen; above 1 = more motion or flicker that passes for motion. One "
            "value per pair, each divided by the source's mean. Unavailable when the source moves "
            "less than 0.01 pixels a frame."
        ),
        needs=["source", "estimator"],
        version=2,
        torchmetric="metrics.motion:MotionRatio",
    ),
    "motion/epe": row(
        "metrics.motion:epe",
        "how far the output's motion is from the source's",
        direction="lower",
        range=(0.0, None),
        unit="pixels a frame",
        definition=(
            "Mean length of the difference between the optical flow of the output and that of the "
            "source clip. Both are estimated, by OpenCV's DIS (medium) on grey frames unless "
            f"another estimator is named, even where the source's exact flow is known. {_SEEN}. "
            "One value per pair. V2VBench reports the negative, with GMFlow and over "
            "whole vectors. A frozen video scores the source's own motion."
        ),
        needs=["source", "estimator"],
        paper_names=["motion alignment (V2VBench, negative)"],
        torchmetric="metrics.motion:EndPointError",
    ),
    "motion/strength": row(
        "metrics.motion:strength",
        "how much the output moves",
        direction="higher",
        range=(0.0, None),
        unit="pixels a frame",
        definition=(
            "Mean length of the optical flow between consecutive frames of the output, estimated "
            "by OpenCV's DIS (medium) on grey frames unless another estimator is named. Only the "
            "part of each vector along directions in which the output's own picture has contrast "
            "is counted (structure tensor over 4 pixels, weaker eigenvalue at least 5 % of the "
            "stronger), because along stripes and edges motion cannot be seen; the mean is over "
            "the pixels with contrast in some direction. One value per pair. For videos made from "
            "a picture, whose motion no source prescribes. No merit by itself: flicker and noise "
            "pass for motion, so read it beside a consistency."
        ),
        needs=["estimator"],
        torchmetric="metrics.motion:MotionStrength",
    ),
    "motion/dynamic_degree": row(
        "metrics.motion:dynamic_degree",
        "whether the output moves fast enough to count as dynamic",
        direction="higher",
        range=(0.0, 1.0),
        unit="share of clips",
        definition=(
            "1 for a clip that moves, 0 otherwise. About 8 frames a second are sampled (every "
            "round(fps/8)-th); a pair moves when the mean of its longest 5 % flow vectors exceeds "
            "6/256 of the shorter side; a clip of n sampled frames moves when at least round(n/4) "
            "pairs do, halves to even, so two frames always move, as in VBench's code. VBench "
            "estimates flow with RAFT; here it is OpenCV's DIS (medium) unless another estimator "
            "is named. The series is the fast motion of each sampled pair, in pixels. Counts "
            "camera motion and flicker too."
        ),
        needs=["fps", "estimator"],
        paper_names=["dynamic degree (VBench)"],
        torchmetric="metrics.motion:DynamicDegree",
    ),
}
