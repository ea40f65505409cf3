"""Event files as they are written: one by one, whole, and without TensorFlow."""

import errno
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import HOSTILE, event_values
from tensorboard.plugins.hparams import metadata

from nnx_alexnet.dashboard.event_reader import read_newest
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter


@pytest.fixture
def writer(tmp_path):
    writer = TensorBoardWriter(tmp_path / "run")
    yield writer
    writer.close()


def test_each_method_writes_one_event_at_its_step(writer, tmp_path):
    writer.write_scalars(3, {"scalar": 0.5})
    writer.write_scalars(7, {"scalar": 0.25})
    writer.write_images(4, {"image": np.zeros((5, 7, 1), np.uint8)})
    writer.write_texts(2, {"text": "words"})
    writer.write_histograms(5, {"histogram": np.arange(4)}, {"histogram": 2})
    folder = tmp_path / "run"
    assert event_values(folder, "x_scalar") == [(3, 0.5), (7, 0.25)]
    ((step, image),) = event_values(folder, "y_image")
    assert (step, image.width, image.height) == (4, 7, 5)
    assert event_values(folder, "text") == [(2, b"words")]
    ((step, histogram),) = event_values(folder, "z_histogram")
    assert (step, histogram.min, histogram.max, histogram.num) == (5, 0, 3, 4)
    assert (histogram.bucket_limit, histogram.bucket) == ([1.5, 3.0], [2.0, 2.0])


def test_sessions_and_charts_are_written_at_step_0(writer, tmp_path):
    writer.write_hparams({"seed": 3})
    writer.write_columns({"seed": 3}, ["val/loss"])
    writer.write_layout({"loss": ["train/loss", "val/loss"]})
    writer.write_session_end(success=True)
    for tag in (
        metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG, metadata.EXPERIMENT_TAG,
        "custom_scalars__config__",
    ):  # fmt: skip
        assert [step for step, _ in event_values(tmp_path / "run", tag)] == [0]


def test_events_can_be_read_before_flush_and_close(writer, tmp_path):
    writer.write_scalars(1, {"a": 1.0})
    assert event_values(tmp_path / "run", "x_a") == [(1, 1.0)]


def test_two_writers_in_one_folder_write_two_files(tmp_path):
    for step in (1, 2):
        writer = TensorBoardWriter(tmp_path)
        writer.write_scalars(step, {"a": float(step)})
        writer.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def test_no_thread_is_left_and_close_may_be_called_twice(tmp_path):
    before = threading.active_count()
    writer = TensorBoardWriter(tmp_path)
    writer.write_scalars(0, {"a": 1.0})
    writer.flush()
    assert threading.active_count() == before
    writer.close()
    writer.close()


class FullDisk:
    """A file on a disk that is full after `room` bytes."""

    def __init__(self, file, room):
        self._file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        num_bytes = self._file.write(data[: self.room])
        self.room -= num_bytes
        return num_bytes

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_full_disk_raises_and_leaves_other_events_readable(writer, tmp_path, room):
    writer.write_scalars(1, {"a": 1.0})
    writer._file = FullDisk(writer._file, room)
    with pytest.raises(OSError, match="No space left"):
        writer.write_scalars(2, {"a": 2.0})
    writer._file.room = 10**6
    writer.write_scalars(3, {"a": 3.0})
    assert event_values(tmp_path / "run", "x_a") == [(1, 1.0), (3, 3.0)]


def test_writing_and_reading_import_neither_tensorflow_nor_torch(tmp_path):
    code = """
import sys
import numpy as np
import nnx_alexnet

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "torch"):
            raise RuntimeError(f"imported {name}")

sys.meta_path.insert(0, Refuse())
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter
writer = TensorBoardWriter(sys.argv[1])
writer.write_scalars(0, {"a": 1})
writer.write_images(0, {"b": np.zeros((4, 4, 3), np.uint8)})
writer.write_texts(0, {"c": "text"})
writer.write_histograms(0, {"d": np.zeros(3)})
writer.write_hparams({"seed": 0})
writer.write_columns({"seed": 0}, ["a"])
writer.write_session_end(success=True)
writer.close()

from pathlib import Path
from nnx_alexnet.dashboard.event_reader import drop_steps, read_newest
assert read_newest(Path(sys.argv[1]), ["c"])["c"].text == "text"
drop_steps(Path(sys.argv[1]), 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [HOSTILE, "\udcff", "a/../b", "", "é"])
def test_any_name_can_be_written_to_an_event_file(tmp_path, name):
    writer = TensorBoardWriter(tmp_path)
    image = np.zeros((2, 2, 1), np.uint8)
    writer.write_scalars(1, {name: 0.5})
    writer.write_images(1, {name: image})
    writer.write_texts(1, {name: name})
    writer.write_histograms(1, {name: np.arange(3)})
    writer.write_hparams({name: name})
    writer.write_columns({name: name}, [name])
    writer.write_layout({name: [name]})
    writer.close()
    written = name.encode("utf-8", "backslashreplace").decode()
    assert read_newest(tmp_path, [written])[written].step == 1
    assert all(len(event_values(tmp_path, f"{kind}_{written}")) == 1 for kind in "xyz")
