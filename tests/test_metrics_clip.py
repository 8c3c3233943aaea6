import json
import math
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_flow import golden
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from crossframe.errors import Diverged, NotAvailable, UserError
from crossframe.files import write_json
from metrics.base import MetricInputs, MetricValue, mean_of
from metrics.clip_frame import (
    AllPairsFrameSimilarity,
    ConsecutiveFrameSimilarity,
    all_pairs,
    all_pairs_cosines,
    consecutive,
    consecutive_cosines,
    first,
    first_cosines,
    vbench,
    vbench_cosines,
)
from metrics.clip_text import (
    PREFIX,
    ClipScore25,
    FrameAccuracy,
    TextSimilarity,
    accuracy,
    clipscore,
    clipscores,
    cosine,
    frame_hits,
    scaled_cosines,
    tgve,
    x100,
)
from metrics.encoders import CLIPEncoder, load_encoder, projected
from metrics.image_input import prepare
from metrics.preprocessing import read_preprocessing

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
    temperature = 7.0

    def __init__(self):
        self.passes = 0
        self.texts = []

    def encode_images(self, images):
        self.passes += 1
        angle = images[:, 0].mean((1, 2)) * math.pi
        return torch.stack((angle.cos(), angle.sin()), dim=1)

    def encode_text(self, texts):
        """A text that begins with a number is the direction at so many degrees, others 0."""
        self.texts += texts
        words = [text.split()[0] for text in texts]
        return directions([float(word) if word.isdigit() else 0.0 for word in words]).float()


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
    ("degrees", "step", "pairs", "start", "mixed"),
    [(DRIFT, 0.9848, 0.8284, 0.7202, 0.8525), (FLICKER, 0.9848, 0.9913, 0.9913, 0.9881)],
)
def test_drift_and_flicker(degrees, step, pairs, start, mixed):
    features = directions(degrees)
    assert consecutive_cosines(features).mean() == pytest.approx(step, abs=5e-5)
    assert all_pairs_cosines(features).mean() == pytest.approx(pairs, abs=5e-5)
    assert first_cosines(features).mean() == pytest.approx(start, abs=5e-5)
    assert vbench_cosines(features).mean() == pytest.approx(mixed, abs=5e-5)


def test_all_pairs_ignores_the_order_of_frames_and_the_others_do_not():
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    shuffled = features[[3, 0, 5, 1, 4, 2]]
    assert all_pairs_cosines(shuffled).mean() == pytest.approx(
        all_pairs_cosines(features).mean().item()
    )
    for cosines in (consecutive_cosines, first_cosines, vbench_cosines):
        assert abs(cosines(shuffled).mean() - cosines(features).mean()) > 1e-3


def test_vbench_is_that_of_the_published_code():
    case, tolerances = golden("vbench_consistency")
    series = [vbench_cosines(case[f"input/features_{video}"]) for video in "ab"]
    for part in ("subject", "background"):
        one_by_one = torch.stack([values.mean() for values in series])
        gap = (one_by_one - case[f"output/{part}_video"]).abs().max()
        assert gap <= tolerances[f"output/{part}_video"]
        pooled = torch.cat(series).mean()
        assert abs(pooled - case[f"output/{part}_dataset"]) <= tolerances[f"output/{part}_dataset"]


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
    value = scaled_cosines(
        case["input/image_embeds"], case["input/text_embed"], case["input/logit_scale"].exp()
    ).mean()
    for name in ("output/text_score", "output/pick_score"):
        assert abs(value - case[name].item()) <= tolerances[name]


def test_scales_of_the_text_score():
    inputs = MetricInputs(at_angles([0.0, 60.0, 120.0]), prompt="0 a star", encoder=Angles())
    assert x100(inputs).series == pytest.approx((100, 50, -50), abs=1e-4)
    assert tgve(inputs).series == pytest.approx((7, 3.5, -3.5), abs=1e-5)
    assert tgve(inputs).detail["temperature"] == 7
    assert inputs.encoder.texts == ["0 a star"]
    assert clipscore(inputs).series == pytest.approx((2.5, 1.25, 0), abs=1e-6)
    assert inputs.encoder.texts[1] == PREFIX + "0 a star"


def test_clipscore_clamps_each_frame():
    features, text = directions([0.0, 180.0]), directions([0.0])[0]
    assert clipscores(features, text).tolist() == [2.5, 0]


def test_frame_accuracy_counts_frames_nearer_to_the_target_and_ties():
    features, target, source = directions([0.0, 44.0, 46.0, 90.0]), *directions([0.0, 90.0])
    assert frame_hits(features, target, source).tolist() == [1, 1, 0, 0]
    assert frame_hits(features, target, target).tolist() == [1, 1, 1, 1]
    inputs = MetricInputs(
        at_angles([0.0, 40.0, 80.0, 90.0]),
        prompt="0 target",
        source_prompt="90 source",
        encoder=Angles(),
    )
    assert accuracy(inputs).series == (1, 1, 0, 0)
    assert accuracy(inputs).value == 0.5


def test_frame_accuracy_needs_the_source_prompt():
    inputs = MetricInputs(at_angles([0.0]), prompt="a", encoder=Angles())
    with pytest.raises(NotAvailable, match="what the source shows"):
        accuracy(inputs)


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
    assert first(inputs).series == pytest.approx((cos(30), cos(90)), abs=1e-6)
    assert vbench(inputs).series[1] == pytest.approx((cos(60) + cos(90)) / 2, abs=1e-6)
    assert inputs.encoder.passes == 1


