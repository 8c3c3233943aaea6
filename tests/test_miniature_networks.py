from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crossframe.errors import UserError
from methods.conditions import canny
from miniature import clip, controlnet, judge, train, unet, vae
from miniature.check import agreement, edge_f1
from miniature.data import later_pictures, pictures
from miniature.world import covered, edges, render_frames


@pytest.fixture(scope="module")
def text_model():
    return clip.build().eval()


@pytest.fixture(scope="module")
def noising(text_model):
    torch.manual_seed(0)
    return unet.Noising(torch.randn(6, 4, 16, 16), text_model)


@torch.no_grad()
def test_the_autoencoder_starts_as_a_block_average() -> None:
    images, _ = pictures(0, 4, 64)
    x = images * 2 - 1
    net = vae.build().eval()
    posterior = net.encode(x).latent_dist
    assert posterior.mean.shape == (4, 4, 8, 8)
    y = net.decode(posterior.mean).sample
    block = F.interpolate(F.avg_pool2d(x, 8), scale_factor=8)
    assert y.isfinite().all()
    # The two output norms set gain and offset of every channel: compare up to these.
    deviation, wanted = (v - v.mean((2, 3), keepdim=True) for v in (y, block))
    overlap = (deviation * wanted).sum((2, 3), keepdim=True)
    fitted = block.mean((2, 3), keepdim=True) + deviation * (
        overlap / deviation.pow(2).sum((2, 3), keepdim=True)
    )
    correlation = (
        overlap.flatten() / (deviation.norm(dim=(2, 3)) * wanted.norm(dim=(2, 3))).flatten()
    )
    assert correlation.min() > 0.9
    assert F.l1_loss(fitted, block) < 0.2 * wanted.abs().mean()
    grey = x.mean((2, 3), keepdim=True).expand_as(x)
    assert F.l1_loss(fitted, x) < F.l1_loss(grey, x)
    assert posterior.std.max() < 0.2


def test_autoencoder_losses_are_finite_and_have_gradients() -> None:
    net = vae.build()
    losses = vae.losses(net, 0)
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values())
    assert net.encoder.conv_in.weight.grad.abs().sum() > 0


def test_tokens_are_words() -> None:
    tokenizer = clip.build_tokenizer()
    caption = "an orange star and a blue ring on a dotted background"
    batch = clip.tokens([caption, "a red elephant", ""])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.shape == mask.shape == (3, 16)
    words = [tokenizer.convert_ids_to_tokens(row.tolist()) for row in ids]
    assert words[0] == ["<start>", *caption.split(), "<end>", *["<pad>"] * 3]
    assert words[1][:5] == ["<start>", "a", "red", "<unknown>", "<end>"]
    assert words[2] == ["<start>", "<end>", *["<pad>"] * 14]
    assert mask.sum(1).tolist() == [13, 5, 2]
    assert clip.tokens([caption.upper()])["input_ids"].equal(ids[:1])
    assert clip.tokens(["a " * 40])["input_ids"].shape == (1, 16)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


@torch.no_grad()
def test_text_states_and_the_joint_space(text_model) -> None:
    states = unet.TextStates(text_model)
    first = states(["a red star on a wavy background", ""])
    assert first.shape == (2, 16, clip.WIDTH)
    torch.testing.assert_close(states(["", "a red star on a wavy background"]), first.flip(0))
    assert not torch.allclose(first[0], first[1])
    pixels = torch.zeros(3, 3, clip.IMAGE_SIZE, clip.IMAGE_SIZE)
    assert text_model(pixel_values=pixels, **clip.tokens(["a", "an"])).logits_per_image.shape == (
        3,
        2,
    )


def test_contrastive_loss_starts_at_chance(text_model) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        losses = clip.losses(text_model, 0, 16)
    assert sum(losses.values()) == pytest.approx(np.log(16), rel=0.5)


def test_appearance_is_told_apart_by_another_frame(text_model) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        losses = clip.losses(text_model, 0, 16, appearance=True)
    assert set(losses) == {"image", "text", "appearance"}
    # Two views of each picture: the captions are matched from 32 pictures, 16 against 16.
    assert float(losses["image"]) == pytest.approx(np.log(16) / 2, rel=0.5)
    assert float(losses["text"]) == pytest.approx(np.log(32) / 2, rel=0.5)
    assert 0 < float(losses["appearance"]) < 2 * clip.APPEARANCE_WEIGHT * np.log(16)


