"""Published evaluations: definitions, encoder and preprocessing chosen together. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crossframe.errors import Problem, UserError, did_you_mean

LARGE = "openai/clip-vit-large-patch14"
BASE = "openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class Preset:
    """What one evaluation computes.

    metrics: ids, in the order of its table. encoder: the CLIP that it uses, or "" when it uses
    none. geometry: how that encoder's input is prepared, a name of
    `metrics.preprocessing.GEOMETRIES`. flow: the estimator for footage, a name of
    `crossframe.flow.table.FLOWS`. source: where the choices are from. differs: what is not the same
    here.
    """

    metrics: tuple[str, ...]
    encoder: str
    geometry: str
    flow: str
    source: str
    differs: str = ""


PRESETS: Mapping[str, Preset] = {
    "tgve": Preset(
        ("clip_frame/all_pairs", "clip_text/tgve", "pickscore"),
        LARGE,
        "tgve",
        "dis",
        "LOVEU-TGVE 2023, scripts/run_eval.py",
        "prompts beyond 77 tokens are cut instead of ending in an error",
    ),
    "fatezero": Preset(
        ("clip_frame/consecutive", "clip_frame_acc/fatezero"),
        BASE,
        "fatezero",
        "dis",
        "FateZero (Qi et al. 2023), CLIP/frame_acc_tem_con.py",
    ),
    "vbench": Preset(
        ("dino_subject/vbench", "clip_frame/vbench", "flicker/vbench", "motion/dynamic_degree"),
        BASE,
        "vbench",
        "raft",
        "VBench (Huang et al. 2024), custom videos",
        "values are raw, not rescaled for the leaderboard; flicker is scored on moving clips too; "
        "RAFT has torchvision's weights",
    ),
    "vbench_i2v": Preset(
        (
            "i2v_subject",
            "i2v_background",
            "dino_subject/vbench",
            "clip_frame/vbench",
            "motion/dynamic_degree",
        ),
        BASE,
        "vbench",
        "raft",
        "VBench-I2V (in VBench++, Huang et al. 2024), vbench2_beta_i2v at 45e79ec",
        "values are raw, not rescaled for the leaderboard; camera motion, motion smoothness, "
        "aesthetic and imaging quality are not here, so no total score is; RAFT has torchvision's "
        "weights",
    ),
    "lai2018": Preset(
        ("warp/lai2018",),
        "",
        "own",
        "dis",
        "Lai et al. (2018), evaluate_WarpError.py",
        "flow is not FlowNet2's, whose weights are no longer published",
    ),
    "controlvideo": Preset(
        ("clip_frame/consecutive", "clip_text/x100", "warp/source_flow"),
        LARGE,
        "own",
        "dis",
        "ControlVideo (Zhang et al. 2024), Tables 1 and 3",
        "the paper names neither the CLIP nor the flow and its masks; it prints the first times "
        "100 and the last times 100",
    ),
    "fresco": Preset(
        (
            "clip_frame_acc/fatezero",
            "clip_frame/consecutive",
            "pixel_mse/fresco",
            "spat_con/fresco",
        ),
        BASE,
        "own",
        "gmflow",
        "FRESCO (Yang et al. 2024), Tables 1 and 2",
        "the paper names neither the CLIP, the layer of VGG, nor masks",
    ),
}


def preset(name: str) -> Preset:
    """Return the preset called `name`; raises UserError for other names."""
    if name not in PRESETS:
        fix = did_you_mean(name, PRESETS)
        raise UserError(Problem("metrics", f"unknown preset {name!r}", ", ".join(PRESETS), fix))
    return PRESETS[name]
