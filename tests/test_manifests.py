import functools
import http.server
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydantic import ValidationError

from crossframe.cli import main
from crossframe.errors import UserError
from crossframe.keys import array_sha256, file_sha256
from data_manifests import checking, datasets, fetching, states
from data_manifests.clips import SOURCES, ClipRequest, expand_refs, load_clip
from data_manifests.manifest import (
    FOLDER,
    Manifest,
    manifest,
    manifest_ids,
    read_manifest,
)
from data_manifests.prompts import TGVE_EDITS, read_tgve, read_v2vbench

IDS = manifest_ids()
TGVE_COLUMNS = ["Video name", "Our GT caption", *TGVE_EDITS.values()]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFRAME_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def write_frames(folder, count, size=(16, 12), suffix=".jpg"):
    folder.mkdir(parents=True)
    for index in range(count):
        level = (20 + 10 * index,) * 3
        Image.new("RGB", size, level).save(folder / f"{index:05d}{suffix}")


def facts(**changes):
    base = {
        "version": 1,
        "id": "toy",
        "prefix": "toy",
        "title": "Toy",
        "kind": "fetched",
        "licence": "CC0-1.0",
        "redistributable": "yes",
        "source": {"page": "https://toy.example", "citation": "nobody"},
        "place": "put the zip there",
        "layout": ["toy/frames/{clip}"],
    }
    return Manifest.model_validate(base | changes)


# --- manifests ---
@pytest.mark.parametrize("name", IDS)
def test_every_manifest_is_read_and_can_be_referred_to(name):
    read = manifest(name)
    assert read.id == name
    assert read.prefix in SOURCES
    assert manifest(read.prefix) == read
    if read.uses:
        assert set(read.clips) <= set(manifest(read.uses).clips)


def test_every_source_but_files_has_a_manifest():
    assert {manifest(name).prefix for name in IDS} == set(SOURCES.entries) - {"file"}


def test_davis_is_as_its_toolkit_counts_it():
    clips = manifest("davis2017").clips
    counts = {
        split: [c.frames for c in clips.values() if c.group == split] for split in ("train", "val")
    }
    assert {split: (len(found), sum(found)) for split, found in counts.items()} == {
        "train": (60, 4209),
        "val": (30, 1999),
    }


def test_controlvideo_is_25_clips_of_davis_with_five_prompts_each():
    listed = manifest("controlvideo25").clips
    davis = manifest("davis2017").clips
    assert len(listed) == 25
    assert sum(clip.frames for clip in listed.values()) == 1773
    assert all(davis[name].frames == clip.frames for name, clip in listed.items())
    prompts = [prompt for clip in listed.values() for prompt in clip.edits.values()]
    assert len(set(prompts)) == 125
    assert all(clip.caption for clip in listed.values())


def test_tgve_is_76_clips_and_ships_no_prompt():
    clips = manifest("tgve2023").clips.values()
    frames = {}
    for clip in clips:
        frames.setdefault(clip.group, []).append(clip.frames)
        assert not clip.caption
        assert not clip.edits
    assert {name: (len(n), set(n)) for name, n in frames.items()} == {
        "DAVIS_480p": (16, {32}),
        "youtube_480p": (23, {128}),
        "videvo_480p": (37, {32}),
    }


def test_nothing_that_may_not_be_passed_on_is_shipped():
    """The package holds texts only, whatever the licences say."""
    assert {path.suffix for path in FOLDER.iterdir()} == {".yaml"}


def test_a_manifest_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        manifest("photos").licence = "mine"


