"""Claims: one winner among real processes, the dead make way at once, the living never."""

import errno
import fcntl
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from dataclasses import asdict, replace

import pytest

from ablations import leases
from ablations.leases import STALE, acquire, claimed, current_owner, holder

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "claims"


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def run(target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    return process


def claim_and_die(folder, name):
    acquire(folder, name)
    os.kill(os.getpid(), signal.SIGKILL)


def claim_and_stay(folder, name, ready):
    with acquire(folder, name):
        ready.set()
        time.sleep(60)


def dead_claim(folder, name):
    process = run(claim_and_die, folder, name)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert files(folder) == [f"{name}.1"]


def write_claim(folder, name, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(asdict(replace(current_owner(), **changes))), encoding="utf-8")
    return path


def age(path, seconds):
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_a_claim_is_ours_until_it_is_released(folder):
    assert holder(folder, "cell") is None
    with acquire(folder, "cell") as lease:
        assert files(folder) == ["cell.1"]
        assert lease.held()
        assert holder(folder, "cell") == lease.owner
        assert lease.owner.pid == os.getpid()
        assert acquire(folder, "cell") is None
        other = acquire(folder, "cell.x")
        assert other.held()
        other.release()
    assert files(folder) == []
    assert not lease.held()
    lease.release()
    with acquire(folder, "cell"):
        lease.release()
        assert files(folder) == ["cell.1"]


def test_a_living_process_keeps_others_out_and_a_killed_one_does_not(folder):
    ready = FORK.Event()
    process = run(claim_and_stay, folder, "cell", ready)
    assert ready.wait(20)
    assert holder(folder, "cell").pid == process.pid
    assert acquire(folder, "cell") is None
    os.kill(process.pid, signal.SIGKILL)
    # Not reaped yet: what is left of the process is its exit status, and that holds nothing.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert holder(folder, "cell") is None
    assert claimed(folder) == {"cell": None}
    with acquire(folder, "cell") as lease:
        assert lease.path.name == "cell.2"
    assert files(folder) == []
    process.join()


def contend(folder, barrier, results):
    barrier.wait()
    lease = acquire(folder, "cell")
    results.put(lease is not None)
    barrier.wait()


@pytest.mark.parametrize("before", ["nobody", "the dead"])
def test_of_many_contenders_one_wins(folder, before):
    for _ in range(3):
        if before == "the dead":
            dead_claim(folder, "cell")
        barrier, results = FORK.Barrier(10), FORK.Queue()
        contenders = [run(contend, folder, barrier, results) for _ in range(10)]
        assert sum(results.get(timeout=20) for _ in contenders) == 1
        for contender in contenders:
            contender.join()
        for path in folder.iterdir():
            path.unlink()


def take_turns(folder, turns, dies, collisions):
    """Hold the claim so often, then end or die; a lock of the kernel tells two owners apart."""
    with open(folder.parent / "oracle", "w", encoding="utf-8") as oracle:
        while turns:
            lease = acquire(folder, "cell")
            if lease is not None:
                try:
                    fcntl.flock(oracle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    collisions.value = 1
                turns -= 1
                time.sleep(0.001)
                if dies and not turns:
                    os.kill(os.getpid(), signal.SIGKILL)
                fcntl.flock(oracle, fcntl.LOCK_UN)
                lease.release()
            time.sleep(random.uniform(0, 0.002))


def test_two_never_hold_one_claim_though_owners_die(folder):
    collisions = FORK.Value("i", 0, lock=False)
    fates = [(turns, turns < 8) for turns in (1, 3, 5, 8, 8, 8)]
    processes = [run(take_turns, folder, *fate, collisions) for fate in fates]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 3 + [0] * 3
    assert collisions.value == 0
    acquire(folder, "cell").release()
    assert files(folder) == []


def test_of_many_threads_one_wins(folder):
    barrier, won = threading.Barrier(8), []

    def contend_here():
        barrier.wait()
        won.append(acquire(folder, "cell"))

    threads = [threading.Thread(target=contend_here) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lease,) = [lease for lease in won if lease]
    assert lease.held()
    lease.release()


def test_a_contender_that_looked_too_early_steps_back(folder, monkeypatch):
    """It saw a dead claim 1 and writes 2, when 1 has meanwhile come to a living owner."""
    dead_claim(folder, "cell")
    create, rivals = leases._create, []

    def create_late(path, owner):
        if not rivals:
            rivals.append(None)
            acquire(folder, "cell").release()
            rivals[0] = acquire(folder, "cell")
            assert files(folder) == ["cell.1"]
            assert path.name == "cell.2"
        return create(path, owner)

    monkeypatch.setattr(leases, "_create", create_late)
    assert acquire(folder, "cell") is None
    assert files(folder) == ["cell.1"]
    assert rivals[0].held()
    rivals[0].release()


@pytest.mark.parametrize(
    "changes",
    [{"started": "1"}, {"boot_id": "another"}, {"pid": 2**22 + 1}],
    ids=["another process has the number now", "before the last boot", "no such process"],
)
def test_owners_of_this_host_are_judged_at_once(folder, changes):
    write_claim(folder, "cell.1")
    assert holder(folder, "cell").pid == os.getpid()
    write_claim(folder, "cell.1", **changes)
    assert holder(folder, "cell") is None
    acquire(folder, "cell").release()


def test_owners_of_other_hosts_are_judged_by_the_clock_of_the_files(folder, monkeypatch):
    path = write_claim(folder, "cell.1", host="elsewhere")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    age(path, STALE - 30)
    assert acquire(folder, "cell") is None
    assert holder(folder, "cell").host == "elsewhere"
    age(path, 60)
    assert holder(folder, "cell") is None
    acquire(folder, "cell").release()
    assert files(folder) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1}', '{"pid": -1}', "[" * 9999, "\0"])
def test_an_unreadable_claim_holds_until_it_is_stale(folder, text):
    folder.mkdir()
    path = folder / "cell.1"
    path.write_text(text, encoding="utf-8")
    assert acquire(folder, "cell") is None
    assert holder(folder, "cell").pid == 0
    age(path, STALE + 10)
    with acquire(folder, "cell") as lease:
        assert lease.path.name == "cell.2"
    assert files(folder) == []


def test_a_living_owner_touches_its_claim(folder, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT", 0.01)
    with acquire(folder, "cell") as lease:
        age(lease.path, 1000)
        before = lease.path.stat().st_mtime
        deadline = time.monotonic() + 20
        while lease.path.stat().st_mtime < before + 900 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.path.stat().st_mtime > before + 900


def test_an_owner_taken_for_dead_can_tell_and_spoils_nothing(folder):
    late = acquire(folder, "cell")
    write_claim(folder, "cell.2")
    assert not late.held()
    os.replace(folder / "cell.2", folder / "cell.1")
    late.release()
    assert files(folder) == ["cell.1"]


def test_a_forked_child_cannot_release_what_its_parent_holds(folder):
    with acquire(folder, "cell") as lease:
        child = run(lease.release)
        child.join()
        assert child.exitcode == 0
        assert lease.held()


def test_it_works_where_files_cannot_be_linked(folder, monkeypatch):
    def refuse(*paths):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with acquire(folder, "cell") as lease:
        assert lease.held()
        assert acquire(folder, "cell") is None
    assert files(folder) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "a\n"])
def test_names_are_plain(folder, name):
    with pytest.raises(ValueError, match="claim"):
        acquire(folder, name)
    assert not folder.exists()
