"""`crossframe score` on videos whose answers are known, and what it says of those that differ."""

import csv
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter

from ablations.scoring_align import align, likeness, outlines, selections, written
from ablations.scoring_pairs import Wishes, pair_up, parse_frames, read_pair
from crossframe.cli import main
from crossframe.errors import UserError
from crossframe.video import write_frames, write_mp4
from data_manifests.submissions import Texts, find_videos, read_texts, shape_of

PLAIN = "flicker/mae,psnr"


def moving(count, seed=0, size=32, speed=1.0):
    """A smooth texture that drifts and another that stays: (count, size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    wide = gaussian_filter(rng.random((size, size + 400, 3)), (3, 3, 0), mode="wrap")
    low, high = wide.min(), wide.max()
    levels = np.round((wide - low) / (high - low) * 255).astype(np.uint8)
    return np.stack([levels[:, int(t * speed) : int(t * speed) + size] for t in range(count)])


def ruined(frames):
    """The same outlines in other colours: dark becomes light, with noise on top."""
    noise = np.random.default_rng(1).normal(0, 4, frames.shape)
    return np.clip(230 - 0.7 * frames + noise, 0, 255).astype(np.uint8)


def run(*words):
    return CliRunner().invoke(main, ["score", *map(str, words)], catch_exceptions=False)


def scores_of(*words):
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def lay(tmp_path):
    """Function (name, frames) -> a folder of pictures."""

    def made(name, frames):
        write_frames(tmp_path / name, frames)
        return tmp_path / name

    return made


# Alignment


@pytest.mark.parametrize(("start", "step", "count"), [(0, 5, 8), (3, 2, 9), (7, 1, 12)])
def test_the_excerpt_of_a_clip_is_found_even_when_its_colours_are_inverted(start, step, count):
    whole = moving(44)
    excerpt = ruined(whole[start : start + step * (count - 1) + 1 : step])
    found = align(outlines(excerpt), outlines(whole))
    assert found.frames == range(start, start + step * (count - 1) + 1, step)
    assert found.clear
    assert found.likeness > found.next_likeness


def test_another_clip_is_not_believed():
    found = align(outlines(moving(8, seed=5)), outlines(moving(40, seed=6)))
    assert not found.clear


def test_likeness_is_pearson_and_zero_for_what_stands_still():
    one, other = outlines(moving(6)), outlines(moving(6, seed=3))
    expected = np.corrcoef((one - one.mean(0)).ravel(), (other - other.mean(0)).ravel())[0, 1]
    assert likeness(one, other) == pytest.approx(expected)
    assert likeness(one, one) == pytest.approx(1)
    assert likeness(outlines(np.repeat(moving(1), 6, 0)), one) == 0


def test_every_even_selection_is_tried_once():
    short, long = np.zeros((3, 4)), np.zeros((7, 4))
    found = [tuple(frames) for frames in selections(short, long)]
    brute = [(a, b, c) for a in range(7) for b in range(a + 1, 7) for c in range(b + 1, 7)]
    assert sorted(found) == [t for t in brute if t[1] - t[0] == t[2] - t[1]]
    assert [tuple(f) for f in selections(short[:1], long)] == [(i,) for i in range(7)]


@pytest.mark.parametrize("text", ["0::5", "3:9", ":", "0:71:5"])
def test_frames_are_written_as_slices(text):
    words = [int(word) if word else None for word in text.split(":")]
    assert parse_frames("--x", text) == slice(*words)
    chosen = range(80)[parse_frames("--x", text)]
    assert range(80)[parse_frames("--x", written(chosen))] == chosen


@pytest.mark.parametrize("text", ["5", "a:b", "0:5:0", "1:2:3:4", "-3:", "1.5:"])
def test_other_texts_name_no_frames(text):
    with pytest.raises(UserError, match="names no frames"):
        parse_frames("--source-frames", text)


# Finding videos


def test_the_submission_layout_of_tgve_is_read(tmp_path, lay):
    for subset, video, kind in [("DAVIS_480p", "bear", "style"), ("youtube_480p", "cat", "object")]:
        lay(f"mine/{subset}/{video}/{kind}", moving(2))
    lay("sources/DAVIS_480p/480p_frames/bear", moving(2))
    write_mp4(tmp_path / "sources/DAVIS_480p/480p_videos/bear.mp4", moving(2), 8)
    found = find_videos(tmp_path / "mine")
    assert [(v.name, v.clip, v.kind) for v in found] == [
        ("bear/style", "bear", "style"),
        ("cat/object", "cat", "object"),
    ]
    (tmp_path / "tgve.csv").write_text(
        "Video name,Our GT caption,Style Change Caption,Object Change Caption,"
        "Background Change Caption,Multiple Changes Caption\nDAVIS,,,,,\n"
        "bear,a bear,a drawn bear,a dog,snow,all\ncat,a cat,a drawn cat,a lion,sand,all\n"
    )
    texts = read_texts(tmp_path / "tgve.csv", found)
    assert texts == {
        "bear/style": Texts("a drawn bear", "a bear"),
        "cat/object": Texts("a lion", "a cat"),
    }
    pairs = pair_up(found, find_videos(tmp_path / "sources"), texts, Wishes())
    assert pairs[0].source.path == tmp_path / "sources/DAVIS_480p/480p_frames/bear"
    assert pairs[1].source is None
    assert pairs[1].notes == ("no source is called 'cat'",)


def test_files_and_folders_are_found_in_natural_order_and_kept_apart(tmp_path, lay):
    for name in ("b10.mp4", "b9.mp4", "b9.gif"):
        write_mp4(tmp_path / "in" / name, moving(2), 8)
    lay("in/a", moving(2))
    (tmp_path / "in/notes.txt").write_text("x")
    assert [video.name for video in find_videos(tmp_path / "in")] == [
        "a",
        "b9.gif",
        "b9.mp4",
        "b10",
    ]


def test_a_gif_is_a_video(tmp_path):
    images = [Image.fromarray(frame) for frame in moving(3)]
    images[0].save(tmp_path / "x.gif", save_all=True, append_images=images[1:], duration=100)
    (video,) = find_videos(tmp_path / "x.gif")
    shape = shape_of(video.path)
    assert (shape.frames, shape.size, shape.fps) == (3, "32x32", 10)


@pytest.mark.parametrize(
    ("name", "message"), [("absent", "no such file or folder"), ("empty", "holds no video")]
)
def test_nothing_to_score_is_told(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    done = run("--edited", tmp_path / name, "--metrics", PLAIN)
    assert done.exit_code == 2
    assert message in done.output


# Pairs


def problem_of(edited, source, **wishes):
    with pytest.raises(UserError) as caught:
        pair_up(find_videos(edited), find_videos(source), {}, Wishes(**wishes))
    return str(caught.value)


def test_a_shorter_video_is_explained_and_aligned_only_when_asked(lay):
    whole = moving(41)
    edited, source = lay("edited", ruined(whole[0:36:5])), lay("source", whole)
    told = problem_of(edited, source)
    assert "the edited video has 8 frames, the source 41" in told
    assert "give --source-frames 0:36:5, or --align found" in told
    for wishes in (Wishes(align=True), Wishes(source_frames=slice(0, 36, 5))):
        (pair,) = pair_up(find_videos(edited), find_videos(source), {}, wishes)
        assert pair.source_frames == range(0, 36, 5)
        assert np.array_equal(read_pair(pair)[1], whole[0:36:5])


def test_a_longer_video_is_explained_by_its_own_frames(lay):
    whole = moving(30)
    edited, source = lay("edited", whole), lay("source", whole[4:19:2])
    assert "give --edited-frames 4:19:2" in problem_of(edited, source)
    (pair,) = pair_up(find_videos(edited), find_videos(source), {}, Wishes(align=True))
    assert pair.frames == range(4, 19, 2)
    assert np.array_equal(*read_pair(pair))


def test_an_alignment_that_does_not_stand_out_is_never_taken(lay):
    edited, source = lay("edited", moving(8, seed=5)), lay("source", moving(40, seed=6))
    for align_too in (False, True):
        told = problem_of(edited, source, align=align_too, alone=("flicker/mae",))
        assert told.startswith("edited: does not seem to follow this source: it has 8 frames of")
        assert "leave out --source, which scores flicker/mae" in told
        assert told.count("\n") == 0  # one problem, whatever else differs
    few = problem_of(lay("few", moving(2)), source)
    assert "cannot be aligned: it has 2 frames" in few


def test_every_second_frame_of_an_encoded_clip_is_found(tmp_path):
    whole = moving(24, size=64, speed=2)
    write_mp4(tmp_path / "whole.mp4", whole, 10.0)
    write_mp4(tmp_path / "half.mp4", whole[::2], 5.0)
    words = ("--edited", tmp_path / "half.mp4", "--source", tmp_path / "whole.mp4")
    told = run(*words, "--metrics", PLAIN)
    assert told.exit_code == 2
    assert "give --source-frames 0:23:2, or --align found" in told.output
    (video,) = scores_of(*words, "--metrics", PLAIN, "--align", "found")["videos"]
    assert video["frames_from"] == "found"
    assert video["source_frames"] == "0:23:2"
    assert video["metrics"]["psnr"]["value"] > 35


def test_a_selection_that_still_does_not_fit_is_told_with_one_that_does(lay):
    edited, source = lay("edited", moving(15)), lay("source", moving(80))
    told = problem_of(edited, source, source_frames=slice(0, None, 5))
    assert "15 frames of the edited video are chosen, 16 of the source" in told
    assert "--source-frames 0:71:5" in told
    assert "leaves none of the 80" in problem_of(edited, source, source_frames=slice(99, None))


def test_sizes_are_explained_and_changed_only_when_asked(lay):
    edited, source = lay("edited", moving(3)), lay("source", moving(3, size=48)[:, :, :40])
    told = problem_of(edited, source)
    assert "the edited video is 32x32 pixels, the source 40x48, of another shape" in told
    for wish, shape in {"edited": (3, 48, 40, 3), "source": (3, 32, 32, 3)}.items():
        (pair,) = pair_up(find_videos(edited), find_videos(source), {}, Wishes(resize=wish))
        assert [frames.shape for frames in read_pair(pair)] == [shape, shape]


def test_all_pairs_that_do_not_fit_are_told_at_once(tmp_path, lay):
    for name, count in {"a": 3, "b": 4, "c": 5}.items():
        lay(f"edited/{name}", moving(count))
        lay(f"source/{name}", moving(4))
    told = problem_of(tmp_path / "edited", tmp_path / "source")
    assert [line.split(":")[0] for line in told.splitlines()] == ["a", "c"]


# The command


def test_scores_are_those_of_the_definitions(tmp_path, lay):
    frames = np.full((4, 16, 16, 3), 100, np.uint8)
    steps = frames + np.array([0, 10, 0, 10], np.uint8)[:, None, None, None]
    edited, source = lay("edited", steps), lay("source", frames)
    out = tmp_path / "out"
    scores = scores_of("--edited", edited, "--source", source, "--metrics", PLAIN, "--out", out)
    (video,) = scores["videos"]
    assert video["metrics"]["flicker/mae"]["value"] == pytest.approx(10 / 255)
    assert len(video["metrics"]["flicker/mae"]["series"]) == 3
    assert scores["means"]["mean"]["flicker/mae"] == {"mean": pytest.approx(10 / 255), "n": 1}
    assert json.loads((out / "scores.json").read_text()) == scores
    lines = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert [line["metric"] for line in lines] == PLAIN.split(",")
    assert "Mean absolute difference" in (out / "scores.md").read_text()
    assert (out / "per_frame.csv").read_text().count("flicker/mae") == 3


def test_the_sources_and_their_frozen_frames_stand_beside_for_scale(tmp_path, lay):
    moved = moving(6)
    for name in ("a", "b"):
        lay(f"edited/{name}", np.repeat(moved[:1], 6, 0))
        lay(f"source/{name}", moved)
    words = ("--edited", tmp_path / "edited", "--source", tmp_path / "source")
    words += ("--metrics", "flicker/mae,psnr,motion/ratio", "--fps", "8")
    scores = scores_of(*words)
    source, frozen = (scores["sentinels"][f"({kind})"] for kind in ("source", "frozen"))
    steps = np.abs(np.diff(moved.astype(float) / 255, axis=0)).mean()
    assert source["flicker/mae"]["mean"] == pytest.approx(steps, rel=1e-5)
    assert (source["psnr"]["mean"], source["psnr"]["n"]) == (100, 2)
    assert frozen["flicker/mae"]["mean"] == 0
    assert scores["means"]["mean"]["flicker/mae"]["n"] == 2
    told = run(*words).output
    assert "(frozen)" in told
    assert "warning: the videos move less than their sources (motion/ratio 0.00 on" in told
    bare = run(*words[:4], "--metrics", "flicker/mae,psnr", "--no-sentinels").output
    assert "(frozen)" not in bare
    assert "motion was not measured; a frozen video gains in flicker/mae" in bare


def test_means_are_over_videos_and_by_kind(lay, tmp_path):
    for kind, step in {"style": 10, "object": 20}.items():
        frames = np.zeros((2, 16, 16, 3), np.uint8)
        frames[1] += step
        lay(f"in/DAVIS_480p/bear/{kind}", frames)
    means = scores_of("--edited", tmp_path / "in", "--metrics", "flicker/mae")["means"]
    assert {label: entry["flicker/mae"]["mean"] * 255 for label, entry in means.items()} == {
        "mean": pytest.approx(15),
        "mean of object": pytest.approx(20),
        "mean of style": pytest.approx(10),
    }


def test_what_is_not_there_makes_metrics_unavailable_and_stops_nothing(lay, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    words = ("--edited", lay("edited", moving(3)), "--preset", "tgve", "--metrics", PLAIN)
    done = run(*words, "--prompt", "a red cat")
    assert done.exit_code == 0
    assert "hf download openai/clip-vit-large-patch14" in done.output
    assert "hf download yuvalkirstain/PickScore_v1" in done.output
    assert "psnr: unavailable (1 of 1 videos): psnr: compares with the source" in done.output


def test_the_miniature_is_used_only_when_it_is_named(lay):
    words = ("--edited", lay("edited", moving(3)), "--metrics", "clip_frame/consecutive")
    scores = scores_of(*words, "--encoder", "miniature")
    entry = scores["videos"][0]["metrics"]["clip_frame/consecutive"]
    assert entry["value"] <= 1
    assert scores["settings"]["encoder"] == "miniature"


def test_a_source_that_no_metric_looks_at_need_not_fit(lay):
    edited, source = lay("edited", moving(3)), lay("source", moving(7, size=16))
    scores = scores_of("--edited", edited, "--source", source, "--metrics", "flicker/mae")
    assert scores["videos"][0]["source"] is None


def test_a_video_that_cannot_be_read_is_told_and_others_are_scored(tmp_path, lay):
    lay("in/good", moving(3))
    (lay("in/bad", moving(3)) / "0001.png").write_bytes(b"no picture")
    done = run("--edited", tmp_path / "in", "--metrics", "flicker/mae")
    assert done.exit_code == 1
    assert "bad: not scored" in done.output
    assert "(n=1)" in done.output


def test_prompts_come_from_a_table(tmp_path, lay):
    lay("in/a", moving(2)), lay("in/b", moving(2))
    table = tmp_path / "p.csv"
    table.write_text("video,prompt,source_prompt\na,a red cat,a cat\nb.mp4,x,\n")
    with pytest.raises(UserError, match="no video is called"):
        read_texts(table, find_videos(tmp_path / "in"))
    table.write_text("video,prompt\na,a red cat\n")
    assert read_texts(table, find_videos(tmp_path / "in")) == {"a": Texts("a red cat")}
    table.write_text("name,text\n")
    with pytest.raises(UserError, match="has columns name, text"):
        read_texts(table, find_videos(tmp_path / "in"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no metric is named"),
        (["--preset", "tvge"], "did you mean 'tgve'?"),
        (["--metrics", "flicker/may"], "did you mean 'flicker/mae'?"),
        (["--metrics", PLAIN, "--prompt", "x", "--prompts", "x.csv"], "cannot be combined"),
        (["--metrics", PLAIN, "--align", "found", "--source-frames", "0:3"], "keep one"),
    ],
)
def test_mistakes_are_told_before_anything_is_scored(lay, words, message):
    done = run("--edited", lay("edited", moving(2)), *words)
    assert done.exit_code == 2
    assert message in done.output


# A published result


def footage(variable="CROSSFRAME_FOOTAGE"):
    """The folder that holds published/ and clips/; skips without it."""
    folder = Path(os.environ.get(variable, ""))
    names = ("published/controlvideo-canny-car-turn.gif", "clips/car-turn.mp4")
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no folder with {' and '.join(names)}")
    paths = [folder / name for name in names]
    for path in paths:
        if not path.is_file():
            pytest.skip(f"{path} is not there")
    return paths


def test_the_published_gif_of_controlvideo_follows_no_part_of_this_clip():
    edited, source = footage()
    done = run("--edited", edited, "--source", source, "--metrics", "psnr")
    assert done.exit_code == 2
    assert done.output.startswith("1 problem:")
    assert "it has 15 frames of 512x512 pixels, the source 80 of 480x480" in done.output
    assert "leave out --source" in done.output
    scores = scores_of(
        *("--edited", edited, "--source", source, "--metrics", "flicker/mae,psnr"),
        *("--source-frames", "0:71:5", "--resize", "edited"),
    )
    (video,) = scores["videos"]
    assert video["scored_size"] == "480x480"
    assert video["likeness"] < 0.12
    series = video["metrics"]["flicker/mae"]["series"]
    assert len(list(pairwise(range(15)))) == len(series)
