"""The names of event files, and the order in which TensorBoard reads them."""

import os
import time

import pytest
from helpers import event_values

from nnx_alexnet.dashboard.event_files import event_files, next_event_file
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter


def test_a_name_has_the_time_and_a_suffix(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.7e9 + 0.5)
    path = next_event_file(tmp_path, "host.1")
    assert path == tmp_path / "events.out.tfevents.1700000000.host.1"
    path.touch()
    assert next_event_file(tmp_path, "host.2").name == "events.out.tfevents.1700000001.host.2"


def write_in_order(folder, times, monkeypatch, *, existing=()):
    """Runs one writer per time of the clock; returns the steps in the order of reading."""
    folder.mkdir()
    for name in existing:
        (folder / name).touch()
    for step, now in enumerate(times):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        writer = TensorBoardWriter(folder)
        writer.write_scalars(step, {"a": step})
        writer.close()
    return [step for step, _ in event_values(folder, "x_a")]


@pytest.mark.parametrize(
    "times",
    [
        [1.8e9, 1.7e9, 1.6e9, 1.9e9],
        [1.7e9] * 12,  # whose numbers have one digit, then two
        [1.7e9, 5.0, 0.0, -7.0],  # a computer without a battery
        [9.9e9, 1.7e9],
    ],
)
def test_files_are_read_in_the_order_of_writing_whatever_the_clock(tmp_path, times, monkeypatch):
    steps = write_in_order(tmp_path / "run", times, monkeypatch)
    assert steps == [*range(len(times))]
    names = [path.name for path in event_files(tmp_path / "run")]
    assert len({name.split(".")[3] for name in names}) == len(times)


@pytest.mark.parametrize(
    "name",
    ["events.out.tfevents.9999999999.x", "events.out.tfevents.zebra", "zebra.tfevents",
     "events.out.tfevents.99999999999999999999.x"],
)  # fmt: skip
def test_new_files_are_read_after_those_of_other_programs(tmp_path, monkeypatch, name):
    write_in_order(tmp_path / "run", [1.7e9] * 3, monkeypatch, existing=[name])
    names = [path.name for path in event_files(tmp_path / "run")]
    assert names[0] == name
    pids = [f".{os.getpid()}." in each for each in names]
    assert pids == [False, True, True, True]
    numbers = [int(each.rsplit(".", 1)[1]) for each in names[1:]]
    assert numbers == sorted(numbers)


def test_only_regular_files_are_event_files(tmp_path):
    (tmp_path / "a.tfevents.1").touch()
    (tmp_path / "events.txt").touch()
    (tmp_path / "b.tfevents.2").mkdir()
    os.mkfifo(tmp_path / "c.tfevents.3")
    (tmp_path / "d.tfevents.4").symlink_to(tmp_path / "a.tfevents.1")
    assert event_files(tmp_path) == [tmp_path / "a.tfevents.1"]
    assert event_files(tmp_path / "missing") == []
