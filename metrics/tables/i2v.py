"""Metrics of videos made from a picture: likeness to it, drift of looks, seams. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from crossframe.registry import Entry
from metrics.tables import row

_PICTURE = "the picture that the video was made from, the first frame of the source clip"
_ORDER = (
    "0.4 times the largest cosine of any frame with {picture}, plus 0.3 times the mean and 0.3 "
    "times the smallest cosine of frames t and t+1, each cosine not below 0 (code of VBench-I2V "
    "since July 2024)"
)
_RESIZED = (
    "bicubic, of the picture with and of the frames without antialiasing, as its code does on "
    "pictures and on tensors"
)
_FROZEN = "Highest for a frozen video: read it beside motion/strength or motion/dynamic_degree."
_RATIO = (
    f"divided by that of {_PICTURE}. 1 = as in the picture; scenes change a little by themselves, "
    "which the row source shows"
)

I2V: Mapping[str, Entry] = {
    "i2v_subject": row(
        "metrics.i2v:subject",
        "DINO likeness to the picture, and of neighbouring frames",
        direction="higher",
        range=(0.0, 1.0),
        unit="cosine",
        definition=(
            f"{_ORDER.format(picture=_PICTURE)}. DINO ViT-B/16 (facebook/dino-vitb16), class "
            f"token; the shorter side is resized to 256 ({_RESIZED}), the central 224x224 is "
            "taken. Raw, not rescaled for the leaderboard. The series is each frame's cosine with "
            f"the picture. {_FROZEN}"
        ),
        needs=["source"],
        networks=["dino"],
        paper_names=["video-image subject consistency (VBench-I2V)"],
        torchmetric="metrics.i2v:ImageToVideoScore",
    ),
    "i2v_background": row(
        "metrics.i2v:background",
        "DreamSim likeness to the picture, and of neighbouring frames",
        direction="higher",
        range=(0.0, 1.0),
        unit="cosine",
        definition=(
            f"{_ORDER.format(picture=_PICTURE)}. Embeddings of DreamSim's ensemble (Fu et al. "
            f"2023) of whole frames, squashed to 224x224 ({_RESIZED}); no background is cut out. "
            "Raw, not rescaled for the leaderboard. The series is each frame's cosine with the "
            f"picture. {_FROZEN}"
        ),
        needs=["source"],
        networks=["dreamsim"],
        paper_names=["video-image background consistency (VBench-I2V)"],
        torchmetric="metrics.i2v:ImageToVideoScore",
    ),
    "i2v_image/clip": row(
        "metrics.i2v:image_similarity",
        "CLIP similarity of every frame and the picture",
        direction="higher",
        range=(-1.0, 1.0),
        unit="cosine",
        definition=(
            f"Mean over frames of the cosine between the CLIP image embeddings of the frame and of "
            f"{_PICTURE}. Both are prepared as the encoder's own preprocessing file says unless a "
            "preset states another way; negative cosines are kept. One value per frame, the first "
            "included. Unlike clip_frame/first it sees a first frame that is not the picture. "
            f"{_FROZEN}"
        ),
        needs=["clip", "source"],
        paper_names=["CLIP-I to the conditioning image"],
        torchmetric="metrics.i2v:ImageSimilarity",
    ),
    "i2v_image/psnr": row(
        "metrics.i2v:image_psnr",
        "pixel likeness of every frame and the picture",
        direction="higher",
        range=(0.0, 100.0),
        unit="dB",
        definition=(
            "Mean over frames of -10 log10 of the mean squared difference, of RGB in [0, 1] over "
            f"pixels and channels, of the frame and of {_PICTURE}. Equal pictures count 100 dB. "
            "One value per frame, the first included: how long a video stays at its picture. What "
            f"moves lowers it as much as what dissolves. {_FROZEN}"
        ),
        needs=["source"],
        torchmetric="metrics.i2v:ImagePsnr",
    ),
    "i2v_first/psnr": row(
        "metrics.i2v:first_psnr",
        "pixel likeness of the first frame and the picture",
        direction="higher",
        range=(0.0, 100.0),
        unit="dB",
        definition=(
            "-10 log10 of the mean squared difference, of RGB in [0, 1] over pixels and channels, "
            f"of the first frame and of {_PICTURE}. Equal pictures count 100 dB. One value. The "
            "image autoencoder alone sets a ceiling below that."
        ),
        needs=["source"],
        torchmetric="metrics.i2v:FirstFramePsnr",
    ),
    "saturation/ratio": row(
        "metrics.curves:saturation_ratio",
        "colourfulness of the frames, relative to the picture",
        direction="target",
        goal=1.0,
        range=(0.0, None),
        unit="ratio",
        definition=(
            "Mean over frames of the saturation, the mean over pixels of the largest minus the "
            f"smallest of R, G and B, {_RATIO}. One value per frame. Unavailable for a picture "
            "without colours (below 1/255)."
        ),
        needs=["source"],
        torchmetric="metrics.curves:SaturationRatio",
    ),
    "saturation/last": row(
        "metrics.curves:saturation_last",
        "colourfulness of the last frame, relative to the picture",
        direction="target",
        goal=1.0,
        range=(0.0, None),
        unit="ratio",
        definition=(
            "saturation/ratio of the last frame alone: the mean over its pixels of the largest "
            f"minus the smallest of R, G and B, {_RATIO}. The series has all frames. Unavailable "
            "for a picture without colours (below 1/255)."
        ),
        needs=["source"],
        torchmetric="metrics.curves:SaturationRatio",
    ),
    "contrast/ratio": row(
        "metrics.curves:contrast_ratio",
        "contrast of the frames, relative to the picture",
        direction="target",
        goal=1.0,
        range=(0.0, None),
        unit="ratio",
        definition=(
            "Mean over frames of the contrast, the standard deviation of Rec. 601 luma over "
            f"pixels, {_RATIO}. One value per frame. Unavailable for a flat picture (below 1/255)."
        ),
        needs=["source"],
        torchmetric="metrics.curves:ContrastRatio",
    ),
    "sharpness/ratio": row(
        "metrics.curves:sharpness_ratio",
        "sharpness of the frames, relative to the picture",
        direction="target",
        goal=1.0,
        range=(0.0, None),
        unit="ratio",
        definition=(
            "Mean over frames of the sharpness, the variance over inner pixels of the Laplacian "
            f"(four neighbours) of Rec. 601 luma, {_RATIO}; an image autoencoder alone lowers it. "
            "One value per frame. Noise counts as sharpness. Unavailable for a flat picture."
        ),
        needs=["source"],
        torchmetric="metrics.curves:SharpnessRatio",
    ),
    "sharpness/last": row(
        "metrics.curves:sharpness_last",
        "sharpness of the last frame, relative to the picture",
        direction="target",
        goal=1.0,
        range=(0.0, None),
        unit="ratio",
        definition=(
            "sharpness/ratio of the last frame alone: the variance over its inner pixels of the "
            f"Laplacian (four neighbours) of Rec. 601 luma, {_RATIO}. The series has all frames. "
            "Unavailable for a flat picture."
        ),
        needs=["source"],
        torchmetric="metrics.curves:SharpnessRatio",
    ),
    "seam/ratio": row(
        "metrics.seams:ratio",
        "jumps where the video was made in parts",
        direction="target",
        goal=1.0,
        range=(0.0, None),
        unit="ratio",
        definition=(
            "Mean absolute difference of RGB between the two frames at a border of parts (decoded "
            "together, or drawn together), divided by the mean of the same over all other pairs of "
            "neighbours; the mean over borders. 1 = no seam shows. One value per border. "
            "Unavailable for videos made at once or frame by frame, for still ones, and where the "
            "method does not tell its parts."
        ),
        needs=["borders"],
        torchmetric="metrics.seams:SeamRatio",
    ),
}
