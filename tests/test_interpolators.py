"""Interpolators against exact motion, symmetries, and the names and shapes of published weights."""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from crossframe.errors import NotAvailable, UserError
from methods.interpolators import INTERPOLATORS, interpolator_weights
from methods.interpolators.dis import Dis, middle_along, splat
from methods.interpolators.linear import Linear
from methods.interpolators.rife import IFNet, Rife, fill, load_rife
from methods.interpolators.rife_weights import VARIABLE

CPU = torch.device("cpu")


def texture(height: int = 48, width: int = 64, seed: int = 0, step: int = 4) -> Tensor:
    """Smooth random pictures, (1, 3, height, width) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, height // step, width // step), generator=generator)
    finer = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return finer.clamp(0, 1)


def psnr(one: Tensor, two: Tensor) -> float:
    return -10 * math.log10((one - two).square().mean().item())


def shifted(image: Tensor, by: int) -> Tensor:
    return torch.roll(image, by, dims=-1)


def constant_flow(image: Tensor, dx: float) -> Tensor:
    flow = torch.zeros(len(image), 2, *image.shape[-2:])
    flow[:, 0] = dx
    return flow


def randomized() -> IFNet:
    torch.manual_seed(0)
    return IFNet().eval()


@pytest.fixture(scope="module")
def network() -> IFNet:
    return randomized()


@pytest.mark.parametrize("name", ["linear", "dis"])
def test_the_middle_of_equal_pictures_is_the_picture(name: str) -> None:
    made = INTERPOLATORS.load(name)(CPU)
    pictures = torch.cat([texture(), texture(seed=1)])
    torch.testing.assert_close(made.middle(pictures, pictures), pictures, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["linear", "dis"])
def test_the_middle_does_not_depend_on_the_order(name: str) -> None:
    made = INTERPOLATORS.load(name)(CPU)
    one, two = texture(), shifted(texture(), 4)
    torch.testing.assert_close(made.middle(one, two), made.middle(two, one), atol=1e-5, rtol=0)


def test_linear_is_the_mean() -> None:
    one, two = torch.rand((2, 3, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(Linear(CPU).middle(one, two), (one + two) / 2)


def test_splatting_moves_pixels_and_shares_them_bilinearly() -> None:
    image, weight = torch.zeros(1, 1, 3, 6), torch.ones(1, 1, 3, 6)
    image[0, 0, 1, 2] = 8
    moved, landed = splat(image, constant_flow(image, 1.25), weight)
    assert moved[0, 0, 1].tolist() == [0, 0, 0, 6, 2, 0]
    assert landed[0, 0, 1].tolist() == [0, 0.75, 1, 1, 1, 1]
    assert float(moved.sum()) == 8


def test_exact_motion_gives_the_exact_middle() -> None:
    one = texture()
    two = shifted(one, 6)
    made = middle_along(one, two, constant_flow(one, 6), constant_flow(one, -6))
    inside = (..., slice(8, -8))
    torch.testing.assert_close(made[inside], shifted(one, 3)[inside], atol=1e-5, rtol=0)


def test_dis_follows_motion_that_the_mean_blurs() -> None:
    one = texture(96, 128, step=8)
    two, truth = shifted(one, 6), shifted(one, 3)
    inside = (..., slice(16, -16), slice(24, -24))
    moved, mean = (kind(CPU).middle(one, two) for kind in (Dis, Linear))
    assert psnr(moved[inside], truth[inside]) > psnr(mean[inside], truth[inside]) + 6


def test_background_is_taken_from_the_picture_that_has_it() -> None:
    """A square moves over a still background; the flows are exact and disagree where it hides."""
    ground, top, size = texture(), torch.full((1, 3, 1, 1), 1.0), 16

    def scene(x: int) -> tuple[Tensor, Tensor]:
        inside = torch.zeros(1, 1, *ground.shape[-2:], dtype=torch.bool)
        inside[..., 16 : 16 + size, x : x + size] = True
        return torch.where(inside, top, ground), inside

    (one, in_one), (two, in_two), (truth, _) = scene(16), scene(24), scene(20)
    forward = constant_flow(one, 8) * in_one
    backward = constant_flow(two, -8) * in_two
    made = middle_along(one, two, forward, backward)
    torch.testing.assert_close(made, truth, atol=0.01, rtol=0)
    assert float(((one + two) / 2 - truth).abs().max()) > 0.3


def test_where_nothing_lands_both_pictures_are_averaged() -> None:
    one, two = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    away = constant_flow(one, 40)
    assert middle_along(one, two, away, away).tolist() == torch.full((1, 1, 4, 4), 0.5).tolist()


def test_tiny_pictures_have_no_flow() -> None:
    with pytest.raises(NotAvailable, match="16 pixels"):
        Dis(CPU).middle(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


# --- RIFE: the published file's names and shapes, by the released architecture


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of flownet.pkl: three blocks, and a teacher that only training needs."""
    shapes: dict[str, tuple[int, ...]] = {}
    blocks = {"block0": 11, "block1": 11, "block2": 11, "block_tea": 14}
    for block, inputs in blocks.items():
        convolutions = {"conv0.0": (45, inputs), "conv0.1": (90, 45)}
        convolutions |= {f"convblock{n}.{m}": (90, 90) for n in range(4) for m in range(2)}
        for name, (out, into) in convolutions.items():
            shapes[f"{block}.{name}.0.weight"] = (out, into, 3, 3)
            shapes[f"{block}.{name}.0.bias"] = shapes[f"{block}.{name}.1.weight"] = (out,)
        for name, out in {"conv1": 4, "conv2": 1}.items():
            shapes[f"{block}.{name}.0.weight"] = (90, 45, 4, 4)
            shapes[f"{block}.{name}.0.bias"] = shapes[f"{block}.{name}.1.weight"] = (45,)
            shapes[f"{block}.{name}.2.weight"] = (45, out, 4, 4)
            shapes[f"{block}.{name}.2.bias"] = (out,)
    return {f"module.{name}": shape for name, shape in shapes.items()}


