"""Metrics of likeness to the source: pixels, structure, perception. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from crossframe.registry import Entry
from metrics.tables import row

_PSNR = (
    "-10 log10 of the mean squared difference of output and source frame, of RGB in [0, 1] over "
    "pixels and channels"
)
_SSIM = (
    "SSIM of output and source frame (Wang et al. 2004): Gaussian window of 11 pixels with sigma "
    "1.5, K1 = 0.01, K2 = 0.03, per RGB channel, over the pixels whose window lies inside the "
    "picture"
)
_OUTSIDE = (
    "Only pixels outside the masks of the edited objects count, as a measure of what an edit "
    "should have left alone. Unavailable for clips without masks."
)
_COPY = "Best for a copy of the source: an edit must change some of it."
_LPIPS = (
    "LPIPS version 0.1 over AlexNet (Zhang et al. 2018), frames as they are, scaled to [-1, 1] as "
    "the network wants"
)

FIDELITY: Mapping[str, Entry] = {
    "psnr": row(
        "metrics.fidelity:psnr",
        "pixel likeness of output and source",
        direction="higher",
        range=(0.0, 100.0),
        unit="dB",
        definition=(
            f"Mean over frames of {_PSNR}. Equal frames count 100 dB, the ceiling of every frame. "
            f"One value per frame. {_COPY}"
        ),
        needs=["source"],
        paper_names=["PSNR"],
        torchmetric="metrics.fidelity:PeakSignalToNoise",
    ),
    "psnr/background": row(
        "metrics.fidelity:psnr_background",
        "pixel likeness of output and source outside the edited objects",
        direction="higher",
        range=(0.0, 100.0),
        unit="dB",
        definition=(
            f"Mean over frames of {_PSNR}. {_OUTSIDE} Equal frames count 100 dB, the ceiling of "
            "every frame. One value per frame."
        ),
        needs=["source", "masks"],
        paper_names=["background PSNR (FiVE)"],
        torchmetric="metrics.fidelity:PeakSignalToNoise",
    ),
    "ssim": row(
        "metrics.fidelity:ssim",
        "structural likeness of output and source",
        direction="higher",
        range=(-1.0, 1.0),
        unit="SSIM",
        definition=f"Mean over frames of the {_SSIM}. One value per frame. {_COPY}",
        needs=["source"],
        paper_names=["SSIM"],
        torchmetric="metrics.fidelity:StructuralSimilarity",
    ),
    "ssim/background": row(
        "metrics.fidelity:ssim_background",
        "structural likeness of output and source outside the edited objects",
        direction="higher",
        range=(-1.0, 1.0),
        unit="SSIM",
        definition=f"Mean over frames of the {_SSIM}. {_OUTSIDE} One value per frame.",
        needs=["source", "masks"],
        paper_names=["background SSIM (FiVE)"],
        torchmetric="metrics.fidelity:StructuralSimilarity",
    ),
    "lpips/consecutive": row(
        "metrics.lpips:consecutive",
        "perceptual distance of consecutive frames",
        direction="lower",
        range=(0.0, None),
        unit="LPIPS",
        definition=(
            f"Mean over t of the {_LPIPS}, between frames t and t+1. Nothing is aligned, so motion "
            "counts. One value per pair. 0 for a frozen video: read it beside motion/ratio."
        ),
        networks=["alexnet"],
        torchmetric="metrics.lpips:ConsecutiveLpips",
    ),
    "lpips/to_source": row(
        "metrics.lpips:to_source",
        "perceptual distance of output and source",
        direction="lower",
        range=(0.0, None),
        unit="LPIPS",
        definition=(
            f"Mean over frames of the {_LPIPS}, between the output and the source frame. One value "
            f"per frame. {_COPY}"
        ),
        needs=["source"],
        networks=["alexnet"],
        paper_names=["LPIPS"],
        torchmetric="metrics.lpips:SourceLpips",
    ),
    "tlpips": row(
        "metrics.lpips:temporal",
        "whether the output changes perceptually as much as the source",
        direction="lower",
        range=(0.0, None),
        unit="100 LPIPS",
        definition=(
            "Mean over t of 100 |LPIPS(output t, t+1) - LPIPS(source t, t+1)|, with "
            f"{_LPIPS}. All pairs and whole frames count; TecoGAN's script crops to multiples of "
            "32 pixels and skips two frames at both ends. One value per pair."
        ),
        needs=["source"],
        networks=["alexnet"],
        paper_names=["tLP, tLPIPS (TecoGAN)"],
        torchmetric="metrics.lpips:TemporalLpips",
    ),
    "tof": row(
        "metrics.tof:tof",
        "whether the output moves as the source, by Farneback's flow",
        direction="lower",
        range=(0.0, None),
        unit="pixels a frame",
        definition=(
            "Mean length of the difference between the Farneback flows (OpenCV: scale .5, 3 "
            "levels, window 15, 3 steps, neighbourhood 5, sigma 1.2) of grey output and source "
            "frames t, t+1, over all pixels, then over t. TecoGAN's script crops to multiples of "
            "32 pixels and skips two frames at both ends; here all count. One value per pair. The "
            "flow is invented along stripes and on flat areas: prefer motion/epe."
        ),
        needs=["source"],
        paper_names=["tOF (TecoGAN)"],
        torchmetric="metrics.tof:TemporalFlowDifference",
    ),
    "spat_con/fresco": row(
        "metrics.spat_con:spat_con",
        "whether parts that look alike in the source still do",
        direction="lower",
        range=(0.0, 2.0),
        unit="cosine",
        definition=(
            "Mean absolute difference between two tables: the cosines between all pairs of cells "
            "of the VGG-16 features (relu4_3, ImageNet weights) of the output frame, and those of "
            "the source frame; then the mean over frames. One value per frame. FRESCO's text says "
            "'L_spat on VGG features' and names neither layer nor norm; both are our choice, so "
            "its numbers cannot be compared."
        ),
        needs=["source"],
        networks=["vgg16"],
        paper_names=["Spat-Con (FRESCO)"],
        torchmetric="metrics.spat_con:SelfSimilarityGap",
    ),
}
