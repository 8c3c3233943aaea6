import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_metrics_flow import golden
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from crossframe.errors import UserError
from crossframe.files import write_json
from metrics import METRICS
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, Unavailable, mean_of
from metrics.clip_frame import (
    AllPairsFrameSimilarity,
    ConsecutiveFrameSimilarity,
    all_pairs,
    all_pairs_cosines,
    consecutive,
    consecutive_cosines,
)
from metrics.clip_text import TextSimilarity, cosine, text_cosines
from metrics.encoders import CLIPEncoder, Preprocess, projected
from metrics.errors import MetricUnavailable
from metrics.score import score

SIZE, WIDE, PROJECTED, TOKENS = 32, 24, 16, 6
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
PREPROCESSING = {
    "size": {"shortest_edge": SIZE},
    "crop_size": {"height": SIZE, "width": SIZE},
    "resample": 3,
    "image_mean": MEAN,
    "image_std": STD,
}


def tiny_model():
    layer = {
        "hidden_size": WIDE,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **layer,
        "vocab_size": 12,
        "max_position_embeddings": TOKENS,
        "bos_token_id": 1,
        "eos_token_id": 11,
        "pad_token_id": 0,
    }
    vision = {**layer, "image_size": SIZE, "patch_size": 16}
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTED))


def tiny_tokenizer():
    words = [
        "[PAD]",
        "[BOS]",
        "a",
        "red",
        "blue",
        "star",
        "disc",
        "on",
        "plain",
        "the",
        "x",
        "[EOS]",
    ]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="x"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 11)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    write_json(path / "preprocessor_config.json", PREPROCESSING)
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return CLIPEncoder.from_folder(folder)


class Angles:
    """Each frame's embedding is a direction in the plane, given by its mean red value times pi."""

    name = "angles"

    def __init__(self):
        self.passes = 0

    def encode_images(self, images):
        self.passes += 1
        angle = images[:, 0].mean((1, 2)) * math.pi
        return torch.stack((angle.cos(), angle.sin()), dim=1)

    def encode_text(self, texts):
        return torch.tensor([[1.0, 0.0]]).expand(len(texts), 2)


def at_angles(degrees):
    return torch.tensor(degrees).div(180).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)


def directions(degrees):
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack((angle.cos(), angle.sin()), dim=1)


def cos(degrees):
    return math.cos(math.radians(degrees))


DRIFT = [10.0 * t for t in range(8)]
FLICKER = [10.0 * (t % 2) for t in range(8)]


@pytest.mark.parametrize(
    ("degrees", "step", "pairs"), [(DRIFT, 0.9848, 0.8284), (FLICKER, 0.9848, 0.9913)]
)
def test_drift_and_flicker(degrees, step, pairs):
    features = directions(degrees)
    assert consecutive_cosines(features).mean() == pytest.approx(step, abs=5e-5)
    assert all_pairs_cosines(features).mean() == pytest.approx(pairs, abs=5e-5)


def test_three_frames_in_closed_form():
    features = directions([0.0, 35.0, 70.0])
    assert consecutive_cosines(features).tolist() == pytest.approx([cos(35)] * 2)
    ends, middle = (cos(35) + cos(70)) / 2, cos(35)
    assert all_pairs_cosines(features).tolist() == pytest.approx([ends, middle, ends])


def test_negative_cosines_are_kept():
    features = directions([0.0, 180.0])
    assert consecutive_cosines(features).item() == pytest.approx(-1)
    assert all_pairs_cosines(features).mean() == pytest.approx(-1)


def test_frame_score_is_that_of_the_published_code():
    case, tolerances = golden("tgve_frame_score")
    value = all_pairs_cosines(case["input/image_embeds"]).mean()
    assert abs(value - case["output/frame_score"].item()) <= tolerances["output/frame_score"]


def test_text_score_is_that_of_the_published_code():
    case, tolerances = golden("tgve_text_score")
    cosines = text_cosines(case["input/image_embeds"], case["input/text_embed"])
    value = case["input/logit_scale"].exp() * cosines.mean()
    assert abs(value - case["output/text_score"].item()) <= tolerances["output/text_score"]


def test_adapters_report_series_and_encoder():
    inputs = MetricInputs(
        at_angles([0.0, 30.0, 90.0]), torch.zeros(3, 3, 16, 16), "a star", encoder=Angles()
    )
    value = consecutive(inputs)
    assert value.series == pytest.approx((cos(30), cos(60)), abs=1e-6)
    assert value.value == pytest.approx((cos(30) + cos(60)) / 2, abs=1e-6)
    assert value.detail == {"encoder": "angles"}
    assert len(all_pairs(inputs).series) == 3
    assert cosine(inputs).series == pytest.approx((1, cos(30), cos(90)), abs=1e-6)
    assert inputs.encoder.passes == 1


def test_a_constant_video_is_fully_consistent(encoder):
    frames = torch.rand(1, 3, 40, 40).expand(4, -1, -1, -1)
    inputs = MetricInputs(frames, frames, encoder=encoder)
    assert consecutive(inputs).value == pytest.approx(1, abs=1e-6)
    assert all_pairs(inputs).value == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("metric", [consecutive, all_pairs])
