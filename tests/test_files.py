import io
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tarfile
import textwrap
import zipfile

import pytest

from crossframe.errors import UserError
from crossframe.files import (
    append_line,
    beside,
    leftovers,
    read_json,
    replacing,
    replacing_folder,
    safe_join,
    size_of,
    unpack,
    write_bytes,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writers_create_folders_and_leave_nothing_else(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "data.bin", b"\x00\x01")
    write_text(tmp_path / "a" / "text.txt", "zwei\r\nZeilen\n")
    assert (tmp_path / "a" / "b" / "data.bin").read_bytes() == b"\x00\x01"
    assert (tmp_path / "a" / "text.txt").read_bytes() == b"zwei\r\nZeilen\n"
    assert names(tmp_path / "a") == ["b", "text.txt"]


def test_replacing_keeps_the_suffix_and_the_usual_mode(tmp_path):
    with replacing(tmp_path / "clip.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"new")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "clip.mp4").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failing_writer_changes_nothing(tmp_path):
    write_text(tmp_path / "result.json", "old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "result.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "result.json").read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_killed_writer_changes_nothing(tmp_path):
    target = tmp_path / "result.json"
    write_text(target, "old")
    code = f"""
        import os, signal
        from crossframe.files import replacing
        with replacing({str(target)!r}) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_replacing_folder_swaps_the_whole(tmp_path):
    target = tmp_path / "frames"
    for generation, files in enumerate([("a", "b"), ("c",)]):
        with replacing_folder(target) as temporary:
            for name in files:
                (temporary / name).write_text(str(generation))
    assert names(target) == ["c"]
    with pytest.raises(RuntimeError), replacing_folder(target) as temporary:
        (temporary / "d").write_text("half")
        raise RuntimeError
    assert names(target) == ["c"]
    assert names(tmp_path) == ["frames"]


def test_json_round_trip_is_readable(tmp_path):
    value = {"b": [1, 2.5, None], "a": "é"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.index('"b"') < text.index('"a"')
    assert "é" in text
    assert text.endswith("}\n")


def test_json_refuses_what_it_cannot_hold_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"ok": 1})
    with pytest.raises(ValueError, match="psnr"):
        write_json(tmp_path / "x.json", {"psnr": float("inf")})
    assert read_json(tmp_path / "x.json") == {"ok": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1,\n "b": }', r"x\.json:2:7: not valid JSON: Expecting value"),
        (b"", r"x\.json:1:1: not valid JSON"),
        (b'"\xff"', r"x\.json: not UTF-8 text \(byte 1\)"),
        (None, r"x\.json: no such file"),
    ],
)
def test_read_json_tells_where_it_is_wrong(tmp_path, data, message):
    if data is not None:
        (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "x.json")


def _append(path, writer):
    for index in range(50):
        append_line(path, json.dumps({"writer": writer, "index": index, "pad": "x" * 400}))


def test_two_writers_share_a_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, w)) for w in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 100
    for writer in range(2):
        assert [r["index"] for r in rows if r["writer"] == writer] == list(range(50))


def test_append_line_closes_a_line_that_a_crash_left_open(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"done": 1}\n{"do')
    append_line(path, '{"done": 2}')
    assert path.read_text().splitlines() == ['{"done": 1}', '{"do', '{"done": 2}']


def test_append_line_takes_one_line(tmp_path):
    with pytest.raises(ValueError, match="one line"):
        append_line(tmp_path / "journal.jsonl", "a\nb")
    assert not (tmp_path / "journal.jsonl").exists()


def test_safe_join_stays_inside(tmp_path):
    assert safe_join(tmp_path, "cells", "ab/c") == tmp_path.resolve() / "cells" / "ab" / "c"
    assert safe_join(tmp_path, "a/../b") == tmp_path.resolve() / "b"


@pytest.mark.parametrize(
    "parts", [("../x",), ("/etc/passwd",), ("a", "../../b"), ("link/x",), ("a\0",)]
)
def test_safe_join_refuses_what_leads_out(tmp_path, parts):
    inside = tmp_path / "inside"
    inside.mkdir()
    os.symlink(tmp_path, inside / "link")
    with pytest.raises(UserError):
        safe_join(inside, *parts)


def replace_often(target, writer, barrier):
    for _ in range(20):
        barrier.wait()
        with replacing_folder(target) as temporary:
            for name in ("a", "b"):
                (temporary / name).write_text(writer)


def test_several_may_replace_one_folder_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    target = tmp_path / "frames"
    writers = [
        context.Process(target=replace_often, args=(target, name, barrier)) for name in "xyz"
    ]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0, 0, 0]
    assert names(tmp_path) == ["frames"]
    assert (target / "a").read_text() == (target / "b").read_text()


def test_replacing_a_link_to_a_folder_leaves_the_folder_alone(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("")
    (tmp_path / "frames").symlink_to(tmp_path / "outside")
    with replacing_folder(tmp_path / "frames") as temporary:
        (temporary / "new").write_text("")
    assert names(tmp_path) == ["frames", "outside"]
    assert names(tmp_path / "frames") == ["new"]
    assert names(tmp_path / "outside") == ["kept"]


@pytest.mark.parametrize("name", ["x", "é" * 127, "a" * 250 + ".json", ".hidden"])
def test_temporary_names_fit_and_name_a_living_writer(tmp_path, name):
    temporary = beside(tmp_path / name)
    temporary.write_bytes(b"12")
    assert temporary.name.startswith(".")
    assert f".{os.getpid()}." in temporary.name
    assert list(leftovers(tmp_path)) == []
    temporary.rename(str(temporary).replace(f".{os.getpid()}.", ".4194305."))
    assert len(list(leftovers(tmp_path))) == 1
    assert size_of(tmp_path) == 2


def test_read_json_bears_deep_nesting_and_folders(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("deep.json", "."):
        with pytest.raises(UserError, match="cannot be read"):
            read_json(tmp_path / name)


def tar(path, *members, mode="w"):
    """Write members as given: (name, bytes) or a TarInfo."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def tar_entry(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zipped(path, *members):
    """Write members as given: (name, bytes) or (name, bytes, mode of Unix)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, *mode in members:
            info = zipfile.ZipInfo(name)
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode[0] if mode else stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return path


GOOD = [("clips/a.png", b"a" * 3000), ("clips/deep/b.png", b"b"), ("./notes.txt", b"")]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "zip"])
def test_archives_are_unpacked_by_content_whatever_their_name(tmp_path, mode):
    path = tmp_path / "archive.bin"
    made = zipped(path, *GOOD) if mode == "zip" else tar(path, *GOOD, mode=mode)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("")
    found = unpack(made, out)
    assert [path.relative_to(out).as_posix() for path in found] == [
        "clips/a.png",
        "clips/deep/b.png",
        "notes.txt",
    ]
    assert [path.read_bytes() for path in found] == [data for _, data in GOOD]
    assert names(out) == ["clips", "notes.txt"]
    assert names(tmp_path) == ["archive.bin", "out"]


def test_links_inside_an_archive_become_copies(tmp_path):
    path = tar(
        tmp_path / "a.tar",
        tar_entry("d/first", tarfile.SYMTYPE, "../e/second"),
        tar_entry("e/second", tarfile.LNKTYPE, "e/real"),
        ("e/real", b"bytes"),
    )
    unpack(path, tmp_path / "out")
    made = zipped(
        tmp_path / "a.zip", ("real", b"bytes"), ("d/link", b"../real", stat.S_IFLNK | 0o777)
    )
    unpack(made, tmp_path / "out2")
    for file in ("out/d/first", "out/e/second", "out2/d/link"):
        assert (tmp_path / file).read_bytes() == b"bytes"
        assert not (tmp_path / file).is_symlink()


OK = ("ok.png", b"ok")
HOSTILE = {
    "tar, absolute": (tar, [OK, ("/tmp/evil", b"x")], "absolute"),
    "tar, dots": (tar, [OK, ("a/../../evil", b"x")], r"leads out .* by '\.\.'"),
    "tar, symlink out": (tar, [OK, tar_entry("l", tarfile.SYMTYPE, "../x")], "link that leads out"),
    "tar, absolute symlink": (
        tar,
        [OK, tar_entry("l", tarfile.SYMTYPE, "/etc/passwd")],
        "link that leads out",
    ),
    "tar, hard link out": (
        tar,
        [OK, tar_entry("l", tarfile.LNKTYPE, "../../etc/passwd")],
        "link that leads out",
    ),
    "tar, through a link": (
        tar,
        [tar_entry("d", tarfile.SYMTYPE, "/tmp"), ("d/evil", b"x")],
        "no folder",
    ),
    "tar, links in a ring": (
        tar,
        [tar_entry("a", tarfile.SYMTYPE, "b"), tar_entry("b", tarfile.SYMTYPE, "a")],
        "link to no file",
    ),
    "tar, device": (tar, [OK, tar_entry("null", tarfile.CHRTYPE)], "neither a file"),
    "tar, pipe": (tar, [OK, tar_entry("pipe", tarfile.FIFOTYPE)], "neither a file"),
    "tar, twice": (tar, [OK, OK], "comes twice"),
    "tar, control characters": (tar, [OK, ("a\x1b[2Jb", b"x")], "control characters"),
    "tar, long name": (tar, [OK, ("n" * 300, b"x")], "255 bytes"),
    "tar, too large": (tar, [OK, ("big", b"\0" * 20_000)], "more than 10000 bytes"),
    "zip, absolute": (zipped, [OK, ("/tmp/evil", b"x")], "absolute"),
    "zip, drive": (zipped, [OK, ("C:\\evil", b"x")], "absolute"),
    "zip, dots": (zipped, [OK, ("../evil", b"x")], "leads out"),
    "zip, backslash dots": (zipped, [OK, ("a\\..\\..\\evil", b"x")], "leads out"),
    "zip, null": (zipped, [OK, ("evil.png\0.sh", b"x")], "control characters"),
    "zip, symlink out": (
        zipped,
        [OK, ("l", b"../../etc/passwd", stat.S_IFLNK | 0o777)],
        "link that leads out",
    ),
    "zip, device": (zipped, [OK, ("null", b"", stat.S_IFCHR | 0o666)], "neither a file"),
    "zip, file as folder": (zipped, [OK, ("ok.png/evil", b"x")], "no folder"),
    "zip, bomb": (zipped, [OK, ("big", b"\0" * 5_000_000)], "more than 10000 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_before_anything_is_written(tmp_path, case):
    write, members, reason = HOSTILE[case]
    path = write(tmp_path / "archive", *members)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("")
    with pytest.raises(UserError, match=reason) as error:
        unpack(path, tmp_path / "out", limit=10_000)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert names(tmp_path) == ["archive", "out"]
    assert names(tmp_path / "out") == ["kept"]


def test_headers_that_inflate_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("crossframe.archives.HEADER_BYTES", 1 << 20)
    info = tarfile.TarInfo("x" * 2_000_000)
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    assert path.stat().st_size < 50_000
    with pytest.raises(UserError, match="more than it may"):
        unpack(path, tmp_path / "out", limit=10_000)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "zip"])
def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path, mode):
    path = tmp_path / "archive"
    files = [(name, os.urandom(500)) for name in "abc"]
    whole = (zipped(path, *files) if mode == "zip" else tar(path, *files, mode=mode)).read_bytes()
    # An uncompressed tar ends with 1024 zeros and a filling that need not be there.
    for length in range(0, len(whole) if mode != "w" else 3 * 1024, 97):
        path.write_bytes(whole[:length])
        try:
            found = unpack(path, tmp_path / "out")
        except UserError:
            assert not (tmp_path / "out").exists()
        else:
            # Cut between two members, a plain tar is a shorter tar; a part of a file never passes.
            assert mode == "w"
            assert [p.read_bytes() for p in found] == [data for _, data in files[: len(found)]]
            assert length in (1024 * len(found), 1024 * len(found) + length % 512)
            for item in found:
                item.unlink()
            (tmp_path / "out").rmdir()


def test_no_archive_is_told(tmp_path):
    (tmp_path / "text").write_text("hello, this is no archive")
    for name in ("text", "missing", "."):
        with pytest.raises(UserError, match=r"cannot be read|no such file"):
            unpack(tmp_path / name, tmp_path / "out")
    assert names(tmp_path) == ["text"]
