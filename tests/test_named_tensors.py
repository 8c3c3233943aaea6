"""Named tensors: what is read is what was written, and differences are told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossframe.errors import UserError
from methods.named_tensors import (
    differences,
    plain_tensors,
    read_tensors,
    shapes_of,
    write_tensors,
)

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    write_tensors(path, TENSORS)
    found = read_tensors(path, "here")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_prefix_of_distributed_training_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    write_tensors(path, {f"module.{name}": tensor for name, tensor in TENSORS.items()})
    assert read_tensors(path, "here").keys() == TENSORS.keys()


def test_what_is_no_mapping_of_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(1), "epoch": 3}, path)
    with pytest.raises(UserError, match=r"here: .*more than tensors"):
        read_tensors(path, "here")


def test_plain_tensors_keep_nothing_of_larger_storages(tmp_path: Path) -> None:
    whole = torch.zeros(1000, 1000)
    plain = plain_tensors({"part": whole[:1, :2].T}, torch.float16)["part"]
    assert plain.untyped_storage().nbytes() == 4
    assert plain.dtype == torch.float16
    assert plain.is_contiguous()


def test_differences_in_names_and_shapes() -> None:
    wanted = shapes_of(TENSORS)
    assert wanted == {"a.weight": (2, 3), "b": (1,)}
    assert differences(TENSORS, wanted) == ""
    told = differences({"a.weight": torch.ones(3), "c": torch.ones(1)}, wanted)
    assert told == (
        "1 of 2 tensors are missing, among them b; 1 are unknown, among them c; "
        "1 have another shape, among them a.weight with (3,), not (2, 3)"
    )
