"""Which process wrote something, and whether it still lives. Sends no signals, needs no package."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

# The number that Linux gives to the PID namespace of the machine itself (PROC_PID_INIT_INO).
MACHINE_NAMESPACE = "4026531836"


@cache
def host() -> str:
    """Return a name for the set of processes that we can see, made of letters, digits, - and _.

    It is the host's name; inside a container, where process numbers mean something else, the
    number of the PID namespace is added.
    """
    name = re.sub(r"[^A-Za-z0-9_]", "-", os.uname().nodename)[:24] or "host"
    try:
        namespace = "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    except OSError:
        namespace = ""
    return f"{name}-{namespace}" if namespace not in ("", MACHINE_NAMESPACE) else name


@cache
def boot_id() -> str:
    """Return what differs between two starts of this machine, or "" where that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """Return when a process of this host started, in clock ticks since the boot.

    None: there is no such process, or only its exit status (a zombie). "": it exists, but the
    time is not known (no /proc, or one that hides the processes of others).
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _exists(pid)
    # proc_pid_stat(5): the second field, in brackets, may hold spaces and brackets; the third is
    # the state, the 20th the number of threads, the 22nd the time of the start. The first thread
    # of a killed process can be a zombie while others still close its files.
    fields = line.rpartition(")")[2].split()
    gone = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if gone else fields[19]


def alive(pid: int, start: str) -> bool:
    """Tell whether the process with this number that started at `start` lives on this host.

    A process of the same number that started at another time is another process. An unknown time
    ("") matches any.
    """
    found = started(pid)
    return found is not None and (not found or not start or found == start)


def _exists(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return ""
