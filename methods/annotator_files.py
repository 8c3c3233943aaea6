"""Annotators by name: their weights, where these lie, and what of them is in keys. Torch-free.

Nothing is downloaded: the files lie in the local hub cache, or in a folder that the environment
variable CROSSFRAME_ANNOTATORS names. Names are those of controlnet-aux; the files are those of its
`lllyasviel/Annotators`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crossframe.errors import NotAvailable
from crossframe.weights import repository
from methods.condition_kinds import CONDITIONS, Control, parse_control
from methods.weight_files import hash_file

REPOSITORY = "lllyasviel/Annotators"
VARIABLE = "CROSSFRAME_ANNOTATORS"
INSTALL = "install it: pip install 'crossframe[annotators]'"


@dataclass(frozen=True)
class Annotator:
    """One annotator. detector: class of controlnet_aux. files: its weights. options: of a call."""

    detector: str
    files: tuple[str, ...]
    options: Mapping[str, bool] = field(default_factory=dict)


_HED = ("HEDdetector", ("ControlNetHED.pth",))
_PIDI = ("PidiNetDetector", ("table5_pidinet.pth",))
_POSE = ("OpenposeDetector", ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"))
_LINES = ("LineartDetector", ("sk_model.pth", "sk_model2.pth"))


def _parts(body: bool, hand: bool, face: bool) -> dict[str, bool]:
    return {"include_body": body, "include_hand": hand, "include_face": face}


ANNOTATORS: Mapping[str, Annotator] = {
    "depth_midas": Annotator("MidasDetector", ("dpt_hybrid-midas-501f0c75.pt",)),
    "depth_zoe": Annotator("ZoeDetector", ("ZoeD_M12_N.pt",)),
    "depth_leres": Annotator("LeresDetector", ("res101.pth", "latest_net_G.pth")),
    "openpose": Annotator(*_POSE, _parts(body=True, hand=False, face=False)),
    "openpose_full": Annotator(*_POSE, _parts(body=True, hand=True, face=True)),
    "openpose_hand": Annotator(*_POSE, _parts(body=False, hand=True, face=False)),
    "openpose_face": Annotator(*_POSE, _parts(body=True, hand=False, face=True)),
    "softedge_hed": Annotator(*_HED),
    "softedge_hedsafe": Annotator(*_HED, {"safe": True}),
    "softedge_pidinet": Annotator(*_PIDI),
    "softedge_pidsafe": Annotator(*_PIDI, {"safe": True}),
    "scribble_hed": Annotator(*_HED, {"scribble": True}),
    "scribble_pidinet": Annotator(*_PIDI, {"scribble": True}),
    "lineart_realistic": Annotator(*_LINES, {"coarse": False}),
    "lineart_coarse": Annotator(*_LINES, {"coarse": True}),
    "lineart_anime": Annotator("LineartAnimeDetector", ("netG.pth",)),
    "normal_bae": Annotator("NormalBaeDetector", ("scannet.pt",)),
    "mlsd": Annotator("MLSDdetector", ("mlsd_large_512_fp32.pth",)),
}


def find_weights(annotator: Annotator) -> tuple[Path | None, list[str]]:
    """Return the folder of an annotator's weights, or None, and which files are not in it."""
    folder = repository(os.environ.get(VARIABLE) or REPOSITORY)
    return folder, [f for f in annotator.files if not (folder and (folder / f).is_file())]


def annotator_identity(
    control: str, files: Collection[str] = (), exact: Collection[str] = ()
) -> dict[str, str | None] | None:
    """Return the sha256 of the weights, by file, of the annotator that draws a control's maps.

    files: kinds of which the clip has maps from files. exact: what is known exactly of the clip.
    None when no annotator is asked. A file that is absent counts as None.
    Raises UserError as `parse_control` does.
    """
    name = _asked(parse_control(control), files, exact)
    if not name:
        return None
    annotator = ANNOTATORS[name]
    folder, missing = find_weights(annotator)
    if folder is None:
        return dict.fromkeys(annotator.files)
    where = f"annotator {name}"
    hashes = (None if f in missing else hash_file(folder / f, where) for f in annotator.files)
    return dict(zip(annotator.files, hashes, strict=True))


def annotator_problem(
    control: str, files: Collection[str] = (), exact: Collection[str] = ()
) -> NotAvailable | None:
    """Return what the annotator that draws a control's maps lacks here, None where nothing.

    files, exact: as in `annotator_identity`.
    """
    name = _asked(parse_control(control), files, exact)
    if not name:
        return None
    if importlib.util.find_spec("controlnet_aux") is None:
        what = f"the annotator {name} needs controlnet-aux, which is not installed"
        return NotAvailable(f"annotator {name}", what, INSTALL)
    return missing_weights(name)


def missing_weights(name: str) -> NotAvailable | None:
    """Return which files of an annotator are not here, with the command that gets them, or None."""
    _, missing = find_weights(ANNOTATORS[name])
    if not missing:
        return None
    what = f"the annotator {name} lacks its weights {', '.join(missing)}"
    command = f"hf download {REPOSITORY} {' '.join(missing)}"
    fix = f"get them: {command} (or name a folder by {VARIABLE})"
    return NotAvailable(f"annotator {name}", what, fix)


def _asked(wanted: Control, files: Collection[str], exact: Collection[str]) -> str:
    """Name the annotator whose maps `methods.conditions.control_map` takes; "" for none."""
    extra = CONDITIONS.entry(wanted.kind).extra
    known = wanted.kind in files or (not wanted.option and extra.get("truth") in exact)
    name = wanted.option or next(iter(extra.get("options", ())), "")
    return name if name in ANNOTATORS and not known else ""
