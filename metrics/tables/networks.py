"""Metrics of further networks, of sets of clips, of talking faces, and of cost. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from crossframe.registry import Entry
from metrics.tables import row

LEAST_CLIPS = 1000
"""Clips of each set below which FVD depends on their number more than on the videos."""

NETWORKED: Mapping[str, Entry] = {
    "dino_subject/vbench": row(
        "metrics.dino:subject",
        "DINO similarity with the frame before and with the first",
        direction="higher",
        range=(0.0, 1.0),
        unit="cosine",
        definition=(
            "Mean over the frames after the first of half the DINO cosine with the frame before "
            "plus half the cosine with the first frame, each not below 0. DINO ViT-B/16 "
            "(facebook/dino-vitb16), class token; the shorter side is resized to 224 (bilinear, no "
            "antialiasing), without a crop. One value per frame after the first. Highest for a "
            "frozen video: read it beside motion/ratio."
        ),
        networks=["dino"],
        paper_names=["subject consistency (VBench)"],
        torchmetric="metrics.clip_frame:VBenchFrameSimilarity",
    ),
    "pickscore": row(
        "metrics.pickscore:pickscore",
        "how much people would like the frames for the prompt, as predicted",
        direction="higher",
        range=(-100.0, 100.0),
        unit="logit",
        definition=(
            "Mean over frames of the cosine between image and text embedding of PickScore v1 "
            "(yuvalkirstain/PickScore_v1, a CLIP-H tuned on preferences), times its learned "
            "temperature factor; pictures and text are prepared by the processor of "
            "laion/CLIP-ViT-H-14-laion2B-s32B-b79K. One value per frame. Frames are judged one by "
            "one, so consistency does not enter."
        ),
        needs=["prompt"],
        networks=["pickscore", "pickscore-processor"],
        paper_names=["PickScore (TGVE 2023, V2VBench)"],
        torchmetric="metrics.clip_text:ScaledTextSimilarity",
    ),
    "fvd": row(
        "metrics.fvd:fvd",
        "Frechet video distance between two sets of clips",
        direction="lower",
        range=(0.0, None),
        unit="squared feature distance",
        definition=(
            "Frechet distance between Gaussian fits of the I3D features (Kinetics-400 logits; "
            "frames squashed to 224x224, scaled to [-1, 1], at least 10 a clip) of generated and "
            "of real clips: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), covariances over n - 1. "
            "In a run the generated clips are the samples of a row and the real ones the clips of "
            "the sentinel source. No score of a single clip, without interval, and refused below "
            "1,000 clips a set, where the estimate follows n more than the videos."
        ),
        networks=["i3d"],
        least=LEAST_CLIPS,
        version=2,
        paper_names=["FVD"],
        torchmetric="metrics.fvd:FrechetVideoDistance",
    ),
    "sync/mouth_corr": row(
        "metrics.sync:mouth_corr",
        "whether the mouth opens with the voice",
        direction="higher",
        range=(-1.0, 1.0),
        unit="correlation",
        definition=(
            "Pearson correlation over frames between the mean darkness of the mouth's region (1 "
            "minus Rec. 601 luma: an open mouth shows its dark inside) and the loudness of the "
            "voice during the frame. No shift in time is allowed. The series holds the products "
            "of the standardised values, whose mean is the correlation. 0 when the mouth does not "
            "move; unavailable for clips without a face and for a voice of constant loudness."
        ),
        needs=["face"],
        torchmetric="metrics.sync:MouthCorrelation",
    ),
    "sync/mouth_range": row(
        "metrics.sync:mouth_range",
        "how far the mouth opens and closes, against the source",
        direction="target",
        goal=1.0,
        range=(0.0, None),
        unit="ratio",
        definition=(
            "Mean absolute deviation over frames of the mean darkness of the mouth's region (1 "
            "minus Rec. 601 luma), divided by the same in the source. 1 = the mouth moves as far "
            "as it should, 0 = not at all; says nothing of when. The series holds the deviation of "
            "each frame over the source's mean. Unavailable for clips without a face and for "
            "sources whose mouth stands still."
        ),
        needs=["source", "face"],
        torchmetric="metrics.sync:MouthRange",
    ),
    "sync/head_corr": row(
        "metrics.sync:head_corr",
        "whether the head moves to the side with the voice",
        direction="higher",
        range=(-1.0, 1.0),
        unit="correlation",
        definition=(
            "Pearson correlation over frames between how far the head stands to the side and how "
            "far it does in the source, which follows the pitch of the voice. It is found in the "
            "output's pictures: the face of the source's first frame, in grey and in its box, is "
            "laid over each frame up to an eighth of its side away; the shift with the highest "
            "normalised cross-correlation counts, to parts of a pixel by a parabola. The series "
            "holds the products of the standardised values. 0 when the head does not move; "
            "unavailable for clips that do not say where the head is."
        ),
        needs=["source", "face"],
        torchmetric="metrics.sync:HeadCorrelation",
    ),
    "sync/outside_corr": row(
        "metrics.sync:outside_corr",
        "whether what hangs outside of the face moves with the voice",
        direction="higher",
        range=(-1.0, 1.0),
        unit="correlation",
        definition=(
            "Pearson correlation over frames between how high an object outside of the face hangs "
            "and how high it does in the source, where it goes up and down with the pitch of the "
            "voice. Its height in the source is the mean row of its known pixels. In the output it "
            "is found in the pictures: its pixels in the source's first frame are laid over each "
            "frame up to a fifth of its side away; the shift with the least squared difference of "
            "RGB counts, to parts of a pixel by a parabola. The series holds the products of the "
            "standardised values. 0 when the object does not move; unavailable for clips that do "
            "not know such an object."
        ),
        needs=["source", "face"],
        torchmetric="metrics.sync:OutsideCorrelation",
    ),
}

COST: Mapping[str, Entry] = {
    "cost/seconds_per_frame": row(
        "metrics.cost:seconds_per_frame",
        "time that a frame took",
        direction="lower",
        range=(0.0, None),
        unit="s",
        definition=(
            "Wall-clock seconds of making the clip divided by its frames, without loading networks "
            "and without scoring, as recorded when the frames were made. Work that cells share is "
            "counted in the cell that did it first. Compare rows of one machine only."
        ),
        needs=["cost"],
        paper_names=["time cost (ControlVideo, per video)"],
        torchmetric="metrics.cost:MeanCost",
    ),
    "cost/peak_memory": row(
        "metrics.cost:peak_memory",
        "memory that making the clip took",
        direction="lower",
        range=(0.0, None),
        unit="GiB",
        definition=(
            "Largest amount of memory in use while the clip was made, in GiB: of the accelerator "
            "when there is one, of the process otherwise, networks included. Recorded when the "
            "frames were made. Compare rows of one machine only."
        ),
        needs=["cost"],
        torchmetric="metrics.cost:MeanCost",
    ),
    "cost/attended_tokens": row(
        "metrics.cost:attended_tokens",
        "how much of the frames a query attends to",
        direction="lower",
        range=(0.0, 1.0),
        unit="share",
        definition=(
            "Tokens that a query attends to, as a share of the tokens of all frames that are drawn "
            "together; mean over frames, attention layers with frame attention and batches. 1 = "
            "every token of every frame; 1/f = one frame of f. Recorded when the frames were made. "
            "Unavailable for methods that do not record it."
        ),
        needs=["cost"],
        torchmetric="metrics.cost:MeanCost",
    ),
    "inversion/relative": row(
        "metrics.cost:inversion_error",
        "how exactly the source was inverted",
        direction="lower",
        range=(0.0, None),
        unit="relative",
        definition=(
            "Root mean square difference between the source's latents and those that come back "
            "when their inversion is sampled without guidance, under the inversion's own prompt "
            "and with the steps of the edit, divided by the root mean square of the latents. 0 = "
            "inverted exactly, about 1 = nothing of the source is left. Recorded when the frames "
            "were made, before any edit. Unavailable for rows that do not start from an inversion."
        ),
        needs=["cost"],
        torchmetric="metrics.cost:MeanCost",
    ),
}