def test_a_bad_manifest_tells_everything_wrong(tmp_path):
    text = (FOLDER / "hdtf.yaml").read_text(encoding="utf-8")
    path = tmp_path / "x.yaml"
    path.write_text(
        text.replace("own copy", "borrowed")
        + "fils: []\nfiles: [{name: a, bytes: 0, sha256: 00}]\n"
    )
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    places = {problem.where.removeprefix(f"{path}: ") for problem in caught.value.problems}
    assert places == {"kind", "fils", "files.0.bytes", "files.0.sha256"}
    path.write_text("a: [1\nb: 2")
    with pytest.raises(UserError, match=r"x\.yaml:2:2: not valid YAML"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"clips": {"a": {"file": "b.png"}}}, "'b.png' is not among files"),
        ({"clips": {"a": {"decoded": {"pan": "0" * 64}}}}, "no variant is called"),
        ({"files": [{"name": "a", "bytes": 1, "sha256": "0" * 64, "unpack": True}]}, "needs a url"),
    ],
)
def test_a_manifest_agrees_with_itself(changes, what):
    with pytest.raises(ValidationError, match=what):
        facts(**changes)


def test_an_unknown_set_is_an_error():
    with pytest.raises(UserError, match=r"'davis2016'.*did you mean 'davis2017'"):
        manifest("davis2016")


# --- clips of data sets ---
def test_a_sequence_of_davis_is_read_from_its_folder(root):
    write_frames(root / "davis2017/DAVIS/JPEGImages/480p/bear", 6)
    clip = load_clip(ClipRequest("davis:bear", frames=3, size=12, start=1, stride=2))
    assert (clip.id, clip.fps, clip.caption, clip.truth) == ("davis:bear", 12, "", None)
    assert np.abs(clip.frames.mean((1, 2, 3)) - [30, 50, 70]).max() < 2


@pytest.fixture
def davis(root):
    """Two sequences as DAVIS's archive holds them: jpegs, palette masks, lists; wide frames."""
    tree, made = root / "davis2017/DAVIS", {}
    for name, width in (("bear", 86), ("bike-packing", 92)):
        for folder in ("JPEGImages", "Annotations"):
            (tree / folder / "480p" / name).mkdir(parents=True)
        noise = np.random.default_rng(width).integers(0, 256, (6, 6, width // 8 + 1, 3), np.uint8)
        for index, small in enumerate(noise):
            picture = Image.fromarray(small).resize((width, 48), Image.Resampling.BICUBIC)
            path = tree / f"JPEGImages/480p/{name}/{index:05d}.jpg"
            picture.save(path, quality=95)
            made[name, index] = np.asarray(Image.open(path))
            mask = Image.new("P", (width, 48))
            mask.putpalette([0, 0, 0, 128, 0, 0])
            mask.save(tree / f"Annotations/480p/{name}/{index:05d}.png")
    for year, names in (("2016", "bear"), ("2017", "bear\nbike-packing")):
        (tree / f"ImageSets/{year}").mkdir(parents=True)
        (tree / f"ImageSets/{year}/train.txt").write_text(names + "\n")
    return made


@pytest.mark.parametrize(("name", "width"), [("bear", 86), ("bike-packing", 92)])
def test_davis_gives_the_middle_square_of_its_jpegs_and_nothing_else(davis, name, width):
    clip = load_clip(ClipRequest(f"davis:{name}", frames=3, size=48, stride=2))
    left = (width - 48) // 2
    expected = np.stack([davis[name, index][:, left : left + 48] for index in (0, 2, 4)])
    assert np.array_equal(clip.frames, expected)
    assert clip.sha256 == array_sha256(expected)
    assert (clip.fps, clip.truth) == (12, None)


def test_davis_refuses_more_frames_than_there_are_and_counts_what_is_here(davis):
    with pytest.raises(UserError, match=r"bear.*6 frames"):
        load_clip(ClipRequest("davis:bear", frames=7, size=48))
    with pytest.raises(UserError, match=r"davis:camel: not found in .*JPEGImages/480p/camel"):
        load_clip(ClipRequest("davis:camel", frames=1, size=48))
    assert datasets.present(manifest("davis")) == 2


def write_masks(folder, frames):
    """Numbered masks with a palette, as DAVIS publishes them."""
    folder.mkdir(parents=True)
    for index, levels in enumerate(frames):
        image = Image.fromarray(levels).convert("P")
        image.putdata(levels.ravel().tolist())
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *[7] * 759])
        image.save(folder / f"{index:05d}.png")