def test_a_constant_video_is_fully_consistent(encoder):
    frames = torch.rand(1, 3, 40, 40).expand(4, -1, -1, -1)
    inputs = MetricInputs(frames, frames, encoder=encoder)
    assert consecutive(inputs).value == pytest.approx(1, abs=1e-6)
    assert all_pairs(inputs).value == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("metric", [consecutive, all_pairs, first, vbench])
def test_one_frame_has_no_consistency(metric):
    one = torch.rand(1, 3, 16, 16)
    with pytest.raises(NotAvailable, match="clip has 1"):
        metric(MetricInputs(one, one, encoder=Angles()))


def test_one_frame_has_a_text_score():
    one = at_angles([60.0])
    assert cosine(MetricInputs(one, one, "a", encoder=Angles())).value == pytest.approx(0.5)


def test_no_encoder_and_no_prompt_are_told_apart():
    frames = torch.rand(2, 3, 16, 16)
    with pytest.raises(NotAvailable, match=r"needs a CLIP model.*hf download"):
        cosine(MetricInputs(frames, frames, "a star"))
    with pytest.raises(NotAvailable, match="no prompt"):
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
    pixels = prepare(images, read_preprocessing(folder))[0].permute(1, 2, 0).numpy() * STD + MEAN
    assert np.abs(pixels - expected).max() < 2 / 255


def test_an_absent_encoder_says_what_to_do(tmp_path):
    with pytest.raises(NotAvailable, match=r"no CLIP weights in .*hf download"):
        CLIPEncoder.from_folder(tmp_path)


def test_absent_preprocessing_is_not_guessed(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(NotAvailable, match="preprocessor_config"):
        CLIPEncoder.from_folder(tmp_path)


def test_half_a_checkpoint_is_not_filled_with_noise(tmp_path, folder):
    model = tiny_model()
    weights = {k: v for k, v in model.state_dict().items() if "visual_projection" not in k}
    model.save_pretrained(tmp_path, state_dict=weights)
    write_json(tmp_path / "preprocessor_config.json", PREPROCESSING)
    with pytest.raises(UserError, match="lack visual_projection"):
        CLIPEncoder.from_folder(tmp_path)


class Bomb:
    """Unpickled, it would make a file: the mark of code that ran."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_pickled_encoder_is_read_as_plain_tensors_or_not_at_all(tmp_path, folder):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path)
    write_json(tmp_path / "preprocessor_config.json", PREPROCESSING)
    weights, mark = tmp_path / "pytorch_model.bin", tmp_path / "ran"
    torch.save(tiny_model().state_dict(), weights)
    picture = torch.rand(1, 3, 40, 40)
    mine, same = (CLIPEncoder.from_folder(path) for path in (tmp_path, folder))
    assert torch.allclose(*(each.encode_images(picture) for each in (mine, same)), atol=1e-6)
    torch.save({"epoch": 3, **tiny_model().state_dict()}, weights)
    with pytest.raises(UserError, match="'epoch' is a int"):
        CLIPEncoder.from_folder(tmp_path)
    weights.write_bytes(pickle.dumps(Bomb(mark), protocol=2))
    with pytest.raises(UserError, match=r"asks for posix.system.*safetensors"):
        CLIPEncoder.from_folder(tmp_path)
    assert not mark.exists()


def test_a_cut_encoder_is_told_by_its_file(tmp_path, folder):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"model.safetensors.*holds .* bytes where"):
        CLIPEncoder.from_folder(tmp_path)


def test_an_encoder_is_found_by_folder_and_named_with_its_geometry(folder):
    assert load_encoder(str(folder)).name == folder.name
    changed = load_encoder(str(folder), "tgve")
    assert changed.name == f"{folder.name}, tgve"
    assert changed.preprocessing.squash == (480, 480)
    assert changed.temperature == pytest.approx(math.exp(changed.model.logit_scale.item()))


def test_an_encoder_that_is_not_here_comes_with_its_command():
    with pytest.raises(NotAvailable, match="hf download nobody/nothing"):
        load_encoder("nobody/nothing")


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
    with pytest.raises(Diverged, match="not finite"):
        mean_of(torch.tensor([1.0, math.nan]))
    with pytest.raises(Diverged, match="not finite"):
        MetricValue(math.inf, ())


def test_records_are_json():
    record = mean_of(torch.tensor([1.0, 2.0]), flow="exact").record()
    assert json.loads(json.dumps(record)) == {
        "value": 1.5,
        "series": [1.0, 2.0],
        "detail": {"flow": "exact"},
    }


def test_unavailable_survives_pickling():
    error = pickle.loads(pickle.dumps(NotAvailable("m", "reason", "remedy")))
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
    score = ClipScore25()
    score.update(directions([0.0, 180.0]), directions([0.0])[0])
    assert score.compute() == pytest.approx(1.25)
    hits = FrameAccuracy()
    hits.update(directions([0.0, 10.0, 80.0]), *directions([0.0, 90.0]))
    assert hits.compute() == pytest.approx(2 / 3)


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_an_accumulator_without_clips_has_no_value():
    with pytest.raises(UserError, match="no clip"):
        TextSimilarity().compute()
