import errno
import io
import os
import subprocess
import sys
import threading
import time

import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from nnx_alexnet.dashboard.event_files import event_files
from nnx_alexnet.dashboard.event_reader import drop_steps, read_newest
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter


@pytest.fixture
def writer(tmp_path):
    writer = TensorBoardWriter(tmp_path / "run")
    yield writer
    writer.close()


def read(directory):
    events = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    events.Reload()
    return events


def tensors(directory, tag):
    return [
        (event.step, make_ndarray(event.tensor_proto)) for event in read(directory).Tensors(tag)
    ]


def plugin(directory, tag):
    return read(directory).SummaryMetadata(tag).plugin_data


def hparams_data(directory, tag):
    return plugin_data_pb2.HParamsPluginData.FromString(plugin(directory, tag).content)


def test_scalars_read_back_at_their_steps(writer, tmp_path):
    writer.write_scalars(3, {"train/loss": 0.5, "lr": np.float32(0.25)})
    writer.write_scalars(7, {"train/loss": ml_dtypes.bfloat16(0.125), "lr": np.array([2])[0]})
    assert tensors(tmp_path / "run", "train/loss") == [(3, 0.5), (7, 0.125)]
    assert tensors(tmp_path / "run", "lr") == [(3, 0.25), (7, 2.0)]
    assert plugin(tmp_path / "run", "lr").plugin_name == "scalars"


def test_scalars_that_are_not_finite_are_kept(writer, tmp_path):
    writer.write_scalars(1, {"a": float("nan"), "b": float("inf")})
    assert np.isnan(tensors(tmp_path / "run", "a")[0][1])
    assert np.isposinf(tensors(tmp_path / "run", "b")[0][1])


def test_what_is_written_can_be_read_before_flush_and_close(writer, tmp_path):
    writer.write_scalars(1, {"a": 1.0})
    assert tensors(tmp_path / "run", "a") == [(1, 1.0)]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_uint8_images_read_back_exactly(writer, tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, channels)).astype(np.uint8)
    writer.write_images(4, {"conv1": images})
    ((step, strings),) = tensors(tmp_path / "run", "conv1")
    assert step == 4
    assert strings[:2].tolist() == [b"7", b"5"]  # width, height
    decoded = [np.asarray(Image.open(io.BytesIO(png))) for png in strings[2:]]
    np.testing.assert_array_equal(np.stack(decoded).reshape(images.shape), images)
    assert plugin(tmp_path / "run", "conv1").plugin_name == "images"


def test_float_images_are_clipped_and_a_single_image_is_taken(writer, tmp_path):
    image = np.array([[-1.0, 0.0, 0.5, 1.0, 2.0, np.nan]], np.float32)[..., None]
    writer.write_images(0, {"a": image})
    ((_, strings),) = tensors(tmp_path / "run", "a")
    pixels = np.asarray(Image.open(io.BytesIO(strings[2])))
    assert pixels.tolist() == [[0, 0, 128, 255, 255, 0]]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((1, 4, 4, 5), np.uint8), r"shape \(1, 4, 4, 5\)"),
        (np.zeros((1, 4, 4, 3), np.int32), "dtype int32"),
        (np.zeros((1, 4, 4, 3), bool), "dtype bool"),
    ],
)
def test_other_images_are_refused(writer, value, match):
    with pytest.raises(ValueError, match=match):
        writer.write_images(0, {"a": value})


def test_texts_read_back(writer, tmp_path):
    writer.write_texts(2, {"summary": "| a | b |\n\u00e9"})
    ((step, text),) = tensors(tmp_path / "run", "summary")
    assert (step, text.item().decode()) == (2, "| a | b |\n\u00e9")
    assert plugin(tmp_path / "run", "summary").plugin_name == "text"


def test_histograms_count_every_finite_value_once(writer, tmp_path):
    values = np.random.default_rng(0).normal(size=(10, 100)).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    writer.write_histograms(5, {"a": values, "b": values}, {"b": 7})
    ((_, a),), ((step, b),) = tensors(tmp_path / "run", "a"), tensors(tmp_path / "run", "b")
    assert (step, a.shape, b.shape) == (5, (30, 3), (7, 3))
    finite = values[np.isfinite(values)]
    assert a[:, 2].sum() == b[:, 2].sum() == finite.size == 997
    assert (a[0, 0], a[-1, 1]) == pytest.approx((finite.min(), finite.max()))
    assert (a[1:, 0] == a[:-1, 1]).all()
    assert plugin(tmp_path / "run", "a").plugin_name == "histograms"


@pytest.mark.parametrize("values", [[], [np.nan], [3.0, 3.0]])
def test_histograms_of_nothing_and_of_one_value(writer, tmp_path, values):
    writer.write_histograms(0, {"a": np.asarray(values)})
    ((_, table),) = tensors(tmp_path / "run", "a")
    assert table[:, 2].sum() == np.isfinite(values).sum()
    assert np.isfinite(table).all()


def test_histograms_take_bfloat16_and_integers(writer, tmp_path):
    writer.write_histograms(0, {"a": np.ones(4, ml_dtypes.bfloat16), "b": np.arange(4)})
    assert tensors(tmp_path / "run", "a")[0][1][:, 2].sum() == 4
    assert tensors(tmp_path / "run", "b")[0][1][:, 2].sum() == 4


