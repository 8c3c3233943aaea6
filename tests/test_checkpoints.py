"""Weight files that are damaged or hostile, made here byte by byte: nothing of them ever runs."""

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from crossframe.checkpoints import index_problems, require_plain_tensors, require_whole
from crossframe.errors import UserError
from methods.backbones import _load
from methods.weight_files import Part, hash_file, identity_of_part, locate

UNET = "diffusion_pytorch_model"


def refused(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    (problem,) = caught.value.problems
    return str(problem)


class Bomb:
    """Unpickled, it would make a file: the mark of code that ran."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def part(tmp_path):
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return Part("unet", str(folder))


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(first, last, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": shape or [last - first], "data_offsets": [first, last]}


GOOD = header({"__metadata__": {"a": "b"}, "x": entry(0, 4), "y": entry(4, 8)}, bytes(8))
LYING = {
    "empty": (b"", "is no whole safetensors file"),
    "cut in the length": (GOOD[:5], "is no whole safetensors file"),
    "a header longer than the file": (struct.pack("<Q", 2**62) + b"{}", "is no whole"),
    "not JSON": (struct.pack("<Q", 4) + b"\xff\xfe{}", "its header is not JSON"),
    "deep JSON": (struct.pack("<Q", 40_000) + b"[" * 40_000, "its header is not JSON"),
    "a list": (header([1]), "its header is no mapping"),
    "cut in the tensors": (
        GOOD[:-3],
        f"holds {len(GOOD) - 3} bytes where its header tells of {len(GOOD)}",
    ),
    "more than it tells": (GOOD + b"MZ", f"holds {len(GOOD) + 2} bytes"),
    "overlap": (header({"x": entry(0, 4), "y": entry(2, 6)}, bytes(6)), "'y' does not follow"),
    "a gap": (header({"x": entry(0, 4), "y": entry(6, 8)}, bytes(8)), "'y' does not follow"),
    "backwards": (header({"x": entry(4, 0, [4])}, bytes(4)), "'x' makes no sense"),
    "another shape": (header({"x": entry(0, 4, [9])}, bytes(4)), "'x' makes no sense"),
    "no offsets": (header({"x": {"dtype": "U8", "shape": [1]}}), "'x' makes no sense"),
    "a huge shape": (header({"x": entry(0, 4, [2**62, 2**62])}, bytes(4)), "'x' makes no sense"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull"),
}


@pytest.mark.parametrize("name", LYING)
def test_a_lying_safetensors_file_is_named(name, tmp_path):
    content, message = LYING[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    shown = refused(require_whole, path, "backbone.unet")
    assert message in shown
    assert str(path) in shown


def test_sound_safetensors_pass(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    require_whole(path, "w")
    arrays = {"a": np.ones((2, 3), np.float16), "b": np.zeros(0, np.int64), "c": np.float64(1)}
    save_file({name: np.asarray(value) for name, value in arrays.items()}, path)
    require_whole(path, "w")


def test_shipped_weights_pass():
    for path in Path("miniature/weights").rglob("*.safetensors"):
        require_whole(path, "w")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickled_program_never_runs(part, tmp_path, wrapped):
    mark, path = tmp_path / "ran", Path(part.source) / f"{UNET}.bin"
    if wrapped:
        torch.save({"conv.weight": torch.zeros(2), "x": Bomb(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark), protocol=2))
    assert locate(part) == Path(part.source)
    identity_of_part(part, locate(part))
    shown = refused(_load, part, locate(part), torch.float32)
    assert str(path) in shown
    assert "asks for posix.system" in shown
    assert "safetensors" in shown
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))  # the bomb is live: loaded carelessly, it goes off
    assert mark.exists()


def test_plain_tensors_pass(tmp_path):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.zeros(2, 3), "b": torch.ones(1, dtype=torch.bfloat16)}, path)
    require_plain_tensors(path, "w")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epoch": 3, "a": torch.zeros(1)}, "'epoch' is a int"),
        ([torch.zeros(1)], "a list"),
        ({"state_dict": {"a": torch.zeros(1)}}, "'state_dict' is a dict"),
    ],
)
def test_more_than_tensors_is_refused(tmp_path, data, message):
    path = tmp_path / "x.bin"
    torch.save(data, path)
    shown = refused(require_plain_tensors, path, "w")
    assert f"holds more than tensors by name: {message}" in shown


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"PK\x03\x04 cut", b"not a pickle at all"])
def test_rubbish_is_refused(tmp_path, content):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    assert str(path) in refused(require_plain_tensors, path, "w")


def test_other_formats_are_not_read(part):
    (Path(part.source) / "model.pkl").write_bytes(pickle.dumps(Bomb("/nowhere")))
    assert "model.pkl is in a format that is not read; convert it" in refused(locate, part)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth"])
def test_a_single_file_is_named_instead_of_its_folder(part, suffix):
    (Path(part.source) / f"model{suffix}").write_bytes(pickle.dumps(Bomb("/nowhere")))
    told = f"model{suffix} is a single file; name it instead of its folder"
    assert told in refused(locate, part)


@pytest.mark.parametrize("source", ["a" * 5000, "~nobody-of-this-name/x y", "a\x00b"])
def test_odd_sources_are_refused(source):
    assert "there is no folder" in refused(locate, Part("unet", source))


def test_links_are_followed_and_dead_ones_named(part, tmp_path):
    blob, link = tmp_path / "blob", Path(part.source) / f"{UNET}.safetensors"
    blob.write_bytes(GOOD)
    link.symlink_to(blob)
    here = identity_of_part(part, locate(part))
    assert here[f"unet/{UNET}.safetensors"] == hash_file(blob)
    blob.unlink()
    assert "is no file, but a link to nothing" in refused(locate, part)


def test_missing_shards_are_told(part):
    for number in (1, 3):
        (Path(part.source) / f"{UNET}-0000{number}-of-00003.safetensors").write_bytes(GOOD)
    assert "has only the shards 00001, 00003 of 3" in refused(locate, part)


@pytest.mark.parametrize("name", ["../../secret.bin", "/etc/passwd", "sub\\x", "", "a\0b"])
def test_an_index_cannot_lead_out_of_its_folder(part, name):
    folder = Path(part.source)
    (folder / f"{UNET}.safetensors").write_bytes(GOOD)
    index = folder / f"{UNET}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    assert "names a file outside its folder" in refused(locate, part)
    index.write_text(json.dumps({"weight_map": {"a": f"{UNET}.safetensors"}}))
    assert list(index_problems(folder, "w")) == []
    index.write_text("[" * 100_000)
    assert "is no index of shards" in refused(locate, part)
