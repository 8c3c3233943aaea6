import json

import pytest
import torch
import torch.nn.functional as F

from crossframe.errors import NotAvailable, UserError
from crossframe.files import write_json
from metrics.image_input import prepare
from metrics.preprocessing import DINO, GEOMETRIES, Preprocessing, read_preprocessing, with_geometry

PLAIN = Preprocessing(8, (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
FILE = {
    "size": {"shortest_edge": 8},
    "crop_size": {"height": 8, "width": 8},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}


def ramp(height, width):
    """Brightness grows downwards from 0 to 1; the same in every column and channel."""
    return torch.linspace(0, 1, height).view(1, 1, height, 1).expand(1, 3, height, width)


def test_a_file_is_read(tmp_path):
    write_json(tmp_path / "preprocessor_config.json", FILE)
    read = read_preprocessing(tmp_path)
    assert (read.resize, read.crop, read.filter) == (8, (8, 8), "bicubic")
    assert read.mean == (0.5, 0.4, 0.3)
    assert read.antialias


def test_preprocessing_may_squash_and_may_be_nested(tmp_path):
    squash = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_json(tmp_path / "processor_config.json", {"image_processor": squash})
    assert prepare(torch.rand(2, 3, 20, 31), read_preprocessing(tmp_path)).shape == (2, 3, 8, 8)


def test_sizes_may_be_plain_numbers_as_in_older_files(tmp_path):
    write_json(tmp_path / "preprocessor_config.json", FILE | {"size": 8, "crop_size": 8})
    assert read_preprocessing(tmp_path).crop == (8, 8)


@pytest.mark.parametrize(
    "change", [{"resample": 4}, {"image_mean": None}, {"size": {"longest": 2}}]
)
def test_what_is_not_understood_is_an_error(tmp_path, change):
    write_json(tmp_path / "preprocessor_config.json", FILE | change)
    with pytest.raises(UserError, match="image processor"):
        read_preprocessing(tmp_path)


def test_absent_preprocessing_is_not_guessed(tmp_path):
    with pytest.raises(NotAvailable, match="preprocessor_config"):
        read_preprocessing(tmp_path)


def test_the_identity_is_json_and_tells_geometries_apart():
    identities = [
        json.dumps(with_geometry(PLAIN, name).identity(), sort_keys=True) for name in GEOMETRIES
    ]
    assert len(set(identities)) == len(GEOMETRIES)
    with pytest.raises(UserError, match="unknown geometry"):
        with_geometry(PLAIN, "vbnch")


def test_tgve_sees_the_whole_width_and_the_usual_way_only_the_middle():
    frames = torch.zeros(1, 3, 16, 48)
    frames[..., :8] = 1
    assert prepare(frames, PLAIN).max() < 0.01
    squashed = prepare(frames, with_geometry(PLAIN, "tgve"))
    assert squashed[..., 0].min() > 0.9
    assert squashed[..., 4:].max() < 0.1


def test_fatezero_keeps_the_bottom_of_a_high_picture_and_wide_ones_as_they_are():
    high, wide = ramp(24, 8), torch.rand(1, 3, 8, 24)
    lower = with_geometry(PLAIN, "fatezero")
    assert torch.equal(prepare(high, lower), high[:, :, 16:])
    assert torch.equal(prepare(wide, lower), prepare(wide, PLAIN))


def test_vbench_does_not_antialias():
    frames = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    usual = prepare(frames, PLAIN)
    published = prepare(frames, with_geometry(PLAIN, "vbench"))
    expected = F.interpolate(frames, (8, 8), mode="bicubic", antialias=False).clamp(0, 1)
    assert torch.equal(published, expected)
    assert published.std() > 2 * usual.std()


def test_without_a_crop_the_shape_stays():
    assert prepare(torch.rand(1, 3, 40, 60), DINO).shape == (1, 3, 224, 336)
