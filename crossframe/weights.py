"""Pretrained networks fetched from outside, where they lie on this machine, and how to get them.

Nothing here downloads; without a network, what needs it is unavailable. Torch-free.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crossframe.errors import NotAvailable, Problem, UserError
from crossframe.keys import file_sha256

TORCH_FILES = "https://download.pytorch.org/models/"
OPEN_CLIP = "open_clip:"
"""What the names of open_clip's encoders begin with: `open_clip:MODEL/FILE`."""


@dataclass(frozen=True)
class Network:
    """A network by name.

    id: repository of the Hugging Face hub, or the name of a checkpoint file; where that ends with
    eight hexadecimal digits, as torchvision's do, they are the beginning of its sha256.
    source: for a checkpoint that torchvision does not publish, where it comes from.
    """

    id: str
    source: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a checkpoint file rather than a repository."""
        return self.id.endswith((".pth", ".pt"))

    @property
    def command(self) -> str:
        """The command that fetches it, or where to find it and where to place it."""
        if self.source:
            return f"take it from {self.source} and place it in {checkpoints()}"
        if self.is_file:
            place = checkpoints() / self.id
            return f"curl -L --create-dirs -o {place} {TORCH_FILES}{self.id}"
        return f"hf download {self.id}"


NETWORKS: Mapping[str, Network] = {
    "alexnet": Network("alexnet-owt-7be5be79.pth"),
    "gmflow": Network("gmflow_sintel-0c07dcb3.pth", "github.com/haofeixu/gmflow"),
    "i3d": Network(
        "i3d_torchscript.pt",
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt (StyleGAN-V's; a TorchScript "
        "program, so take it from a place that you trust)",
    ),
    "dino": Network("facebook/dino-vitb16"),
    "dreamsim": Network(
        "dreamsim_ensemble.pt",
        "DreamSim's ensemble (github.com/ssundaram21/dreamsim), traced as docs/metrics.md says,",
    ),
    "pickscore": Network("yuvalkirstain/PickScore_v1"),
    "pickscore-processor": Network("laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    "raft": Network("raft_large_C_T_V2-1bb1363a.pth"),
    "vgg16": Network("vgg16-397923af.pth"),
}
"""Every network that a metric or a flow estimator may ask for."""


def checkpoints() -> Path:
    """Return the folder in which torch keeps downloaded checkpoints."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"


def locate(name: str) -> Path:
    """Return the local file or folder of `NETWORKS[name]`.

    Raises NotAvailable with the command to get it when it is absent, UserError when a file is
    not the one that its name promises.
    """
    network = NETWORKS[name]
    found = _file(network.id) if network.is_file else repository(network.id)
    if found is None:
        raise NotAvailable(network.id, "its weights are not on this machine", network.command)
    return found


def repository(name: str) -> Path | None:
    """Return a folder as it stands, or the local copy of a hub repository, or None."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def label(folder: Path) -> str:
    """Return how scores name the network in a folder: `owner/name@revision`, or its own name."""
    if folder.parent.name != "snapshots":
        return folder.name
    owner_and_name = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return f"{owner_and_name}@{folder.name[:8]}"


def networks_identity(names: Iterable[str]) -> dict[str, str | None]:
    """Return what enters the key of a score for the networks of its metric; None while absent."""
    return {name: _identity(NETWORKS[name]) for name in names}


def _identity(network: Network) -> str | None:
    if network.is_file:
        path = checkpoints() / network.id
        if not path.is_file():
            return None
        return network.id if _promised(path) else f"{network.id}@{file_sha256(path)[:16]}"
    found = repository(network.id)
    return label(found) if found else None


def _file(name: str) -> Path | None:
    path = checkpoints() / name
    if not path.is_file():
        return None
    promised = _promised(path)
    digest = file_sha256(path) if promised else ""
    if not digest.startswith(promised):
        what = f"its sha256 begins with {digest[:8]} instead of {promised}"
        raise UserError(Problem(str(path), what, fix="delete it and download it again"))
    return path


def _promised(path: Path) -> str:
    """Return the beginning of the sha256 that a file's name tells, or ""."""
    told = re.search(r"-([0-9a-f]{8})$", path.stem)
    return told[1] if told else ""
