import errno
import subprocess
import sys

import pytest
from fake_trainer import FakeTrainer
from helpers import At, event_accumulator, event_values, press_ctrl_c, trainer_of
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from nnx_alexnet.callbacks import Callback, TensorBoard
from nnx_alexnet.dashboard.event_writer import TensorBoardWriter


def scalars_only(*arguments):
    """The part that needs no model and no data."""
    return TensorBoard(*arguments, images=False, histograms=False, norms=False, texts=False)


class Recorder:
    """The methods of a CLU writer that this part calls."""

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


def hparams_data(directory, tag):
    content = event_accumulator(directory).SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def status(directory):
    return hparams_data(directory, metadata.SESSION_END_INFO_TAG).session_end_info.status


def fit(callback, epochs=2, *, exception=None, interrupted=False, **arguments):
    trainer = FakeTrainer([callback], **arguments)
    trainer.interrupted = interrupted
    rows = [{"train/loss": 1.0 / (epoch + 1), "val/loss": 0.5} for epoch in range(epochs)]
    trainer.run_fit(rows, exception=exception)
    return trainer


def test_metrics_and_session_can_be_read_back(tmp_path):
    config = {
        "seed": 1,
        "optimizer": {"rate": 0.1, "betas": [0.9, 0.99]},
        "data": {"name": "digits"},
    }
    fit(scalars_only(), run_dir=tmp_path, config=config)
    assert event_values(tmp_path, "train/loss") == [(10, 1.0), (20, 0.5)]
    assert event_values(tmp_path, "x_epoch") == [(10, 1.0), (20, 2.0)]
    start = hparams_data(tmp_path, metadata.SESSION_START_INFO_TAG).session_start_info
    assert set(start.hparams) == {"seed", "optimizer.rate", "data.name"}
    experiment = hparams_data(tmp_path, metadata.EXPERIMENT_TAG).experiment
    # The accuracies are declared, but never published.
    assert [info.name.tag for info in experiment.metric_infos] == ["val/loss", "train/loss"]
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
def test_the_session_records_how_the_run_ended(tmp_path, arguments, expected):
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
    assert event_values(tmp_path / "b", "x_test/loss") == [(20, 0.25)]


def test_a_given_writer_is_flushed_and_never_closed():
    writer = Recorder()
    fit(scalars_only(writer), 1, config={"seed": 1})
    assert writer.calls == [
        ("hparams", {"seed": 1}),
        ("scalars", 10, {"train/loss": 1.0, "val/loss": 0.5, "epoch": 1.0}),
        ("flush",),
    ]


def test_a_failing_writer_is_reported_once_and_called_again(warnings):
    writer = Recorder(OSError(errno.ENOSPC, "No space left on device"))
    fit(scalars_only(writer), 3)
    assert len(writer.calls) == 5
    assert len(warnings.records) == 1
    assert "No space left" in warnings.text


def test_a_folder_that_cannot_be_created_does_not_end_training(tmp_path, warnings):
    (tmp_path / "file").touch()
    fit(scalars_only(), run_dir=tmp_path / "file" / "run")
    assert len(warnings.records) == 1


def test_no_exception_of_a_writer_ends_training(warnings):
    fit(scalars_only(Recorder(ZeroDivisionError("odd"))))
    assert len(warnings.records) == 1
    assert "odd" in warnings.text


def test_without_a_run_folder_nothing_is_written(tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    fit(TensorBoard())
    assert not list(tmp_path.iterdir())
    assert not warnings.records


def test_a_given_tensorboard_writer_gets_a_session(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    fit(scalars_only(writer))
    writer.close()
    assert hparams_data(tmp_path, metadata.EXPERIMENT_TAG).experiment.metric_infos
    assert status(tmp_path) == api_pb2.STATUS_SUCCESS


def test_importing_callbacks_imports_neither_tensorboard_nor_torch():
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
def test_a_real_run_can_be_read_back_however_it_ended(tmp_path, ending, expected, last_step):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer):
            if trainer.epoch == 1:
                trainer.stop("enough")

    callbacks = {"whole": [], "early stop": [Stop()], "Ctrl-C": [At(6, press_ctrl_c)]}[ending]
    trainer = trainer_of(callbacks=callbacks, max_epochs=3, log_dir=tmp_path, log_every_n_steps=3)
    history = trainer.fit()
    assert trainer.global_step == last_step
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        written = event_values(trainer.run_dir, name)
        assert written == [(row["step"], pytest.approx(row[name])) for row in history]
    for name in ("x_lr", "z_perf/images_per_second"):
        assert event_values(trainer.run_dir, name)
    steps = [step for step, _ in event_values(trainer.run_dir, "train/loss_step")]
    assert steps == list(range(3, last_step + 1, 3))
    epochs = event_values(trainer.run_dir, "x_epoch")
    assert [step for step, _ in epochs] == sorted({*steps, *range(4, last_step + 1, 4), last_step})
    assert all(value == step / 4 for step, value in epochs)
    tag = metadata.SESSION_END_INFO_TAG
    assert hparams_data(trainer.run_dir, tag).session_end_info.status == expected
    start = hparams_data(trainer.run_dir, metadata.SESSION_START_INFO_TAG).session_start_info
    assert start.hparams["trainer.max_epochs"].number_value == 3
    experiment = hparams_data(trainer.run_dir, metadata.EXPERIMENT_TAG).experiment
    shown = [info.name.tag for info in experiment.metric_infos]
    assert shown[:4] == ["val/accuracy", "val/loss", "train/accuracy", "train/loss"]
    assert all(event_values(trainer.run_dir, tag) for tag in shown)
