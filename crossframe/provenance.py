"""Where a result came from: the code, the versions, the machine and the command behind it."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crossframe import __version__

# The packages whose version can change a number.
PACKAGES = (
    "accelerate",
    "av",
    "diffusers",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "safetensors",
    "torch",
    "torchmetrics",
    "torchvision",
    "transformers",
)


def provenance() -> dict[str, Any]:
    """Return what is known about this process, as JSON data.

    Keys: crossframe, git ({commit, dirty} or None outside a checkout), python, packages (name ->
    version of those installed), machine, torch (None until torch is imported, which this never
    does), command, time (UTC, ISO 8601).
    """
    return {
        "crossframe": __version__,
        "git": git_state(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": package_versions(),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "torch": torch_state(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def git_state(folder: Path) -> dict[str, Any] | None:
    """Return {commit, dirty} of the checkout that tracks `folder`, or None when there is none.

    dirty: tracked files differ from the commit. A folder that merely lies inside a checkout, as an
    installed package in somebody's project does, has no state. Asked once per process.
    """
    if not _git(folder, "ls-files", "."):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return None
    return {"commit": commit, "dirty": bool(status)}


def package_versions() -> dict[str, str]:
    """Return the installed versions of `PACKAGES`; absent ones are left out."""
    versions = {name: _version(name) for name in PACKAGES}
    return {name: found for name, found in versions.items() if found is not None}


def torch_state() -> dict[str, Any] | None:
    """Return what of torch's state can change low bits, or None when torch is not imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    cuda = torch.cuda.is_available()
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
