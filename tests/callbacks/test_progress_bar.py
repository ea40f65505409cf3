import io
import sys
import time

import numpy as np
import pytest
from fake_trainer import FakeTrainer
from notebook import FakeNotebook

from nnx_alexnet.callbacks import ProgressBar
from nnx_alexnet.callbacks.progress_bar import finished_mean
from nnx_alexnet.support.log import logger

METRICS = {
    "train/loss_step": 9.0,
    "perf/images_per_second": 812.4,
    "train/loss": 0.12345,
    "train/accuracy": 0.98,
    "val/loss": 0.5,
    "val/accuracy": 1.0,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    with caplog.at_level("INFO", logger="nnx_alexnet"):
        yield caplog
    logger.removeHandler(caplog.handler)


class Loss:
    """A scalar on the device; reading one that is not ready would wait."""

    def __init__(self, value, is_ready=True):
        self.value = value
        self.is_ready = lambda: is_ready

    def __array__(self, dtype=None, copy=None):
        assert self.is_ready()
        return np.float32(self.value)


def test_without_a_terminal_the_epochs_are_rows_of_a_table(lines):
    trainer = FakeTrainer([ProgressBar()], max_epochs=3)
    trainer.run_fit([METRICS, {"train/loss": 0.1}])
    splits, headings, first, split, narrow, second = (line.split() for line in lines.messages)
    assert splits == ["train", "val"]
    assert headings == [
        "epoch", "step", "loss", "accuracy", "loss", "accuracy", "examples/s", "time",
    ]  # fmt: skip
    assert first[:-1] == ["1/3", "10", "0.1235", "0.9800", "0.5000", "1.0000", "812"]
    # No validation in the second epoch: the stale values of the first are not shown.
    assert (split, narrow) == (["train"], ["epoch", "step", "loss", "time"])
    assert second[:-1] == ["2/3", "20", "0.1000"]


def test_the_bar_shows_what_is_done_before_the_first_loss(terminal):
    bar = ProgressBar(refresh_seconds=60)
    trainer = FakeTrainer([bar])
    trainer.begin()
    assert terminal.getvalue().strip("\r").split("|")[2].startswith(" step 0/60  compiling")
    trainer.global_step = 1
    bar.on_train_batch_end(trainer, {"loss": Loss(2.5)}, {}, 0)
    assert "step 1/60  " in terminal.getvalue()
    assert terminal.getvalue().split(" left")[1].startswith("  loss 2.5")
    bar.on_validation_start(trainer)
    assert "step 1/60  validating" in terminal.getvalue()
    trainer.end()


def test_the_loss_is_the_mean_of_steps_that_have_finished():
    assert finished_mean([Loss(9, is_ready=False)]) is None
    assert finished_mean([Loss(1), Loss(2), Loss(9, is_ready=False)]) == 1.5


def test_a_fit_of_unknown_length_shows_the_elapsed_time(lines, terminal):
    trainer = FakeTrainer([ProgressBar(1e-9)], max_epochs=None, steps_per_epoch=None)
    trainer.begin()
    trainer.run_epoch(METRICS, steps=3)
    trainer.end()
    assert lines.messages[2].split()[:3] == ["1", "3", "0.1235"]
    assert "step 2  00:00 elapsed  loss 9" in terminal.getvalue()


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        ({"max_epochs": 3, "steps_per_epoch": 10}, "/30"),
        ({"max_epochs": 3, "steps_per_epoch": 10, "max_steps": 25}, "/25"),
        ({"max_epochs": None, "steps_per_epoch": 10, "max_steps": 50}, "/50"),
    ],
)
def test_the_bar_is_full_at_the_last_step(terminal, limits, total):
    trainer = FakeTrainer([ProgressBar(1e-9)], **limits)
    trainer.begin()
    trainer.run_epoch(METRICS, steps=2)
    trainer.end()
    assert f"step 2{total}" in terminal.getvalue()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_bar_fits_the_terminal(terminal, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    trainer = FakeTrainer([ProgressBar(1e-9)])
    trainer.run_fit([METRICS] * 2)
    shown = terminal.getvalue().replace("\x1b[J", "")  # clears the rest of the line
    drawn = [part for line in shown.splitlines() for part in line.split("\r")]
    assert max(map(len, drawn)) < columns
    assert any("left" in part for part in drawn)
    assert any("val/accuracy 1" in part for part in drawn if "left" in part) == (columns == 200)


def test_a_terminal_that_gets_narrower_cuts_the_bar(terminal, monkeypatch):
    bar = ProgressBar(1e-9)
    trainer = FakeTrainer([bar])
    trainer.begin()
    trainer.run([METRICS])
    monkeypatch.setenv("COLUMNS", "40")
    before = len(terminal.getvalue())
    bar._display._bar.refresh()  # as tqdm does after a line of the log
    shown = terminal.getvalue()[before:].replace("\x1b[J", "").strip("\r")
    assert shown.startswith("epoch 1/6 |")
    assert len(shown) == 39
    trainer.end()


def test_a_dumb_terminal_has_only_lines(lines, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    trainer = FakeTrainer([ProgressBar(1e-9)])
    trainer.run_fit([METRICS] * 2)
    assert terminal.getvalue() == ""
    assert len(lines.messages) == 4


def test_a_notebook_has_a_table_instead_of_lines(lines, monkeypatch):
    notebook = FakeNotebook.install(monkeypatch)
    trainer = FakeTrainer([ProgressBar(1e-9)], max_epochs=2)
    trainer.begin()
    assert notebook.text() == ["epoch 1/2 · step 0 of 20 · compiling"]
    trainer.run([METRICS, {"train/loss": 0.1}])
    assert notebook.text()[-1].startswith("epoch 2/2 · step 20 of 20 · ")
    trainer.end()
    assert lines.messages == []
    assert [line.rsplit(maxsplit=2)[0] for line in notebook.text()] == [
        "epoch  step  train/loss  train/accuracy  val/loss  val/accuracy",
        "  1/2    10      0.1235          0.9800    0.5000        1.0000",
        "  2/2    20      0.1000               -         -             -",  # stale: -
    ]


def test_a_resumed_fit_shows_the_epochs_before_it_in_the_table(monkeypatch):
    notebook = FakeNotebook.install(monkeypatch)
    trainer = FakeTrainer([ProgressBar()])
    trainer.history = [{"epoch": 2, "step": 30, "val/loss": 0.25, "perf/images_per_second": 9.0}]
    trainer.begin()
    trainer.end()
    assert notebook.text()[1].split() == ["3/6", "30", "0.2500", "9", "-"]


@pytest.mark.parametrize("exception", [None, RuntimeError("boom"), KeyboardInterrupt()])
def test_every_end_of_a_fit_removes_the_bar_and_restores_the_log(terminal, exception):
    handlers = list(logger.handlers)
    bar = ProgressBar(1e-9)
    trainer = FakeTrainer([bar])
    trainer.begin()
    trainer.run([METRICS])
    assert bar._display.is_open
    trainer.end(exception)
    assert not bar._display.is_open
    assert logger.handlers == handlers
    assert terminal.getvalue().endswith("\r")
    trainer.run([METRICS])  # after the end nothing is drawn
    assert terminal.getvalue().endswith("\r")


def test_a_resumed_fit_continues_the_bar(terminal):
    trainer = FakeTrainer([ProgressBar()])
    trainer.global_step, trainer.epoch = 30, 3
    trainer.begin()
    trainer.end()
    assert "epoch 4/6" in terminal.getvalue()
    assert "step 30/60" in terminal.getvalue()


def test_between_drawings_a_step_costs_microseconds(terminal):
    bar = ProgressBar(refresh_seconds=60)
    trainer = FakeTrainer([bar])
    trainer.begin()
    outputs = {"loss": Loss(1)}
    bar.on_train_batch_end(trainer, outputs, {}, 0)
    drawn = terminal.getvalue()
    start = time.perf_counter()
    for index in range(10_000):
        bar.on_train_batch_end(trainer, outputs, {}, index)
    seconds = time.perf_counter() - start
    assert terminal.getvalue() == drawn
    assert seconds / 10_000 < 20e-6  # half a microsecond on an idle machine
    trainer.end()


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_refresh_time_must_be_positive(seconds):
    with pytest.raises(ValueError, match="`refresh_seconds`"):
        ProgressBar(seconds)


def test_a_metric_with_braces_is_shown_in_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    trainer = FakeTrainer([ProgressBar(1e-9)])
    trainer.begin()
    trainer.run([{"val/{x}\x1b[2J": 0.5}] * 2)
    trainer.end()
    assert "val/{x}\\x1b[2J 0.5" in sys.stderr.getvalue()


def test_a_clock_set_back_does_not_change_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    trainer = FakeTrainer([ProgressBar(1e-9)])
    trainer.begin()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 100_000)
    trainer.run([{"train/loss": 0.5}] * 2)
    trainer.end()
    assert " left" in sys.stderr.getvalue()
    assert "-" not in sys.stderr.getvalue().replace("--", "")
