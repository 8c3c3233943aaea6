"""Where the weights of RIFE lie on this machine, and how to get them. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

from crossframe.errors import NotAvailable
from crossframe.weights import checkpoints
from methods.weight_files import hash_file

VARIABLE = "CROSSFRAME_RIFE"
NAMES = ("flownet.safetensors", "flownet.pkl")
WHERE = "smoother.interpolator: rife"


def find_rife() -> Path | None:
    """Return the weight file: what $CROSSFRAME_RIFE names, or a file of torch's cache, or None."""
    named = os.environ.get(VARIABLE, "")
    places = [Path(named).expanduser()] if named else [checkpoints() / name for name in NAMES]
    return next((path for path in places if path.is_file()), None)


def locate_rife() -> Path:
    """Return the weight file. Raises NotAvailable, with how to get it, when it is absent."""
    found = find_rife()
    if found is None:
        named = os.environ.get(VARIABLE, "")
        missing = f"{VARIABLE}={named!r} is no file" if named else "its weights are not here"
        raise NotAvailable(WHERE, missing, _how())
    return found


def rife_sha256() -> str:
    """Return the sha256 of the weight file, "" while there is none.

    Raises UserError for a damaged one.
    """
    found = find_rife()
    return hash_file(found, WHERE) if found else ""


def _how() -> str:
    return (
        "take flownet.pkl (IFNet_HDv3) from the checkpoints folder that ControlVideo's README links"
        f" and place it in {checkpoints()}, or name the file by {VARIABLE}; linear and dis need no"
        " weights"
    )
