import errno
import json
import math
import signal
import subprocess
import sys

import pytest
from fake_trainer import FakeTrainer
from flax import nnx
from helpers import TinyNet, tiny_arrays
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback, JSONLogger, TensorBoard
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter


def scalars_only(*arguments):
    """What needs no model and no data."""
    return TensorBoard(*arguments, images=False, histograms=False, texts=False)


class Recorder:
    """The methods of a CLU writer that are used."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def _call(self, *call):
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def write_scalars(self, step, scalars):
        self._call("scalars", step, dict(scalars))

    def write_hparams(self, hparams):
        self._call("hparams", dict(hparams))

    def flush(self):
        self._call("flush")

    def close(self):
        self._call("close")


def read(directory):
    events = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    events.Reload()
    return events


def value_of(event):
    return float(make_ndarray(event.tensor_proto))


def hparams_data(directory, tag):
    content = read(directory).SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def status(directory):
    return hparams_data(directory, metadata.SESSION_END_INFO_TAG).session_end_info.status


def fit(callback, epochs=2, *, exception=None, interrupted=False, **arguments):
    trainer = FakeTrainer([callback], **arguments)
    trainer.begin()
    trainer.run([{"train/loss": 1.0 / (epoch + 1), "val/loss": 0.5} for epoch in range(epochs)])
    trainer.interrupted = interrupted
    trainer.end(exception)
    return trainer


def test_metrics_and_session_read_back(tmp_path):
    config = {
        "seed": 1,
        "optimizer": {"rate": 0.1, "betas": [0.9, 0.99]},
        "data": {"name": "digits"},
    }
    fit(scalars_only(), run_dir=tmp_path, config=config)
    points = [
        (e.step, make_ndarray(e.tensor_proto).item()) for e in read(tmp_path).Tensors("train/loss")
    ]
    assert points == [(10, 1.0), (20, 0.5)]
    start = hparams_data(tmp_path, metadata.SESSION_START_INFO_TAG).session_start_info
    assert set(start.hparams) == {"seed", "optimizer.rate", "data.name"}
    experiment = hparams_data(tmp_path, metadata.EXPERIMENT_TAG).experiment
    shown = {info.name.tag for info in experiment.metric_infos}
    assert shown == {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"}
    assert status(tmp_path) == api_pb2.STATUS_SUCCESS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, api_pb2.STATUS_SUCCESS),
        ({"interrupted": True}, api_pb2.STATUS_FAILURE),
        ({"exception": RuntimeError("boom")}, api_pb2.STATUS_FAILURE),
        ({"exception": KeyboardInterrupt()}, api_pb2.STATUS_FAILURE),
    ],
)
def test_the_session_says_how_the_run_ended(tmp_path, arguments, expected):
    fit(scalars_only(), run_dir=tmp_path, **arguments)
    assert status(tmp_path) == expected


def test_one_instance_serves_two_fits_and_a_test(tmp_path):
    callback = scalars_only()
    fit(callback, run_dir=tmp_path / "a", exception=RuntimeError("boom"))
    trainer = fit(callback, run_dir=tmp_path / "b")
    assert status(tmp_path / "b") == api_pb2.STATUS_SUCCESS
    trainer.log({"test/loss": 0.25})
    trainer.callbacks.call("teardown", trainer, "test")
    assert not callback._output.is_open
    events = read(tmp_path / "b").Tensors("test/loss")
    assert [make_ndarray(event.tensor_proto).item() for event in events] == [0.25]


def test_a_given_writer_is_flushed_and_never_closed():
    writer = Recorder()
    fit(scalars_only(writer), 1, config={"seed": 1})
    assert writer.calls == [
        ("hparams", {"seed": 1}),
        ("scalars", 10, {"train/loss": 1.0, "val/loss": 0.5}),
        ("flush",),
    ]


def test_a_writer_that_fails_is_reported_once_and_tried_again(warnings):
    writer = Recorder(OSError(errno.ENOSPC, "No space left on device"))
    fit(scalars_only(writer), 3)
    assert len(writer.calls) == 5
    assert len(warnings.records) == 1
    assert "No space left" in warnings.text


def test_a_folder_that_cannot_be_made_does_not_end_training(tmp_path, warnings):
    (tmp_path / "file").touch()
    fit(scalars_only(), run_dir=tmp_path / "file" / "run")
    assert len(warnings.records) == 1


def test_whatever_a_given_writer_raises_is_reported_and_ends_nothing(warnings):
    fit(scalars_only(Recorder(ZeroDivisionError("odd"))))
    assert len(warnings.records) == 1
    assert "odd" in warnings.text


@pytest.mark.parametrize("callback", [scalars_only, JSONLogger])
def test_without_a_run_folder_nothing_is_written(callback, tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    fit(callback())
    assert not list(tmp_path.iterdir())
    assert not warnings.records


def test_a_given_tensorboard_writer_gets_the_metrics_to_show(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    fit(scalars_only(writer))
    writer.close()
    assert hparams_data(tmp_path, metadata.EXPERIMENT_TAG).experiment.metric_infos
    assert status(tmp_path) == api_pb2.STATUS_SUCCESS


def lines(directory):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_each_line_is_one_json_object(tmp_path):
    fit(JSONLogger(), run_dir=tmp_path)
    assert lines(tmp_path) == [
        {"step": 10, "epoch": 0, "train/loss": 1.0, "val/loss": 0.5},
        {"step": 20, "epoch": 1, "train/loss": 0.5, "val/loss": 0.5},
    ]


def test_values_that_are_not_finite_are_null(tmp_path):
    trainer = FakeTrainer([JSONLogger()], run_dir=tmp_path)
    trainer.log({"a": math.nan, "b": -math.inf, "c": 1.0})
    assert lines(tmp_path) == [{"step": 0, "epoch": 0, "a": None, "b": None, "c": 1.0}]


def test_a_resumed_run_writes_on_after_what_its_checkpoint_knew(tmp_path):
    first = JSONLogger()
    fit(first, run_dir=tmp_path)
    known = first.state_dict()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30}\n{"st')  # after the checkpoint, and cut short by a kill
    second = JSONLogger()
    trainer = FakeTrainer([second], run_dir=tmp_path)
    second.on_fit_start(trainer)
    second.load_state_dict(known)
    second.on_train_start(trainer)
    trainer.log({"train/loss": 0.25})
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 0]


def test_a_new_run_in_a_folder_that_was_used_begins_an_empty_log(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    fit(JSONLogger(), run_dir=tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]


def test_a_log_that_cannot_be_written_is_reported_once(tmp_path, warnings):
    (tmp_path / "file").touch()
    fit(JSONLogger(), run_dir=tmp_path / "file")
    assert len(warnings.records) == 1


def test_the_callbacks_are_imported_without_tensorboard_and_torch():
    code = (
        "import sys, nnx_alexnet.callbacks\nassert not {'tensorboard', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("ending", "expected", "last_step"),
    [
        ("whole", api_pb2.STATUS_SUCCESS, 12),
        ("early stop", api_pb2.STATUS_SUCCESS, 8),
        ("Ctrl-C", api_pb2.STATUS_FAILURE, 6),
    ],
)
def test_a_real_run_reads_back_however_it_ended(tmp_path, ending, expected, last_step):
    class End(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if ending == "Ctrl-C" and trainer.global_step == 6:
                signal.raise_signal(signal.SIGINT)

        def on_train_epoch_end(self, trainer):
            if ending == "early stop" and trainer.epoch == 1:
                trainer.stop("enough")

    split = tiny_arrays(num=64)
    data = DataModule(split, split, batch_size=16)
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), data, callbacks=[End()], max_epochs=3, log_dir=tmp_path,
        log_every_n_steps=3, progress_bar=False,
    )  # fmt: skip
    history = trainer.fit()
    assert trainer.global_step == last_step
    events = read(trainer.run_dir)
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        written = [(event.step, value_of(event)) for event in events.Tensors(name)]
        assert written == [(row["step"], pytest.approx(row[name])) for row in history]
    for name in ("lr", "perf/images_per_second", "train/loss_step"):
        assert events.Tensors(name)
    assert [event.step for event in events.Tensors("train/loss_step")] == list(
        range(3, last_step + 1, 3)
    )
    tag = metadata.SESSION_END_INFO_TAG
    assert hparams_data(trainer.run_dir, tag).session_end_info.status == expected
    start = hparams_data(trainer.run_dir, metadata.SESSION_START_INFO_TAG).session_start_info
    assert start.hparams["trainer.max_epochs"].number_value == 3
