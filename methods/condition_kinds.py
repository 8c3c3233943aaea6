"""Kinds of control by name, and how a spec spells them: `canny`, `canny[50,150]`. Torch-free.

Each entry of `CONDITIONS` leads to a function `(frames, option) -> maps` that looks at the frames
of a clip, uint8 (f, h, w, 3), and answers (f, h, w) or (f, h, w, 3) float32 in [0, 1]. It is asked
only where the clip has no maps of its own. `extra` holds:
networks: names under `backbone.controlnet` that take such maps, most fitting first.
truth: the field of a clip's exact truth that is such a map, `edges` or `depth`; absent for none.
options: what may stand in brackets: annotators by name, the first of them the default; or
    `thresholds` for two numbers; absent for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from crossframe.errors import NotAvailable, Problem, UserError, did_you_mean
from crossframe.registry import Entry, Registry

THRESHOLDS = "thresholds"
CANNY_THRESHOLDS = (100, 200)
"""Hysteresis thresholds on the 8-bit gradient: ControlVideo's util.py:61 and ControlNet's demo."""

_ANNOTATED = "methods.annotators:annotate"

CONDITIONS = Registry(
    kind="control",
    entries={
        "edges": Entry(
            "methods.conditions:canny_maps",
            "exact edges of a rendered clip; Canny edges of any other",
            {"networks": ("edges", "canny"), "truth": "edges"},
        ),
        "canny": Entry(
            "methods.conditions:canny_maps",
            "Canny edges of the frames, by OpenCV",
            {"networks": ("canny", "edges"), "options": (THRESHOLDS,)},
        ),
        "depth": Entry(
            _ANNOTATED,
            "depth, near is bright",
            {
                "networks": ("depth",),
                "truth": "depth",
                "options": ("depth_midas", "depth_zoe", "depth_leres"),
            },
        ),
        "pose": Entry(
            _ANNOTATED,
            "skeletons of people in OpenPose's colours",
            {
                "networks": ("pose", "openpose"),
                "options": ("openpose", "openpose_full", "openpose_hand", "openpose_face"),
            },
        ),
        "softedge": Entry(
            _ANNOTATED,
            "soft edges of ControlNet v1.1",
            {
                "networks": ("softedge", "hed"),
                "options": (
                    "softedge_pidinet",
                    "softedge_hed",
                    "softedge_pidsafe",
                    "softedge_hedsafe",
                ),
            },
        ),
        "hed": Entry(
            _ANNOTATED,
            "holistically-nested edges of ControlNet v1.0",
            {"networks": ("hed", "softedge"), "options": ("softedge_hed",)},
        ),
        "scribble": Entry(
            _ANNOTATED,
            "thick lines, as drawn by hand",
            {"networks": ("scribble",), "options": ("scribble_hed", "scribble_pidinet")},
        ),
        "lineart": Entry(
            _ANNOTATED,
            "drawn lines",
            {"networks": ("lineart",), "options": ("lineart_realistic", "lineart_coarse")},
        ),
        "lineart_anime": Entry(
            _ANNOTATED,
            "drawn lines of animation",
            {"networks": ("lineart_anime",), "options": ("lineart_anime",)},
        ),
        "normal": Entry(
            _ANNOTATED,
            "surface normals as colours",
            {"networks": ("normal", "normalbae"), "options": ("normal_bae",)},
        ),
        "mlsd": Entry(
            _ANNOTATED,
            "straight lines",
            {"networks": ("mlsd",), "options": ("mlsd",)},
        ),
    },
    group="crossframe.controls",
)


@dataclass(frozen=True)
class Control:
    """One control of a spec. option: what stood in brackets, canonical; "" is the default."""

    kind: str
    option: str = ""

    def __str__(self) -> str:
        return f"{self.kind}[{self.option}]" if self.option else self.kind


def parse_control(text: str) -> Control:
    """Read `kind` or `kind[option]`; a default written out is the same as none.

    Raises UserError for an unknown kind and for an option that the kind does not take, with the
    nearest name.
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\[([^\[\]]*)\]\s*)?", text)
    if match is None:
        raise UserError(Problem("controls", f"{text!r} cannot be read", "KIND or KIND[OPTION]"))
    kind, option = match[1], (match[2] or "").replace(" ", "")
    if kind not in CONDITIONS:
        names = CONDITIONS.names()
        hint = did_you_mean(kind, names)
        raise UserError(Problem("controls", f"unknown control {kind!r}", ", ".join(names), hint))
    return Control(kind, _canonical(kind, option))


def networks_for(control: str) -> tuple[str, ...]:
    """Return the names under which a ControlNet for a control may be given, most fitting first."""
    kind = parse_control(control).kind
    return tuple(CONDITIONS.entry(kind).extra.get("networks", (kind,)))


def network_for(control: str, have: Collection[str]) -> str:
    """Return the ControlNet, of those a backbone has, that takes a control.

    have: their names; `*` is the one network of `controlnet: dir`, which serves any kind.
    Raises NotAvailable when there is none.
    """
    names = networks_for(control)
    for name in (*names, "*"):
        if name in have:
            return name
    what = f"the backbone has no ControlNet for {control!r}"
    fix = f"give one under backbone.controlnet: {{{names[0]}: folder or hub id}}"
    raise NotAvailable("controls", what, fix, ", ".join(have) or "none")


def thresholds(option: str) -> tuple[int, int]:
    """Return (low, high) of a canonical option of Canny."""
    low, high = map(int, option.split(",")) if option else CANNY_THRESHOLDS
    return low, high


def _canonical(kind: str, option: str) -> str:
    allowed = tuple(CONDITIONS.entry(kind).extra.get("options", ()))
    if not option:
        return ""
    if allowed == (THRESHOLDS,):
        return _thresholds(kind, option)
    if option not in allowed:
        what = f"{kind} has no option {option!r}"
        hint = did_you_mean(option, allowed)
        raise UserError(Problem("controls", what, ", ".join(allowed) or "no option", hint))
    return "" if option == allowed[0] else option


def _thresholds(kind: str, option: str) -> str:
    match = re.fullmatch(r"(\d{1,5}),(\d{1,5})", option)
    if match is None or int(match[1]) > int(match[2]):
        what = f"{option!r} are no thresholds of {kind}"
        raise UserError(Problem("controls", what, "LOW,HIGH: whole numbers, LOW <= HIGH"))
    pair = int(match[1]), int(match[2])
    return "" if pair == CANNY_THRESHOLDS else f"{pair[0]},{pair[1]}"