def test_words_are_told_apart_by_their_own_states(text_model) -> None:
    with torch.no_grad():
        words = clip.losses(text_model, 0, 16, words=True)["words"]
    # Before training a state points nowhere near its word: as good as chance among all words.
    assert float(words) == pytest.approx(np.log(len(clip.SPECIAL) + len(clip.WORDS)), rel=0.5)


def test_another_frame_shows_the_same_scene_at_another_time() -> None:
    now, _ = pictures(3, 4, 32)
    later = later_pictures(3, 4, 32)
    assert later.shape == now.shape
    apart = (now[:, None] - later[None]).abs().mean((2, 3, 4))
    assert apart.argmin(1).tolist() == [0, 1, 2, 3]
    assert (apart.diagonal() > 0).all()
    torch.testing.assert_close(later_pictures(4, 1, 32), later[1:2])


@torch.no_grad()
def test_the_judge_names_three_attributes() -> None:
    net = judge.Judge().eval()
    images, scenes = pictures(0, 5, 64, sprites=1)
    logits = net(images)
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "colour": (5, 8),
        "shape": (5, 6),
        "pattern": (5, 4),
    }
    larger = F.interpolate(images, scale_factor=2)
    torch.testing.assert_close(net(larger)["shape"], logits["shape"])
    for name, numbers in judge.answers(scenes).items():
        named = [judge.HEADS[name][n] for n in numbers.tolist()]
        assert all(word in scene.caption for word, scene in zip(named, scenes, strict=True))


def test_agreement_counts_right_answers() -> None:
    _, scenes = pictures(0, 4, 64, sprites=1)
    right = {
        name: F.one_hot(numbers, len(judge.HEADS[name])).float()
        for name, numbers in judge.answers(scenes).items()
    }
    right["shape"][0] = right["shape"][0].roll(1)
    found = agreement(lambda images: right, torch.zeros(4, 3, 64, 64), scenes)
    assert found == {"colour": 1.0, "shape": 0.75, "pattern": 1.0}


@pytest.mark.parametrize("kind", ["edges", "depth"])
def test_conditions_are_maps_of_the_training_pictures(kind: str) -> None:
    conditions = controlnet.Conditions(kind, 12)
    maps = conditions([3, 1, 3])
    assert maps.shape == (3, 3, 128, 128)
    assert 0 <= float(maps.min()) < float(maps.max()) <= 1
    assert torch.equal(maps[0], maps[2])
    assert torch.equal(maps[:, 0], maps[:, 2])
    assert torch.equal(controlnet.Conditions(kind, 4)([1])[0], maps[1])
    if kind == "edges":
        assert set(maps.unique().tolist()) == {0.0, 1.0}


def test_edge_maps_are_of_three_kinds() -> None:
    frames = controlnet.Conditions("edges", 30).frames
    kinds = set()
    for number, (scene, time) in enumerate(frames):
        found, t = controlnet.edge_map(scene, time, number), np.array([time])
        candidates = {
            "exact": edges(scene, t)[0],
            "outline": edges(scene, t, patterned=False)[0],
            "canny": canny(render_frames(scene, t))[0],
        }
        kinds |= {name for name, other in candidates.items() if np.array_equal(found, other)}
        if len(kinds) == 3:
            break
    assert kinds == {"exact", "outline", "canny"}


@torch.no_grad()
def test_the_controlnet_starts_without_effect(text_model) -> None:
    net = unet.build().eval()
    assert net.config.cross_attention_dim == clip.WIDTH
    control = controlnet.build(net).eval()
    x, text = torch.randn(2, 4, 16, 16), torch.randn(2, 16, clip.WIDTH)
    down, mid = control(x, 10, text, torch.rand(2, 3, 128, 128), return_dict=False)
    assert all(not residual.any() for residual in (*down, mid))
    assert not net(x, 10, text).sample.any()  # its own output starts at zero as well