def test_objects_of_davis_are_read_where_they_are_placed(root):
    tree = root / "davis2017/DAVIS"
    write_frames(tree / "JPEGImages/480p/cows", 4, (20, 12))
    request = ClipRequest("davis:cows", frames=2, size=12, start=1, stride=2)
    bare = load_clip(request)
    assert bare.masks is None
    # A square that moves by two columns a frame, a second object in its corner, a border unjudged.
    levels = np.zeros((4, 12, 20), np.uint8)
    for index, frame in enumerate(levels):
        frame[2:6, 4 + 2 * index : 8 + 2 * index] = 1
        frame[2:4, 4 + 2 * index : 6 + 2 * index] = 2
        frame[:, 0], frame[11] = 255, 255
    write_masks(tree / "Annotations/480p/cows", levels)
    for ref in ("davis:cows", "controlvideo:cows"):
        clip = load_clip(replace(request, ref=ref))
        square = levels[1::2, :, 4:16]
        assert clip.masks.shape == (2, 2, 12, 12)
        np.testing.assert_array_equal(clip.masks[:, 0], square == 1)
        np.testing.assert_array_equal(clip.masks[:, 1], square == 2)
        assert clip.sha256 == bare.sha256
    half = load_clip(replace(request, size=6)).masks
    blocks = (levels[1::2, :, 4:16] == 1).reshape(2, 6, 2, 6, 2).mean((2, 4))
    np.testing.assert_array_equal(half[:, 0], blocks >= 0.5)
    before = states.clip_state("davis", "cows")
    (tree / "Annotations/480p/cows/00003.png").unlink()
    assert states.clip_state("davis", "cows") != before
    with pytest.raises(UserError, match="holds 3 masks, the clip has 4 frames"):
        load_clip(request)
    Image.new("RGB", (20, 12)).save(tree / "Annotations/480p/cows/00003.png")
    with pytest.raises(UserError, match=r"00003\.png: is a picture of mode RGB"):
        load_clip(request)


def test_controlvideo_reads_the_frames_of_davis_and_its_own_prompts(root):
    write_frames(root / "davis2017/DAVIS/JPEGImages/480p/cows", 2)
    clip = load_clip(ClipRequest("controlvideo:cows", frames=2, size=8))
    assert clip.caption == "a brown cow grazing on a meadow"
    assert set(clip.edits) == {"style", "object", "background", "light", "multiple"}
    assert clip.fps == 24


def test_a_users_own_prompts_come_first(root):
    write_frames(root / "davis2017/DAVIS/JPEGImages/480p/cows", 2)
    (root / "controlvideo25").mkdir()
    notes = "cows: {caption: theirs, edits: {first: one}}\n"
    (root / "controlvideo25/prompts.yaml").write_text(notes)
    clip = load_clip(ClipRequest("controlvideo:cows", frames=1, size=8))
    assert (clip.caption, dict(clip.edits)) == ("theirs", {"first": "one"})


def test_names_that_a_manifest_lists_need_no_data(tmp_path):
    assert len(expand_refs(["davis:*"], tmp_path)) == 90
    assert expand_refs(["davis:car-*"], tmp_path) == [
        f"davis:car-{name}" for name in ("roundabout", "shadow", "turn")
    ]
    assert expand_refs(["v2vbench:*"], tmp_path) == ["v2vbench:*"]


def test_names_are_found_in_a_users_copy(root, tmp_path):
    write_frames(root / "v2vbench/frames/hike", 2, suffix=".png")
    write_frames(root / "v2vbench/frames/bear", 2, suffix=".png")
    assert expand_refs(["v2vbench:*"], tmp_path) == ["v2vbench:bear", "v2vbench:hike"]