def test_one_frame_has_no_consistency(metric):
    one = torch.rand(1, 3, 16, 16)
    with pytest.raises(MetricUnavailable, match="clip has 1"):
        metric(MetricInputs(one, one, encoder=Angles()))


def test_one_frame_has_a_text_score():
    one = at_angles([60.0])
    assert cosine(MetricInputs(one, one, "a", encoder=Angles())).value == pytest.approx(0.5)


def test_no_encoder_and_no_prompt_are_told_apart():
    frames = torch.rand(2, 3, 16, 16)
    with pytest.raises(MetricUnavailable, match=r"needs a CLIP model.*hf download"):
        cosine(MetricInputs(frames, frames, "a star"))
    with pytest.raises(MetricUnavailable, match="no prompt"):
        cosine(MetricInputs(frames, frames, " ", encoder=Angles()))


def test_encoder_embeds_into_the_projected_space(encoder):
    images = torch.rand(3, 3, SIZE, SIZE)
    model = encoder.model
    pixels = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    hidden = model.vision_model(pixels).pooler_output
    assert hidden.shape == (3, WIDE)
    expected = normalize(model.visual_projection(hidden), dim=-1)
    features = encoder.encode_images(images)
    assert features.shape == (3, PROJECTED)
    assert (features - expected).abs().max() < 1e-5


def test_unprojected_features_are_refused(encoder):
    output = encoder.model.vision_model(torch.rand(1, 3, SIZE, SIZE))
    with pytest.raises(RuntimeError, match="not projected to 16"):
        projected(encoder.model, output)


def test_features_of_either_transformers_generation(encoder):
    tensor = torch.rand(2, PROJECTED)
    assert projected(encoder.model, tensor) is tensor


def test_text_features(encoder):
    text = encoder.encode_text(["a red star", "the blue disc on plain x"])
    assert text.shape == (2, PROJECTED)
    assert text.norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-6)
    # "a red star" alone needs no padding: padding must not change it.
    assert (encoder.encode_text(["a red star"])[0] - text[0]).abs().max() < 1e-5


def test_prompts_beyond_the_token_limit_are_cut(encoder):
    long = encoder.encode_text(["a red star on the plain disc"])
    assert (long - encoder.encode_text(["a red star on"])).abs().max() < 1e-6


def test_batches_do_not_change_features(encoder, folder):
    images = torch.rand(5, 3, SIZE, SIZE)
    small = CLIPEncoder.from_folder(folder)
    small.batch = 2
    assert (small.encode_images(images) - encoder.encode_images(images)).abs().max() < 1e-6


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 90), (75, 50)])
def test_preprocessing_agrees_with_pillow(folder, height, width):
    rng = np.random.default_rng(0)
    # Mid-greys, as Pillow clips overshoot to 0..255 between its two passes.
    levels = rng.integers(70, 186, (height, width, 3), dtype=np.uint8)
    shorter = min(height, width)
    resized = Image.fromarray(levels).resize(
        (width * SIZE // shorter, height * SIZE // shorter), Image.Resampling.BICUBIC
    )
    left, top = (resized.width - SIZE) // 2, (resized.height - SIZE) // 2
    expected = np.asarray(resized.crop((left, top, left + SIZE, top + SIZE))) / 255
    images = torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255
    pixels = Preprocess.from_folder(folder)(images)[0].permute(1, 2, 0).numpy() * STD + MEAN
    assert np.abs(pixels - expected).max() < 2 / 255


def test_preprocessing_may_squash_and_may_be_nested(tmp_path):
    squash = {"size": {"height": 8, "width": 8}, "image_mean": MEAN, "image_std": STD}
    write_json(tmp_path / "processor_config.json", {"image_processor": squash})
    assert Preprocess.from_folder(tmp_path)(torch.rand(2, 3, 20, 31)).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    "change", [{"resample": 4}, {"image_mean": None}, {"size": {"longest": 2}}]
)
def test_preprocessing_that_is_not_understood_is_an_error(tmp_path, change):
    write_json(tmp_path / "preprocessor_config.json", PREPROCESSING | change)
    with pytest.raises(UserError, match="image processor"):
        Preprocess.from_folder(tmp_path)


def test_an_absent_encoder_says_what_to_do(tmp_path):
    with pytest.raises(MetricUnavailable, match=r"no CLIP weights in .*hf download"):
        CLIPEncoder.from_folder(tmp_path)


