"""Who lives: processes told apart by number and start, zombies counted as dead."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crossframe import processes
from crossframe.processes import alive, boot_id, host, started


def test_this_process_lives_and_started_when_the_kernel_says():
    now = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    seconds = int(started(os.getpid())) / os.sysconf("SC_CLK_TCK")
    assert 0 < seconds < now
    assert alive(os.getpid(), started(os.getpid()))
    assert not alive(os.getpid(), "1")
    assert alive(os.getpid(), "")


def test_a_process_is_dead_before_its_parent_has_noticed():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = started(child.pid)
    assert alive(child.pid, start)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(child.pid, start)
    child.communicate()
    assert started(child.pid) is None


@pytest.mark.parametrize(
    ("state", "threads", "found"),
    [("S", 4, "777"), ("Z", 1, None), ("Z", 3, "777"), ("X", 1, None)],
    ids=["asleep", "zombie", "its other threads still end", "gone"],
)
def test_the_line_of_the_kernel_is_read_whatever_the_name(monkeypatch, state, threads, found):
    fields = [state, *["0"] * 16, str(threads), "0", "777", "0"]
    line = f"12 (a ) S (b) {' '.join(fields)}"
    monkeypatch.setattr(processes.Path, "read_text", lambda *args, **options: line)
    assert started(12) == found


def test_where_processes_are_hidden_they_are_asked_for(monkeypatch):
    def hidden(*args, **options):
        raise FileNotFoundError

    monkeypatch.setattr(processes.Path, "read_text", hidden)
    assert started(os.getpid()) == ""
    assert started(2**22 + 1) is None
    assert started(2**80) is None


def test_names_of_hosts_can_stand_in_file_names():
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,48}", host())
    assert host() == host()
    assert re.fullmatch(r"[0-9a-f-]{36}|", boot_id())
