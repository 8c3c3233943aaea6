"""Metrics of image and text embeddings. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from crossframe.registry import Entry
from metrics.tables import row

IMAGE = (
    "Frames are resized and cropped as the encoder's own preprocessing file says (bicubic with "
    "antialiasing for OpenAI's CLIP) unless a preset states another way, embedded, projected and "
    "scaled to unit length"
)
_STATIC = "highest for a frozen video: read it beside motion/ratio."
_TEXT = "the prompt is taken as it stands, cut at the encoder's token limit"

CLIP_FRAME: Mapping[str, Entry] = {
    "clip_frame/consecutive": row(
        "metrics.clip_frame:consecutive",
        "CLIP similarity of consecutive frames",
        direction="higher",
        range=(-1.0, 1.0),
        unit="cosine",
        definition=(
            "Mean over t of the cosine between the CLIP image embeddings of frames t and t+1. "
            f"{IMAGE}; negative cosines are kept. One value per pair. Blind to slow drift, and "
            f"{_STATIC} Papers that print it as a percentage show 100 times this value."
        ),
        needs=["clip"],
        paper_names=[
            "frame consistency (ControlVideo)",
            "Tem-Con (FateZero, FRESCO)",
            "Gen-1 frame consistency",
        ],
        torchmetric="metrics.clip_frame:ConsecutiveFrameSimilarity",
    ),
    "clip_frame/all_pairs": row(
        "metrics.clip_frame:all_pairs",
        "CLIP similarity of every pair of frames",
        direction="higher",
        range=(-1.0, 1.0),
        unit="cosine",
        definition=(
            "Mean cosine between the CLIP image embeddings of all ordered pairs of different "
            f"frames. {IMAGE}; negative cosines are kept. One value per frame: its mean cosine "
            f"with the other frames. Sees drift, but rewards periodic flicker, and is {_STATIC}"
        ),
        needs=["clip"],
        paper_names=["frame consistency (TGVE 2023, Tune-A-Video)"],
        torchmetric="metrics.clip_frame:AllPairsFrameSimilarity",
    ),
    "clip_frame/first": row(
        "metrics.clip_frame:first",
        "CLIP similarity of every frame and the first",
        direction="higher",
        range=(-1.0, 1.0),
        unit="cosine",
        definition=(
            "Mean over t of the cosine between the CLIP image embeddings of the first frame and "
            f"of each later frame. {IMAGE}; negative cosines are kept. One value per frame after "
            f"the first. Sees drift; {_STATIC}"
        ),
        needs=["clip"],
        paper_names=["face consistency (EvalCrafter, with another preprocessing)"],
        torchmetric="metrics.clip_frame:FirstFrameSimilarity",
    ),
    "clip_frame/vbench": row(
        "metrics.clip_frame:vbench",
        "CLIP similarity with the frame before and with the first",
        direction="higher",
        range=(0.0, 1.0),
        unit="cosine",
        definition=(
            "Mean over the frames after the first of half the CLIP cosine with the frame before "
            f"plus half the cosine with the first frame, each not below 0. {IMAGE}. One value per "
            "frame after the first. VBench computes it with ViT-B/32 resized without antialiasing "
            "(preset vbench) and calls it background consistency, although it looks at whole "
            f"frames. It is {_STATIC}"
        ),
        needs=["clip"],
        paper_names=["background consistency (VBench)"],
        torchmetric="metrics.clip_frame:VBenchFrameSimilarity",
    ),
}

CLIP_TEXT: Mapping[str, Entry] = {
    "clip_text/cosine": row(
        "metrics.clip_text:cosine",
        "CLIP similarity of the frames and the prompt",
        direction="higher",
        range=(-1.0, 1.0),
        unit="cosine",
        definition=(
            "Mean over frames of the cosine between the frame's CLIP image embedding and the "
            f"prompt's CLIP text embedding. {IMAGE}; {_TEXT}. No temperature, no factor 2.5, no "
            "clamp at 0. One value per frame. Papers that print it as a percentage show 100 times "
            "this value."
        ),
        needs=["clip", "prompt"],
        paper_names=[
            "prompt consistency (ControlVideo)",
            "textual alignment (Tune-A-Video)",
        ],
        torchmetric="metrics.clip_text:TextSimilarity",
    ),
    "clip_text/x100": row(
        "metrics.clip_text:x100",
        "CLIP similarity of the frames and the prompt, in hundredths",
        direction="higher",
        range=(-100.0, 100.0),
        unit="100 cosine",
        definition=(
            "100 times clip_text/cosine: mean over frames of the cosine between the frame's CLIP "
            f"image embedding and the prompt's CLIP text embedding. {IMAGE}; {_TEXT}. Always 100, "
            "whatever temperature the encoder has learned, and no clamp at 0. One value per frame."
        ),
        needs=["clip", "prompt"],
        paper_names=["prompt consistency x10^-2 (ControlVideo)"],
        torchmetric="metrics.clip_text:PercentTextSimilarity",
    ),
    "clip_text/tgve": row(
        "metrics.clip_text:tgve",
        "CLIP logits of the frames and the prompt",
        direction="higher",
        range=(-100.0, 100.0),
        unit="logit",
        definition=(
            "Mean over frames of the cosine between the frame's CLIP image embedding and the "
            "prompt's CLIP text embedding, times the temperature factor that the encoder has "
            f"learned (100 for OpenAI's CLIP). {IMAGE}; {_TEXT}, at which TGVE's own script stops "
            "with an error. No clamp at 0. One value per frame."
        ),
        needs=["clip", "prompt"],
        paper_names=["textual alignment (TGVE 2023)", "frames-text (V2VBench)"],
        torchmetric="metrics.clip_text:ScaledTextSimilarity",
    ),
    "clip_text/clipscore_2.5": row(
        "metrics.clip_text:clipscore",
        "CLIPScore of the frames",
        direction="higher",
        range=(0.0, 2.5),
        unit="2.5 cosine",
        definition=(
            "Mean over frames of 2.5 max(cos, 0), with the cosine between the frame's CLIP image "
            "embedding and the CLIP text embedding of the prompt after the words 'A photo depicts' "
            f"(Hessel et al. 2021). {IMAGE}; the text is cut at the encoder's token limit. One "
            "value per frame."
        ),
        needs=["clip", "prompt"],
        paper_names=["CLIPScore (Hessel et al. 2021)", "CLIP-S"],
        torchmetric="metrics.clip_text:ClipScore25",
    ),
    "clip_frame_acc/fatezero": row(
        "metrics.clip_text:accuracy",
        "share of frames nearer to the prompt than to the source's caption",
        direction="higher",
        range=(0.0, 1.0),
        unit="share of frames",
        definition=(
            "Share of frames whose CLIP image embedding has at least as large a cosine with the "
            "text embedding of the prompt as with that of the source's caption; ties count, as in "
            f"FateZero's code. {IMAGE}. One value, 0 or 1, per frame. Saturates: FRESCO's table of "
            "ablations shows 1.000 in every row."
        ),
        needs=["clip", "prompt", "source_prompt"],
        paper_names=["Fram-Acc (FateZero, Rerender, FRESCO)", "success rate (EditBoard)"],
        torchmetric="metrics.clip_text:FrameAccuracy",
    ),
}