def test_videos_of_a_users_copy_are_found_below_their_category(root, clip_mp4, tmp_path):
    path = root / "balancecc/Result/Animal/cat.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(clip_mp4.read_bytes())
    assert expand_refs(["balancecc:*"], tmp_path) == ["balancecc:cat"]
    assert load_clip(ClipRequest("balancecc:cat", frames=2, size=16)).fps == 10


def test_missing_data_tells_source_size_licence_and_place(root):
    with pytest.raises(UserError) as caught:
        load_clip(ClipRequest("davis:bear"))
    (line,) = str(caught.value).splitlines()
    for part in (
        "DAVIS-2017-trainval-480p.zip: is not here: 832,766,765 bytes",
        "sha256 e3d0b5b77c3d031b000a19e0e25e3e2cac65d183755601bc2cf066df1a2aa492",
        "BSD-3-Clause",
        "https://data.vision.ee.ethz.ch/",
        "crossframe clips fetch davis2017",
        str(root / "davis2017"),
    ):
        assert part in line
    with pytest.raises(UserError) as other:
        load_clip(ClipRequest("controlvideo:bus"))
    assert str(other.value) == line


def test_an_absent_copy_tells_how_to_place_it(root):
    with pytest.raises(UserError, match=r"tgve2023: is not here: .*76 clips.*unpack loveu-tgve"):
        load_clip(ClipRequest("tgve:stunt"))


def test_an_unknown_clip_is_told_from_one_that_is_not_here(root):
    write_frames(root / "davis2017/DAVIS/JPEGImages/480p/bear", 2)
    with pytest.raises(UserError, match=r"no clip of davis2017 is called 'bera'.*'bear'\?"):
        load_clip(ClipRequest("davis:bera"))
    with pytest.raises(UserError, match=r"davis:bus: not found in .*480p/bus"):
        load_clip(ClipRequest("davis:bus"))


@pytest.mark.parametrize("name", ["../../etc", "/etc"])
def test_a_name_cannot_lead_out_of_the_set(root, name):
    write_frames(root / "v2vbench/frames/hike", 1)
    with pytest.raises(UserError, match="leads out of"):
        load_clip(ClipRequest(f"v2vbench:{name}"))


# --- a user's copy of TGVE ---
def tgve_row(name, caption="a man", edits=("s", "o", "b", "m")):
    return ",".join([name, caption, *edits])


