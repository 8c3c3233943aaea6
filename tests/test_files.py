import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from crossframe.errors import UserError
from crossframe.files import (
    append_line,
    read_json,
    replacing,
    replacing_folder,
    safe_join,
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
