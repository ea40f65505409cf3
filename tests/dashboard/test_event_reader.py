"""Event files as they are read: the newest values, and what a resumed run removes."""

import importlib
import struct

import numpy as np
import pytest
from helpers import event_values, events_of
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from nnx_alexnet.dashboard.event_files import event_files
from nnx_alexnet.dashboard.event_reader import StoredImage, drop_steps, read_newest, read_scalars
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter


def write(folder, steps):
    """Writes one event file with a scalar and a text at each step."""
    writer = TensorBoardWriter(folder)
    for step in steps:
        writer.write_scalars(step, {"a": step})
        writer.write_texts(step, {"text": f"of {step}"})
    writer.close()
    return event_files(folder)[-1]


def test_the_newest_value_of_each_tag_is_read(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write_texts(1, {"text": "old", "other": "x"})
    writer.write_images(2, {"image": np.zeros((2, 5, 7, 3), np.uint8)})
    writer.close()
    write(tmp_path, [3])
    found = read_newest(tmp_path, ["text", "image", "missing"])
    assert set(found) == {"text", "image"}
    assert found["text"] == (3, [], "of 3")
    step, images, text = found["image"]
    assert (step, len(images), text) == (2, 2, "")
    assert images[0][:2] == (7, 5)
    assert images[0].png.startswith(b"\x89PNG")
    assert isinstance(images[0], StoredImage)


def test_numbers_are_read_by_step_and_the_newest_counts(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    for step, value in [(1, 0.5), (2, float("nan")), (3, 0.25), (3, 0.75)]:
        writer.write_scalars(step, {"lr": value, "other": 1.0})
    writer.close()
    write(tmp_path, [4])
    assert read_scalars(tmp_path, ["lr", "a", "missing"]) == {"lr": {1: 0.5, 3: 0.75}, "a": {4: 4}}


@pytest.mark.parametrize(
    "tail",
    [
        b"\0" * 40,
        b"\0" * 5,
        b"\x07",
        b"\xff" * 30,
        b"\x40\0\0\0\0\0\0\0half a record",
        *(
            (length := struct.pack("<Q", num)) + struct.pack("<I", masked_crc32c(length)) + b"data"
            for num in (5, 2**20, 2**62, 2**64 - 1)  # with a valid checksum
        ),
    ],
)
def test_a_damaged_tail_is_skipped_and_removed(tmp_path, tail):
    path = write(tmp_path, [1, 2, 3])
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert read_newest(tmp_path, ["text"])["text"].text == "of 3"
    drop_steps(tmp_path, 4)
    assert path.read_bytes() == whole
    drop_steps(tmp_path, 3)
    assert event_values(tmp_path, "x_a") == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("content", [b"", b"no record" * 9, bytes(range(256)) * 10])
def test_a_file_of_anything_has_no_values(tmp_path, content):
    (tmp_path / "events.out.tfevents.1.x").write_bytes(content)
    assert read_newest(tmp_path, ["text"]) == {}
    drop_steps(tmp_path, 1)
    assert (tmp_path / "events.out.tfevents.1.x").read_bytes() == b""


def test_a_file_deleted_meanwhile_is_left_out(tmp_path, monkeypatch):
    write(tmp_path, [1])
    missing = tmp_path / "events.out.tfevents.1.missing"
    found = [missing, *event_files(tmp_path)]
    monkeypatch.setattr("nnx_alexnet.dashboard.event_reader.event_files", lambda _: found)
    assert read_newest(tmp_path, ["text"])["text"].step == 1
    with pytest.raises(FileNotFoundError):
        drop_steps(tmp_path, 1)


def test_repeated_steps_and_sessions_are_removed_and_the_rest_kept(tmp_path):
    def write_session(steps):
        writer = TensorBoardWriter(tmp_path)
        writer.write_hparams({"seed": 0})
        for step in steps:
            writer.write_scalars(step, {"train/loss": step})
            writer.write_images(step, {"val/mistakes": np.zeros((4, 4, 3), np.uint8)})
        writer.close()
        return event_files(tmp_path)[-1]

    def steps_of(tag):
        return [step for step, _ in event_values(tmp_path, tag)]

    first, _ = write_session([1, 2]), write_session([3, 4, 5])
    size = first.stat().st_size
    drop_steps(tmp_path, 4)
    assert steps_of("train/loss") == steps_of("y_val/mistakes") == [1, 2, 3]
    assert steps_of("_hparams_/session_start_info") == []
    assert 0 < first.stat().st_size < size
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    drop_steps(tmp_path, 4)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    drop_steps(tmp_path, 0)
    assert steps_of("train/loss") == []


@pytest.mark.parametrize("module", ["event_accumulator", "plugin_event_accumulator"])
def test_an_open_reader_forgets_the_steps_before_a_restart(tmp_path, module):
    folder = "tensorboard.backend.event_processing"
    accumulator = importlib.import_module(f"{folder}.{module}").EventAccumulator
    reader = accumulator(str(tmp_path), size_guidance={"tensors": 0, "histograms": 0})

    def write_session(first_step, steps):
        writer = TensorBoardWriter(tmp_path)
        writer.write_restart(first_step)
        for step in steps:
            writer.write_scalars(step, {"train/loss": step})
            writer.write_histograms(step, {"parameters/a": np.arange(step)})
        writer.close()
        events = reader.Reload()
        tags = "train/loss", "z_parameters/a"
        return [[event.step for event in events_of(events, tag)] for tag in tags]

    assert write_session(0, [1, 2, 3]) == [[1, 2, 3]] * 2
    drop_steps(tmp_path, 2)
    assert write_session(2, [2]) == [[1, 2]] * 2


def test_links_and_files_of_other_programs_are_not_changed(tmp_path):
    path = write(tmp_path / "other", [7])
    content = path.read_bytes()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/events.out.tfevents.2.link").symlink_to(path)
    (tmp_path / "run/profile.tfevents").write_bytes(content)
    drop_steps(tmp_path / "run", 0)
    assert path.read_bytes() == (tmp_path / "run/profile.tfevents").read_bytes() == content