@pytest.fixture
def tgve(root):
    """A small copy: two frame folders, one video, and a table with headings between the clips."""
    folder = root / "tgve2023"
    write_frames(folder / "DAVIS_480p/480p_frames/stunt", 4)
    write_frames(folder / "videvo_480p/480p_frames/swans", 4)
    lines = [
        ",".join(TGVE_COLUMNS),
        "DAVIS Videos:,,,,,",
        tgve_row("stunt", '"a man, jumping"', ("in oil", "a bear", "on Mars", "a bear on Mars")),
        ",,,,,",
        "Videvo Videos:,,,,,",
        tgve_row("swans ", "two swans"),
    ]
    (folder / "LOVEU-TGVE-2023_Dataset.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return folder


def test_tgve_gives_its_caption_and_four_prompts(tgve):
    clip = load_clip(ClipRequest("tgve:stunt", frames=2, size=8, stride=2))
    assert clip.caption == "a man, jumping"
    assert clip.edits == {
        "style": "in oil",
        "object": "a bear",
        "background": "on Mars",
        "multiple": "a bear on Mars",
    }
    assert np.abs(clip.frames.mean((1, 2, 3)) - [20, 40]).max() < 2
    assert load_clip(ClipRequest("tgve:swans", frames=1, size=8)).caption == "two swans"


def test_tgve_videos_stand_in_for_frame_folders(tgve, clip_mp4):
    (tgve / "youtube_480p/480p_videos").mkdir(parents=True)
    (tgve / "youtube_480p/480p_videos/salsa.mp4").write_bytes(clip_mp4.read_bytes())
    clip = load_clip(ClipRequest("tgve:salsa", frames=2, size=8))
    assert (clip.fps, clip.caption) == (10, "")


def test_a_table_that_changes_is_read_again(tgve):
    path = tgve / "LOVEU-TGVE-2023_Dataset.csv"
    assert load_clip(ClipRequest("tgve:swans", frames=1, size=8)).caption == "two swans"
    path.write_text(path.read_text(encoding="utf-8").replace("two swans", "three swans and more"))
    assert load_clip(ClipRequest("tgve:swans", frames=1, size=8)).caption == "three swans and more"


def test_a_bad_table_tells_everything_wrong(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Video name,Our GT caption,Style Change Caption\nstunt,a man,in oil\n")
    with pytest.raises(UserError) as caught:
        read_tgve(path)
    assert [p.what for p in caught.value.problems] == [
        f"has no column {column!r}" for column in list(TGVE_EDITS.values())[1:]
    ]
    rows = [tgve_row("stunt", edits=("s", "", "b", "")), tgve_row("swans")]
    path.write_text("\n".join([",".join(TGVE_COLUMNS), *rows]))
    with pytest.raises(UserError) as caught:
        read_tgve(path)
    assert [p.where for p in caught.value.problems] == [f"{path}:2"] * 2
    with pytest.raises(UserError, match="no such file"):
        read_tgve(tmp_path / "none.csv")
    path.write_bytes(b"Video name\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_tgve(path)


def test_v2vbench_prompts_are_numbered(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data:\n- video_id: hike\n  edit:\n  - prompt: one\n  - prompt: two\n")
    assert read_v2vbench(path)["hike"].edits == {"edit0": "one", "edit1": "two"}
    path.write_text("data:\n- {edit: []}\n- {video_id: a, edit: [{text: b}]}\n")
    with pytest.raises(UserError) as caught:
        read_v2vbench(path)
    assert [p.where for p in caught.value.problems] == [
        f"{path}: data[0]",
        f"{path}: data[1].edit",
    ]


# --- downloads ---
class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one body; understands ranges if told to, and notes what was asked for."""

    def __init__(self, body, ranges, asked, *arguments):
        self.body, self.ranges, self.asked = body, ranges, asked
        super().__init__(*arguments)

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        self.wfile.write(self.body[start:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    """Start servers on this machine; each returns its address and the ranges asked for."""
    servers = []

    def start(body, ranges=True):
        asked = []
        handler = functools.partial(Handler, body, ranges, asked)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/toy.zip", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def toy_zip(tmp_path):
    write_frames(tmp_path / "pictures/a", 3)
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for picture in sorted((tmp_path / "pictures/a").iterdir()):
            archive.write(picture, f"frames/a/{picture.name}")
    return path


def toy(url, archive, **changes):
    file = {
        "name": "toy.zip",
        "url": url,
        "bytes": archive.stat().st_size,
        "sha256": file_sha256(archive),
        "unpack": True,
    }
    base = {"files": [file], "clips": {"a": {"frames": 3}}, "transform": {"frames": 3, "size": 8}}
    return facts(**base | changes)


def quiet(name, have, total):
    pass


def test_a_set_is_downloaded_checked_and_unpacked(root, serve, toy_zip):
    url, asked = serve(toy_zip.read_bytes())
    made = toy(url, toy_zip)
    told = []
    assert list(fetching.fetch(made, lambda *news: told.append(news))) == []
    assert datasets.find_clip(made, "a") == root / "toy/toy/frames/a"
    assert told[-1] == ("toy.zip", toy_zip.stat().st_size, toy_zip.stat().st_size)
    assert list(fetching.fetch(made, quiet)) == []
    assert asked == [None]
    assert [finding.wrong for finding in checking.verify(made)] == ["", ""]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_stopped(root, serve, toy_zip, ranges):
    url, asked = serve(toy_zip.read_bytes(), ranges)
    made = toy(url, toy_zip)
    (root / "toy").mkdir(parents=True)
    (root / "toy/toy.zip.part").write_bytes(toy_zip.read_bytes()[:100])
    assert list(fetching.fetch(made, quiet)) == []
    assert asked == ["bytes=100-"]
    assert (root / "toy/toy.zip").read_bytes() == toy_zip.read_bytes()
    assert not (root / "toy/toy.zip.part").exists()


def test_a_download_that_breaks_off_keeps_what_came(root, toy_zip, monkeypatch):
    monkeypatch.setattr(fetching, "CHUNK_BYTES", 50)
    body = toy_zip.read_bytes()

    class Breaking(Handler):
        def send_header(self, name, value):
            super().send_header(name, str(len(body)) if name == "Content-Length" else value)

    handler = functools.partial(Breaking, body[:150], False, [])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made = toy(f"http://127.0.0.1:{server.server_port}/toy.zip", toy_zip)
    (problem,) = fetching.fetch(made, quiet)
    server.shutdown()
    server.server_close()
    assert "cannot be reached" in problem.what
    assert (root / "toy/toy.zip.part").read_bytes() == body[:150]


def test_another_file_than_expected_is_thrown_away(root, serve, toy_zip):
    body = bytearray(toy_zip.read_bytes())
    body[50] ^= 1
    url, _ = serve(bytes(body))
    (problem,) = fetching.fetch(toy(url, toy_zip), quiet)
    assert "hash differs" in problem.what
    assert list((root / "toy").iterdir()) == []


def test_what_cannot_be_reached_is_told_once_with_all_that_helps(root, toy_zip):
    made = toy("http://127.0.0.1:9/toy.zip", toy_zip)
    (problem,) = fetching.fetch(made, quiet)
    line = str(problem)
    for part in (
        "http://127.0.0.1:9/toy.zip: cannot be reached",
        f"{toy_zip.stat().st_size:,} bytes",
        file_sha256(toy_zip),
        str(root / "toy/toy.zip"),
    ):
        assert part in line


def test_an_archive_placed_by_hand_is_unpacked_without_a_download(root, toy_zip):
    made = toy("http://127.0.0.1:9/toy.zip", toy_zip)
    (root / "toy").mkdir(parents=True)
    (root / "toy/toy.zip").write_bytes(toy_zip.read_bytes())
    (problem,) = datasets.missing(made)
    assert "not unpacked" in problem.what
    assert list(fetching.fetch(made, quiet)) == []
    assert datasets.find_clip(made, "a") is not None


def test_clips_placed_by_hand_need_no_archive(root, toy_zip):
    write_frames(root / "toy/toy/frames/a", 3)
    made = toy("http://127.0.0.1:9/toy.zip", toy_zip)
    assert list(fetching.fetch(made, quiet)) == []
    assert [finding.wrong for finding in checking.verify(made)] == [""]


# --- checks ---
def test_verify_finds_wrong_bytes_frames_and_pixels(root, toy_zip):
    write_frames(root / "toy/toy/frames/a", 3)
    frames = load_clip(ClipRequest(str(root / "toy/toy/frames/a"), frames=3, size=8)).frames
    good = {"a": {"frames": 3, "decoded": {"frames": array_sha256(frames)}}}
    made = toy("http://x", toy_zip, clips=good)
    assert [finding.wrong for finding in checking.verify(made)] == [""]

    Image.new("RGB", (16, 12)).save(root / "toy/toy/frames/a/00001.jpg")
    (finding,) = checking.verify(made)
    assert finding.where == "toy:a"
    assert "decodes to sha256" in finding.wrong

    (root / "toy/toy/frames/a/00002.jpg").unlink()
    (root / "toy/toy.zip").write_bytes(b"short")
    file, clip = checking.verify(made)
    assert file.wrong == f"has 5 bytes, not {toy_zip.stat().st_size:,}"
    assert clip.wrong == "has 2 frames, not 3"

    (root / "toy/toy.zip").write_bytes(bytes(toy_zip.stat().st_size))
    assert next(iter(checking.verify(made))).wrong.startswith("has sha256")


def test_verify_looks_into_the_table_of_prompts(tgve):
    findings = {finding.where: finding.wrong for finding in checking.verify(manifest("tgve2023"))}
    table = tgve / "LOVEU-TGVE-2023_Dataset.csv"
    assert len(findings) == 77
    assert "has no prompts for bmx-rider, " in findings[str(table)]
    assert "stunt" not in findings[str(table)]
    assert findings["tgve:stunt"] == "has 4 frames, not 32"
    assert findings["tgve:judo"] == "is not here"
    table.unlink()
    assert next(iter(checking.verify(manifest("tgve2023")))).wrong.startswith("is not here")


def test_a_decoded_hash_needs_a_length_and_a_size(toy_zip):
    made = toy("http://x", toy_zip, transform={})
    with pytest.raises(ValueError, match=r"transform\.frames"):
        checking.decoded_sha256(made, "a")


# --- the command line ---
def clips(*words):
    return CliRunner().invoke(main, ["clips", *words], env={"COLUMNS": "220"})


def test_list_tells_what_is_here(root):
    write_frames(root / "davis2017/DAVIS/JPEGImages/480p/bear", 2)
    lines = {line.split()[1]: line for line in clips("list").output.splitlines() if "│" in line}
    assert set(lines) == set(IDS)
    assert "1 of 90" in lines["davis2017"]
    assert "CC0" in lines["photos"]
    assert " yes " in lines["world"]
    assert " no " in lines["tgve2023"]


def test_list_of_a_set_tells_its_clips(root):
    write_frames(root / "davis2017/DAVIS/JPEGImages/480p/bear", 2)
    rows = {
        cells[0]: cells
        for line in clips("list", "davis").output.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("│").split("│")]) == 7
    }
    assert rows["davis:bear"][1:6] == ["82", "854x480", "24", "BSD-3-Clause", "yes"]
    assert rows["davis:bus"][5] == "no"


def test_fetch_lists_every_missing_set_once_and_fails(root, monkeypatch):
    offline = functools.partial(facts, id="davis2017", prefix="davis")
    file = {"name": "a.zip", "url": "http://127.0.0.1:9/a.zip", "bytes": 5, "sha256": "0" * 64}
    monkeypatch.setattr(fetching, "holder", lambda asked: offline(files=[file]))
    monkeypatch.setattr(datasets, "holder", lambda asked: asked)
    done = clips("fetch", "davis2017", "controlvideo25")
    assert done.exit_code == 1
    assert done.output.count("127.0.0.1:9/a.zip: cannot be reached") == 1


def test_fetch_of_an_own_copy_tells_how_to_place_it():
    done = clips("fetch", "tgve2023", "hdtf")
    assert done.exit_code == 1
    assert len([line for line in done.output.splitlines() if "is not here" in line]) == 2


def test_fetch_of_what_is_always_here_is_done():
    assert clips("fetch", "photos", "world").exit_code == 0


def test_verify_fails_when_something_is_off(root):
    done = clips("verify", "davis2017")
    assert done.exit_code == 1
    assert "1 off" in done.output
    write_frames(root / "davis2017/DAVIS/JPEGImages/480p/bear", 2)
    assert "davis:bear: has 2 frames, not 82" in clips("verify", "davis2017").output


def test_verify_of_the_rendered_world_finds_it_as_recorded():
    done = clips("verify", "world")
    assert (done.exit_code, done.output) == (0, "world: 8 checked, 0 off\n")


def test_an_unknown_set_is_told_in_one_line():
    done = clips("list", "daviss")
    assert done.exit_code == 2
    assert "did you mean" in done.output