def test_noising_mixes_signal_and_noise_by_the_schedule(noising) -> None:
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.cumprod(1 - beta)
    np.testing.assert_allclose(noising.signal.cpu(), signal, rtol=1e-4)
    torch.manual_seed(3)
    draw = noising.draw(16)
    assert draw.text.shape == (16, 16, clip.WIDTH)
    for n, x, step, e in zip(draw.numbers, draw.noised, draw.t, draw.noise, strict=True):
        level = signal[int(step)]
        expected = level**0.5 * noising.latents[n] + (1 - level) ** 0.5 * e
        torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-4)
    torch.manual_seed(3)
    assert torch.equal(noising.draw(16).noised, draw.noised)


def test_noising_drops_a_tenth_of_the_prompts(noising) -> None:
    torch.manual_seed(0)
    empty = noising.text([""])[0]
    draw = noising.draw(2000)
    dropped = (draw.text == empty).flatten(1).all(1)
    assert float(dropped.float().mean()) == pytest.approx(0.1, abs=0.025)
    kept = int((~dropped).nonzero()[0])
    scene, _ = noising.frames[draw.numbers[kept]]
    assert torch.equal(draw.text[kept], noising.text([scene.caption])[0])


def test_the_noise_loss_is_weighted_by_the_capped_signal_to_noise_ratio(noising) -> None:
    t = torch.tensor([1, 500, 999])
    noise = torch.zeros(3, 4, 16, 16)
    predicted = noise + torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]
    snr = (noising.signal / (1 - noising.signal))[t].tolist()
    assert snr[0] > 5 > snr[1]
    expected = (5 / snr[0] * 1 + 4 + 9) / 3
    draw = unet.Draw([0, 1, 2], predicted, noise, t, noise)
    assert float(noising.loss(predicted, draw)) == pytest.approx(expected, rel=1e-5)


def test_focused_training_weighs_sprites_and_middle_timesteps(text_model) -> None:
    noising = unet.Noising(torch.randn(6, 4, 16, 16), text_model, focused=True)
    torch.manual_seed(0)
    draw = noising.draw(4000)
    # The median of a logit-normal density is that of the normal one, in the middle.
    assert draw.t.double().quantile(0.5) == pytest.approx(500, abs=20)
    within = ((draw.t > 269) & (draw.t < 731)).double().mean()
    assert within == pytest.approx(0.6827, abs=0.02), "one standard deviation of the logit"
    scene, time = noising.frames[3]
    seen = covered(scene, np.array([time]), 16)[0]
    at = tuple(np.argwhere(seen)[0])
    far = tuple(np.argwhere(~seen)[np.abs(np.argwhere(~seen) - at).sum(1).argmax()])
    zeros = torch.zeros(1, 4, 16, 16)

    def loss_of_an_error_at(place) -> float:
        predicted = zeros.clone()
        predicted[0, :, place[0], place[1]] = 1.0
        return float(
            noising.loss(predicted, unet.Draw([3], zeros, zeros, torch.tensor([500]), zeros))
        )

    ratio = loss_of_an_error_at(at) / loss_of_an_error_at(far)
    assert ratio == pytest.approx(unet.SPRITE_WEIGHT)
    flat = torch.ones(1, 4, 16, 16)
    even = noising.loss(flat, unet.Draw([3], zeros, zeros, torch.tensor([500]), zeros))
    assert float(even) == pytest.approx(1.0), "weights are one on average"


def lines(*columns: int) -> np.ndarray:
    made = np.zeros((1, 32, 32), np.float32)
    made[:, :, list(columns)] = 1
    return made


def test_edge_f1_has_its_closed_forms() -> None:
    given = lines(8, 20)
    assert edge_f1(given, given) == pytest.approx(1)
    assert edge_f1(lines(10, 22), given) == pytest.approx(1)
    assert edge_f1(lines(11, 23), given) == 0
    assert edge_f1(lines(8), given) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert edge_f1(lines(8, 14, 20, 26), given) == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert edge_f1(lines(11, 23), given, reach=3) == pytest.approx(1)
    assert edge_f1(np.zeros_like(given), given) == 0


def test_training_an_unknown_network_is_explained() -> None:
    with pytest.raises(UserError) as error:
        train.main(["vea", "unet"])
    assert "vea" in str(error.value)
    assert "controlnet-edges" in str(error.value)