def test_absent_preprocessing_is_not_guessed(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(MetricUnavailable, match="preprocessor_config"):
        CLIPEncoder.from_folder(tmp_path)


def test_half_a_checkpoint_is_not_filled_with_noise(tmp_path, folder):
    model = tiny_model()
    weights = {k: v for k, v in model.state_dict().items() if "visual_projection" not in k}
    model.save_pretrained(tmp_path, state_dict=weights)
    write_json(tmp_path / "preprocessor_config.json", PREPROCESSING)
    with pytest.raises(UserError, match="lack visual_projection"):
        CLIPEncoder.from_folder(tmp_path)


def test_score_encodes_once_and_only_when_asked():
    angles, asked = Angles(), []

    def open_encoder():
        asked.append(1)
        return angles

    frames, source = at_angles([0.0, 90.0, 0.0]), torch.rand(3, 3, 16, 16)
    score(frames, source, ["motion/ratio"], encoder=open_encoder)
    assert not asked
    ids = ["clip_frame/consecutive", "clip_frame/all_pairs", "clip_text/cosine"]
    scores = score(frames, source, ids, prompt="a", encoder=open_encoder)
    assert list(scores) == ids
    assert angles.passes == 1
    assert scores["clip_frame/consecutive"].value == pytest.approx(0, abs=1e-6)
    assert scores["clip_text/cosine"].value == pytest.approx(2 / 3)


def test_score_goes_on_without_the_encoder(tmp_path):
    frames = torch.rand(2, 3, 16, 16)
    ids = ["clip_frame/consecutive", "motion/ratio"]
    scores = score(frames, frames, ids, encoder=lambda: CLIPEncoder.from_folder(tmp_path))
    assert isinstance(scores["clip_frame/consecutive"], Unavailable)
    assert "no CLIP weights" in scores["clip_frame/consecutive"].record()["unavailable"]
    assert scores["motion/ratio"].record()["value"] == pytest.approx(1)
    assert isinstance(score(frames, frames, ids[:1])[ids[0]], Unavailable)


def test_score_refuses_unknown_ids():
    frames = torch.rand(2, 3, 16, 16)
    with pytest.raises(UserError, match="clip_frame/consecutive"):
        score(frames, frames, ["clip_frame/consecutiv"])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.full((2, 3, 8, 8), math.nan), "NaN"),
        (torch.full((2, 3, 8, 8), 255.0), r"allowed: \[0, 1\]"),
        (torch.full((2, 3, 8, 8), 1, dtype=torch.uint8), "divide by 255"),
        (torch.zeros(2, 8, 8, 3), "f, 3, h, w"),
        (torch.zeros(0, 3, 8, 8), "f, 3, h, w"),
        (torch.zeros(3, 3, 8, 8), "but the source's is"),
    ],
)
def test_bad_frames_are_errors(frames, message):
    with pytest.raises(UserError, match=message):
        MetricInputs(frames, torch.zeros(2, 3, 8, 8))


def test_values_must_be_finite():
    with pytest.raises(UserError, match="not finite"):
        mean_of(torch.tensor([1.0, math.nan]))
    with pytest.raises(UserError, match="not finite"):
        MetricValue(math.inf, ())


def test_records_are_json():
    record = mean_of(torch.tensor([1.0, 2.0]), flow="exact").record()
    assert json.loads(json.dumps(record)) == {
        "value": 1.5,
        "series": [1.0, 2.0],
        "detail": {"flow": "exact"},
    }


def test_unavailable_survives_pickling():
    error = pickle.loads(pickle.dumps(MetricUnavailable("m", "reason", "remedy")))
    assert str(error) == "m: reason. remedy"


def test_accumulators_average_clips():
    frames = ConsecutiveFrameSimilarity()
    frames.update(directions([0.0, 60.0]))
    frames.update(directions([0.0, 0.0, 0.0, 0.0]))
    assert frames.compute() == pytest.approx(0.75)
    pairs = AllPairsFrameSimilarity()
    pairs.update(directions(FLICKER))
    assert pairs.compute() == pytest.approx(0.9913, abs=5e-5)
    text = TextSimilarity()
    text.update(directions([0.0, 60.0]), directions([0.0])[0])
    assert text.compute() == pytest.approx(0.75)


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_an_accumulator_without_clips_has_no_value():
    with pytest.raises(UserError, match="no clip"):
        TextSimilarity().compute()


@pytest.mark.parametrize("name", METRICS.names())
def test_every_entry_is_complete_and_leads_somewhere(name):
    extra = METRICS.entry(name).extra
    low, high = extra["range"]
    assert extra["direction"] in {"higher", "lower", "target"}
    assert ("target" in extra) == (extra["direction"] == "target")
    assert low < (math.inf if high is None else high)
    assert set(extra["needs"]) <= {"clip", "source", "prompt", "flow"}
    assert extra["unit"]
    assert len(extra["definition"]) > 100
    assert extra["version"] >= 1
    json.dumps(dict(extra))
    assert callable(METRICS.load(name))
    module, _, attribute = extra["torchmetric"].partition(":")
    accumulator = getattr(sys.modules[module], attribute)()
    assert isinstance(accumulator, ClipMean)
    expected = {"higher": True, "lower": False, "target": None}[extra["direction"]]
    assert accumulator.higher_is_better is expected


def test_the_table_needs_no_torch():
    code = (
        "import sys, metrics; assert len(metrics.METRICS) >= 5; assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
