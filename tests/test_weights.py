import hashlib
import json

import pytest

from crossframe.errors import NotAvailable, UserError
from crossframe.weights import NETWORKS, Network, label, locate, networks_identity, repository


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_absent_network_comes_with_the_way_to_get_it(name):
    with pytest.raises(NotAvailable, match=r"curl -L|hf download|take it from") as caught:
        locate(name)
    assert NETWORKS[name].id in str(caught.value)
    json.dumps(networks_identity([name]))
    assert networks_identity([name]) == {name: None}


def place(tmp_path, monkeypatch, content, promised):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = folder / f"net-{promised}.pth"
    path.write_bytes(content)
    monkeypatch.setitem(NETWORKS, "net", Network(path.name))
    return path


def test_a_checkpoint_is_found_and_verified(tmp_path, monkeypatch):
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    path = place(tmp_path, monkeypatch, b"weights", digest)
    assert locate("net") == path
    assert networks_identity(["net"]) == {"net": path.name}


def test_a_broken_checkpoint_is_refused(tmp_path, monkeypatch):
    place(tmp_path, monkeypatch, b"half", "01234567")
    with pytest.raises(UserError, match="instead of 01234567"):
        locate("net")


def test_repositories_and_folders_are_named(tmp_path):
    assert repository(str(tmp_path)) == tmp_path
    assert repository("nobody/nothing") is None
    snapshot = tmp_path / "models--facebook--dino" / "snapshots" / "0123456789abcdef"
    assert label(snapshot) == "facebook/dino@01234567"
    assert label(tmp_path / "clip") == "clip"
