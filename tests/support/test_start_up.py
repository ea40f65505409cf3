import os
import subprocess
import sys
import time

import pytest

from nnx_alexnet.support import start_up
from nnx_alexnet.support.start_up import StartTimes


@pytest.fixture
def clock(monkeypatch):
    """The times that the next readings of the clock return."""
    times = []
    monkeypatch.setattr(start_up.time, "perf_counter", lambda: times.pop(0))
    return times


def test_parts_are_reported_once_in_their_order(clock, caplog):
    clock += [10.0, 10.5, 12.5, 12.75]
    times = StartTimes()
    times.begin(1.25)
    for part in ("data", "model", "data"):
        times.end(part)
    with caplog.at_level("INFO", logger="nnx_alexnet"):
        times.report()
        times.end("later")
        times.report()
    assert caplog.messages == ["start   4.0 s to step 1, mostly imports 1.2, data 0.8, model 2.0"]


def test_only_the_longest_parts_are_reported(clock, caplog):
    lengths = {"options": 0.25, "data": 0.5, "model": 10.0, "checks": 20.0, "compilation": 30.0}
    clock += [0.0, 0.25, 0.75, 10.75, 30.75, 60.75]
    times = StartTimes()
    times.begin(15.0)
    for part in lengths:
        times.end(part)
    with caplog.at_level("INFO", logger="nnx_alexnet"):
        times.report()
    (line,) = caplog.messages
    assert line == ("start   75.8 s to step 1, mostly imports 15.0, checks 20.0, compilation 30.0")


def test_nothing_is_measured_or_reported_before_the_beginning(caplog):
    times = StartTimes()
    times.end("data")
    times.report()
    assert (times.parts, caplog.messages) == ({}, [])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_imports_count_from_the_start_of_the_process():
    code = (
        "import time; time.sleep(0.5)\n"
        "from nnx_alexnet.support.start_up import StartTimes\n"
        "times = StartTimes(); times.begin(); print(times.parts['imports'])"
    )
    began = time.perf_counter()
    age = float(subprocess.check_output([sys.executable, "-c", code], env=os.environ))
    assert 0.5 <= age <= time.perf_counter() - began + 0.02  # the system counts hundredths
