"""The shipped networks: whole, small, as their cards say, and good enough to show the mechanism."""

import pytest
import torch

from crossframe.files import read_json
from crossframe.flow.fields import exact_flow
from crossframe.keys import file_sha256
from data_manifests.clips import ClipRequest, load_clip
from methods.backbone_config import parse_backbone
from methods.backbones import encode_prompts, load_backbone
from methods.base import SampleRequest
from methods.conditions import control_map
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.sampler import sample
from metrics.base import MetricInputs
from metrics.warp import source_flow
from miniature.check import check_vae
from miniature.export import ABOUT, WEIGHTS
from miniature.shapes import SHAPES

FRAMES = 4
SHIPPED = [name for name in ABOUT if (WEIGHTS / name).is_dir()]


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(parse_backbone("miniature"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_names_the_very_weights_beside_it(name):
    card = read_json(WEIGHTS / name / "card.json")
    (weights,) = (WEIGHTS / name).glob("*.safetensors")
    assert card["sha256"] == file_sha256(weights)
    assert card["acceptance"], "run `crossframe miniature check --write`"


def test_the_folder_stays_below_40_megabytes():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 40e6


@torch.inference_mode()
def test_the_autoencoder_keeps_its_promise(backbone):
    (figure,) = check_vae(backbone, pictures=8)
    assert figure.value >= figure.least


@torch.inference_mode()
def test_text_states_tell_the_shapes_apart(backbone):
    prompts = [f"a red {shape} on a striped background" for shape in SHAPES]
    states = encode_prompts(backbone, prompts).flatten(1)
    apart = torch.cdist(states, states) / states.norm(dim=1).mean()
    assert apart[~torch.eye(len(SHAPES), dtype=torch.bool)].min() > 0.3


def warp_error(backbone, clip, pattern):
    """Warp error of one edited clip under a frame-attention pattern."""
    source = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
    maps = {"edges": control_map("edges", clip.frames, edges=clip.truth.edges)}
    config = ControlVideoConfig(
        attention={"pattern": pattern},
        controls=["edges"],
        strength=0.7,
        steps=8,
        guidance={"scale": 4.0},
    )
    request = SampleRequest(source, clip.edits["object"], controls=maps, seed=3)
    video = sample(backbone, request, config, lambda done, total: None)
    truth = clip.truth
    flow = exact_flow(
        truth.flow_forward, truth.flow_backward, truth.occluded_forward, truth.occluded_backward
    )
    return source_flow(MetricInputs(video, source, flow=flow)).value


def test_attending_to_all_frames_removes_flicker_that_independent_frames_have(backbone):
    for number in (0, 1):
        clip = load_clip(ClipRequest(f"world:heldout/{number}", frames=FRAMES))
        assert warp_error(backbone, clip, "full") < 0.9 * warp_error(backbone, clip, "individual")
