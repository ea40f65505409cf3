"""Ctrl-C and SIGTERM: the first one asks, the second one ends, whenever they arrive."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nnx_alexnet.training.signals import graceful_stop


@pytest.fixture(autouse=True)
def handlers():
    """Python's own handlers, which pytest may have replaced."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def busy(seconds):
    """Computes outside Python for half a second at a time, in which no handler is called."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**6)


def send(*numbers):
    """Sends signals to this process from another thread, soon and one after the other."""

    def run():
        for number in numbers:
            time.sleep(0.05)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_first_signal_only_requests_a_stop():
    seen = []
    with graceful_stop(seen.append) as received:
        signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGINT]
    assert received.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_raises():
    seen = []
    with graceful_stop(seen.append):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert seen == [signal.SIGINT]


def test_two_that_arrive_before_python_can_handle_one_are_two():
    seen = []
    sender = send(signal.SIGINT, signal.SIGINT)
    with graceful_stop(seen.append), pytest.raises(KeyboardInterrupt):
        busy(60)
    sender.join()
    assert seen == [signal.SIGINT]


def test_one_that_arrives_before_python_can_handle_it_is_one():
    seen = []
    sender = send(signal.SIGINT)
    with graceful_stop(seen.append):
        busy(0.3)
    sender.join()
    assert seen == [signal.SIGINT]


def test_other_signals_do_not_count(monkeypatch):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    sender = send(signal.SIGUSR1, signal.SIGINT, signal.SIGUSR1)
    try:
        with graceful_stop(seen.append):
            busy(0.3)
            sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGINT]


def test_nothing_is_left_behind():
    for _ in range(3):
        with graceful_stop(lambda number: None):
            pass
    assert signal.set_wakeup_fd(-1) == -1
    deadline = time.monotonic() + 5
    while any(thread.name == "signals" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_signals_are_counted_before_the_thread_that_watches_them_ends(monkeypatch):
    def slow(descriptor):
        before = set_wakeup_fd(descriptor)
        time.sleep(0.2)  # the thread looks meanwhile
        return before

    seen, set_wakeup_fd = [], signal.set_wakeup_fd
    with graceful_stop(seen.append):
        monkeypatch.setattr(signal, "set_wakeup_fd", slow)
        signal.raise_signal(signal.SIGINT)
    assert seen == [signal.SIGINT]


def test_an_event_loop_keeps_its_file():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    try:
        seen = []
        with graceful_stop(seen.append):
            signal.raise_signal(signal.SIGINT)
        assert os.read(reader, 10) == bytes([signal.SIGINT])
        assert seen == [signal.SIGINT]
    finally:
        assert signal.set_wakeup_fd(-1) == writer
        os.close(reader)
        os.close(writer)


def test_sigterm_ends_the_program_after_the_block():
    with pytest.raises(SystemExit) as stopped, graceful_stop(lambda number: None):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 143


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("runs_inside", [0, 1])
def test_a_forked_child_leaves_ctrl_c_to_its_parent_and_ends_when_told(runs_inside):
    with graceful_stop(lambda number: None):
        for _ in range(runs_inside):
            with graceful_stop(lambda number: None):
                pass
        child = os.fork()
        if child == 0:
            handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
            is_free = handlers == (signal.SIG_IGN, signal.SIG_DFL)
            os._exit(0 if is_free and signal.set_wakeup_fd(-1) == -1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        signal.raise_signal(signal.SIGINT)  # nothing has changed here


JOB = """
import hashlib, signal, sys
from nnx_alexnet.training.signals import graceful_stop
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as the command does
with graceful_stop(lambda number: None):
    print("start", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes, in which Python handles nothing
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_command_while_it_compiles(number):
    process = subprocess.Popen([sys.executable, "-c", JOB], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "start\n"
        time.sleep(0.5)  # until it computes
        process.send_signal(number)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    finally:
        process.kill()
        process.communicate()
