"""The lock of a run: who holds it, who can test it, and when it ends."""

import contextlib
import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest
from helpers import obstacle

from nnx_alexnet.runs.lock import RunLock, is_locked


def test_two_locks_of_one_process_exclude_each_other(tmp_path):
    lock = RunLock(tmp_path)
    with pytest.raises(ValueError, match=f"is being written by process {os.getpid()} on "):
        RunLock(tmp_path)
    assert is_locked(tmp_path)
    lock.close()
    lock.close()
    assert not is_locked(tmp_path)


def wait_for_end(connection):
    with contextlib.suppress(EOFError):
        connection.recv()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_forked_children_do_not_hold_the_lock(tmp_path):
    lock, other = RunLock(tmp_path), RunLock(tmp_path.parent)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=wait_for_end, args=(theirs,), daemon=True)
    child.start()
    try:
        assert is_locked(tmp_path), "the parent still holds it"
        lock.close()
        assert not is_locked(tmp_path)
        RunLock(tmp_path).close()
        assert is_locked(tmp_path.parent)
    finally:
        ours.send(None)
        child.join()
        other.close()


JOB = """
import os, sys, time
from nnx_alexnet.runs.lock import RunLock
lock = RunLock(sys.argv[1])
if os.fork() == 0:
    {child}
    time.sleep(5)
    os._exit(0)
print("locked", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("child", ["pass", "lock.close()"])
def test_the_lock_ends_with_the_process_that_acquired_it(tmp_path, child):
    process = subprocess.Popen(
        [sys.executable, "-c", JOB.format(child=child), str(tmp_path)],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "locked\n"
    time.sleep(0.2)
    assert is_locked(tmp_path), "a child that closes its copy changes nothing"
    process.kill()
    process.wait()
    RunLock(tmp_path).close()
    process.stdout.close()


def test_testing_the_lock_does_not_acquire_it(tmp_path):
    lock = RunLock(tmp_path)
    threads = [threading.Thread(target=is_locked, args=(tmp_path,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ValueError, match="is being written"):
        RunLock(tmp_path)
    lock.close()


def test_two_processes_that_test_the_lock_at_once_both_find_it_free(tmp_path):
    RunLock(tmp_path).close()
    with (tmp_path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as another call of `is_locked` does
        assert not is_locked(tmp_path)


def test_a_run_can_start_while_others_test_its_lock(tmp_path):
    stop = threading.Event()

    def look():
        while not stop.is_set():
            is_locked(tmp_path)
            time.sleep(0.0005)

    RunLock(tmp_path).close()
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(100):
            lock = RunLock(tmp_path)
            assert is_locked(tmp_path)
            lock.close()
    finally:
        stop.set()
        thread.join()


def test_testing_the_lock_of_a_folder_without_one_writes_nothing(tmp_path):
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "missing")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("kind", ["link", "link to nothing", "fifo", "socket"])
def test_an_irregular_lock_file_is_replaced_and_a_link_not_followed(tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with obstacle(tmp_path / ".lock", kind, victim):
        assert not is_locked(tmp_path)
        lock = RunLock(tmp_path)
    assert is_locked(tmp_path)
    with pytest.raises(ValueError, match="is being written"):
        RunLock(tmp_path)
    lock.close()
    assert victim.read_text() == "precious"
    assert not victim.with_name("nothing").exists()


def test_a_folder_of_the_locks_name_is_an_error(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(OSError, match=r"\.lock"):
        RunLock(tmp_path)


def test_a_lock_file_replaced_while_it_is_locked_is_locked_again(tmp_path, monkeypatch):
    flock, replaced = fcntl.flock, []

    def replace(descriptor, operation):
        if not replaced:
            replaced.append(True)
            (tmp_path / ".lock").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace)
    lock = RunLock(tmp_path)
    assert is_locked(tmp_path)
    lock.close()
