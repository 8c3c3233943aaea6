"""Metrics as named definitions. This table is all that specs, plans and reports need; no torch.

Each target is a function `MetricInputs -> MetricValue`. `extra` holds `direction` (higher, lower or
target, with `target`), `range` [lo, hi] (None = unbounded), `unit`, `definition` (printed under
tables), `needs` (of clip, source, prompt, flow), `version` (raised when values change),
`paper_names`, and `torchmetric`, the accumulating `torchmetrics.Metric` over the same function.
"""

from __future__ import annotations

from crossframe.registry import Entry, Registry

_IMAGE = (
    "Frames are resized and cropped as the encoder's own preprocessing file says (bicubic with "
    "antialiasing for OpenAI's CLIP), embedded, projected and scaled to unit length"
)

METRICS = Registry(
    "metric",
    {
        "clip_frame/consecutive": Entry(
            "metrics.clip_frame:consecutive",
            "CLIP similarity of consecutive frames",
            {
                "direction": "higher",
                "range": [-1.0, 1.0],
                "unit": "cosine",
                "definition": (
                    "Mean over t of the cosine between the CLIP image embeddings of frames t and "
                    f"t+1. {_IMAGE}; negative cosines are kept. One value per pair. Blind to slow "
                    "drift, and highest for a frozen video: read it beside motion/ratio. Papers "
                    "that print it as a percentage show 100 times this value."
                ),
                "needs": ["clip"],
                "version": 1,
                "paper_names": [
                    "frame consistency (ControlVideo)",
                    "Tem-Con (FateZero, FRESCO)",
                    "Gen-1 frame consistency",
                ],
                "torchmetric": "metrics.clip_frame:ConsecutiveFrameSimilarity",
            },
        ),
        "clip_frame/all_pairs": Entry(
            "metrics.clip_frame:all_pairs",
            "CLIP similarity of every pair of frames",
            {
                "direction": "higher",
                "range": [-1.0, 1.0],
                "unit": "cosine",
                "definition": (
                    "Mean cosine between the CLIP image embeddings of all ordered pairs of "
                    f"different frames. {_IMAGE}; negative cosines are kept. One value per frame: "
                    "its mean cosine with the other frames. Sees drift, but rewards periodic "
                    "flicker, and is highest for a frozen video: read it beside motion/ratio."
                ),
                "needs": ["clip"],
                "version": 1,
                "paper_names": ["frame consistency (TGVE 2023, Tune-A-Video)"],
                "torchmetric": "metrics.clip_frame:AllPairsFrameSimilarity",
            },
        ),
        "clip_text/cosine": Entry(
            "metrics.clip_text:cosine",
            "CLIP similarity of the frames and the prompt",
            {
                "direction": "higher",
                "range": [-1.0, 1.0],
                "unit": "cosine",
                "definition": (
                    "Mean over frames of the cosine between the frame's CLIP image embedding and "
                    f"the prompt's CLIP text embedding. {_IMAGE}; the prompt is taken as it "
                    "stands, cut at the encoder's token limit. No temperature, no factor 2.5, no "
                    "clamp at 0. One value per frame. Papers that print it as a percentage show "
                    "100 times this value."
                ),
                "needs": ["clip", "prompt"],
                "version": 1,
                "paper_names": [
                    "prompt consistency (ControlVideo)",
                    "textual alignment (Tune-A-Video)",
                ],
                "torchmetric": "metrics.clip_text:TextSimilarity",
            },
        ),
        "warp/source_flow": Entry(
            "metrics.warp:source_flow",
            "error between a frame and the next one warped back by the source's flow",
            {
                "direction": "lower",
                "range": [0.0, 1.0],
                "unit": "squared intensity",
                "definition": (
                    "Frame t+1 of the output is warped onto frame t (bilinear) by the flow of the "
                    "source clip; the squared difference, of RGB in [0, 1] averaged over channels, "
                    "is averaged over the pixels of frame t that stay inside the picture and are "
                    "visible in frame t+1, then over t. The flow is exact for rendered clips. For "
                    "footage it is OpenCV's DIS (medium) on grey frames, and a pixel counts as "
                    "visible when |F+B|^2 <= 0.01 (|F|^2 + |B|^2) + 0.5, with F the forward flow "
                    "and B the backward flow at its target. One value per pair. Unavailable when "
                    "a pair has fewer than 30 % such pixels. Lai et al. (2018) use the same "
                    "average but FlowNet2, no in-picture test and an additional mask at motion "
                    "boundaries. Low for a frozen video whose source moves little: read it beside "
                    "motion/ratio."
                ),
                "needs": ["source", "flow"],
                "version": 1,
                "paper_names": ["warping error (ControlVideo)", "E_warp (Lai et al. 2018)"],
                "torchmetric": "metrics.warp:SourceFlowWarpError",
            },
        ),
        "motion/ratio": Entry(
            "metrics.motion:ratio",
            "how much the output moves, relative to the source",
            {
                "direction": "target",
                "target": 1.0,
                "range": [0.0, None],
                "unit": "ratio",
                "definition": (
                    "Mean length of the optical flow between consecutive frames of the output, "
                    "divided by the same mean for the source clip. Both flows are estimated with "
                    "OpenCV's DIS (medium) on grey frames, over all pixels, even where the "
                    "source's exact flow is known, so that the estimator's bias cancels. 1 = moves "
                    "as much as the source, 0 = frozen; above 1 = more motion or flicker that "
                    "passes for motion. One value per pair, each divided by the source's mean. "
                    "Unavailable when the source moves less than 0.01 pixels a frame."
                ),
                "needs": ["source"],
                "version": 1,
                "paper_names": [],
                "torchmetric": "metrics.motion:MotionRatio",
            },
        ),
    },
    group="crossframe.metrics",
)