def published(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.02
        for name, shape in published_shapes().items()
    }


def test_the_network_has_the_published_tensors() -> None:
    with torch.device("meta"):
        ours = {f"module.{name}": tuple(t.shape) for name, t in IFNet().state_dict().items()}
    theirs = {n: s for n, s in published_shapes().items() if "block_tea" not in n}
    assert ours == theirs
    assert len(ours) == 3 * 40


@torch.no_grad()
def test_rife_is_symmetric_and_keeps_equal_pictures(network: IFNet) -> None:
    """Swapped pictures give the same middle; without texture no flow can change a picture."""
    made = Rife(network, CPU)
    one, two = texture(32, 40), texture(32, 40, seed=1)
    torch.testing.assert_close(made.middle(one, two), made.middle(two, one), atol=1e-5, rtol=0)
    flat = torch.full((1, 3, 20, 24), 0.3)
    torch.testing.assert_close(made.middle(flat, flat), flat, atol=1e-6, rtol=0)


@torch.no_grad()
def test_without_flow_and_mask_rife_is_the_mean() -> None:
    network = randomized()
    for name, parameter in network.named_parameters():
        if re.search(r"conv[12]\.2\.", name):
            parameter.zero_()
    one, two = texture(40, 36), texture(40, 36, seed=1)
    made = Rife(network, CPU).middle(one, two)
    torch.testing.assert_close(made, (one + two) / 2, atol=1e-6, rtol=0)


class Answers(torch.nn.Module):
    """A block that says the same motion of a pair and of the swapped pair."""

    def __init__(self, motion: float) -> None:
        super().__init__()
        self.motions = [motion, -motion]

    def forward(self, seen: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        dx = self.motions.pop(0)
        answer = torch.tensor([-dx, 0, dx, 0]).view(1, 4, 1, 1)
        return answer.expand(len(seen), 4, *seen.shape[2:]), torch.zeros_like(seen[:, :1])


@torch.no_grad()
def test_flow_of_the_blocks_adds_up_and_moves_the_pictures() -> None:
    network = IFNet()
    for n, motion in enumerate((1.0, 0.5, 0.5)):
        setattr(network, f"block{n}", Answers(motion))
    one = texture(32, 64)
    made = Rife(network, CPU).middle(one, shifted(one, 4))
    inside = (..., slice(4, -4))
    torch.testing.assert_close(made[inside], shifted(one, 2)[inside], atol=1e-5, rtol=0)


@torch.no_grad()
def test_pictures_pass_in_chunks_and_any_size(network: IFNet) -> None:
    one, two = torch.rand((2, 5, 3, 21, 33), generator=torch.Generator().manual_seed(0))
    whole, parts = (Rife(network, CPU, chunk).middle(one, two) for chunk in (5, 2))
    assert whole.shape == one.shape
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_weights_are_found_hashed_and_loaded(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tensors = tmp_path / f"flownet{suffix}", published()
    if suffix == ".pkl":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        save_file(tensors, path)
    monkeypatch.setenv(VARIABLE, str(path))
    assert len(interpolator_weights("rife")) == 64
    made = load_rife(CPU)
    expected = IFNet()
    fill(expected, tensors)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(made.network.state_dict()[name], tensors[f"module.{name}"])
        assert torch.equal(tensor, tensors[f"module.{name}"])


def test_absent_weights_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert interpolator_weights("rife") == interpolator_weights("dis") == ""
    with pytest.raises(NotAvailable, match=r"flownet\.pkl .*linear and dis need no weights"):
        load_rife(CPU)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.pkl"))
    with pytest.raises(NotAvailable, match="is no file"):
        load_rife(CPU)


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_files_that_run_code_or_hold_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flownet.pkl"
    monkeypatch.setenv(VARIABLE, str(path))
    path.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(UserError, match="smoother"):
        load_rife(CPU)
    assert capsys.readouterr().out == ""
    torch.save({"array": np.zeros(3)}, path)
    with pytest.raises(UserError):
        load_rife(CPU)
    wrong = published()
    del wrong["module.block1.conv2.2.bias"]
    torch.save(wrong, path)
    with pytest.raises(UserError, match=r"1 tensors are not .* block1\.conv2\.2\.bias"):
        load_rife(CPU)