def test_hparams_hold_the_session_and_the_metrics_to_show(writer, tmp_path):
    hparams = {
        "seed": 3,
        "rate": np.float32(0.5),
        "shuffle": True,
        "name": "digits",
        "none": None,
        "limit": float("inf"),
    }
    writer.write_hparams(hparams, metric_names={"val/loss", "val/accuracy"})
    writer.write_session_end(success=True)
    run = tmp_path / "run"
    start = hparams_data(run, metadata.SESSION_START_INFO_TAG).session_start_info
    values = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()
    }
    assert values == {**hparams, "rate": 0.5, "none": "None", "limit": "inf"}
    assert type(values["shuffle"]) is bool
    experiment = hparams_data(run, metadata.EXPERIMENT_TAG).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["val/accuracy", "val/loss"]
    types = {info.name: info.type for info in experiment.hparam_infos}
    assert types["seed"] == api_pb2.DATA_TYPE_FLOAT64
    assert types["shuffle"] == api_pb2.DATA_TYPE_BOOL
    assert types["limit"] == types["name"] == api_pb2.DATA_TYPE_STRING
    end = hparams_data(run, metadata.SESSION_END_INFO_TAG).session_end_info
    assert end.status == api_pb2.STATUS_SUCCESS
    assert end.end_time_secs >= start.start_time_secs


def test_a_failed_session_says_so(writer, tmp_path):
    writer.write_session_end(success=False)
    end = hparams_data(tmp_path / "run", metadata.SESSION_END_INFO_TAG).session_end_info
    assert end.status == api_pb2.STATUS_FAILURE


def test_two_writers_in_one_folder_do_not_overwrite_each_other(tmp_path):
    for step in (1, 2):
        writer = TensorBoardWriter(tmp_path)
        writer.write_scalars(step, {"a": float(step)})
        writer.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def write_in_order(folder, times, monkeypatch, *, existing=()):
    """One writer after the other, by a clock that shows these times; returns what is read."""
    folder.mkdir()
    for name in existing:
        (folder / name).touch()
    for step, now in enumerate(times):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        writer = TensorBoardWriter(folder)
        writer.write_scalars(step, {"a": step})
        writer.close()
    return [step for step, _ in tensors(folder, "a")]


@pytest.mark.parametrize(
    "times",
    [
        [1.8e9, 1.7e9, 1.6e9, 1.9e9],
        [1.7e9] * 12,  # whose numbers have one digit, then two
        [1.7e9, 5.0, 0.0, -7.0],  # a computer without a battery
        [9.9e9, 1.7e9],
    ],
)
def test_files_are_read_in_the_order_of_their_writing_whatever_the_clock_says(
    tmp_path, times, monkeypatch
):
    steps = write_in_order(tmp_path / "run", times, monkeypatch)
    assert steps == [*range(len(times))]
    names = [path.name for path in event_files(tmp_path / "run")]
    assert len({name.split(".")[3] for name in names}) == len(times)


@pytest.mark.parametrize(
    "name",
    ["events.out.tfevents.9999999999.x", "events.out.tfevents.zebra", "zebra.tfevents",
     "events.out.tfevents.99999999999999999999.x"],
)  # fmt: skip
def test_files_of_other_programs_come_before_ours(tmp_path, monkeypatch, name):
    write_in_order(tmp_path / "run", [1.7e9] * 3, monkeypatch, existing=[name])
    names = [path.name for path in event_files(tmp_path / "run")]
    assert names[0] == name
    pids = [f".{os.getpid()}." in each for each in names]
    assert pids == [False, True, True, True]
    numbers = [int(each.rsplit(".", 1)[1]) for each in names[1:]]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("tail", [b"\0" * 40, b"\x07", b"\xff" * 30, b"\0" * 5])
def test_what_a_power_cut_leaves_at_the_end_is_taken_out(tmp_path, tail):
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write_scalars(step, {"a": step})
        writer.write_texts(step, {"text": f"of {step}"})
    writer.close()
    (path,) = event_files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert read_newest(tmp_path, ["text"])["text"].text == "of 3"
    drop_steps(tmp_path, 4)
    assert path.read_bytes() == whole
    drop_steps(tmp_path, 3)
    assert tensors(tmp_path, "a") == [(1, 1.0), (2, 2.0)]


def test_event_files_that_are_no_files_are_left_alone(tmp_path):
    writer = TensorBoardWriter(tmp_path / "other")
    writer.write_scalars(7, {"a": 1})
    writer.close()
    (path,) = event_files(tmp_path / "other")
    content = path.read_bytes()
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run/events.out.tfevents.1.fifo")
    (tmp_path / "run/events.out.tfevents.2.link").symlink_to(path)
    assert event_files(tmp_path / "run") == event_files(tmp_path / "missing") == []
    drop_steps(tmp_path / "run", 0)
    assert path.read_bytes() == content
    assert read_newest(tmp_path / "run", ["a"]) == {}


def test_no_thread_is_left_and_close_may_be_called_twice(tmp_path):
    before = threading.active_count()
    writer = TensorBoardWriter(tmp_path)
    writer.write_scalars(0, {"a": 1.0})
    writer.flush()
    assert threading.active_count() == before
    writer.close()
    writer.close()


class FullDisk:
    """A file whose disk is full after so many bytes."""

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
def test_a_full_disk_is_an_os_error_and_spoils_nothing_before_or_after(writer, tmp_path, room):
    writer.write_scalars(1, {"a": 1.0})
    writer._file = FullDisk(writer._file, room)
    with pytest.raises(OSError, match="No space left"):
        writer.write_scalars(2, {"a": 2.0})
    writer._file.room = 10**6
    writer.write_scalars(3, {"a": 3.0})
    assert tensors(tmp_path / "run", "a") == [(1, 1.0), (3, 3.0)]


def test_tensorflow_is_never_imported(tmp_path):
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
writer.write_hparams({"seed": 0}, metric_names=["a"])
writer.write_session_end(success=True)
writer.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
