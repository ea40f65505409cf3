import re
import signal
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from flax import nnx
from helpers import Dense, tiny_arrays

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback, ModelCheckpoint, RunSummary, run_summary
from nnx_alexnet.support.log import logger

SPLIT = tiny_arrays(num=32)


@pytest.fixture
def lines(caplog, monkeypatch):
    """What was logged, without the lines of epochs."""
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    with caplog.at_level("INFO", logger="nnx_alexnet"):
        yield lambda: [each for each in caplog.messages if not each.startswith("epoch ")]
    logger.removeHandler(caplog.handler)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(data=None, *, model=None, callbacks=(), **arguments):
    data = DataModule(SPLIT, SPLIT, SPLIT, batch_size=8, name="stripes") if data is None else data
    model = Dense() if model is None else model
    defaults = {"max_epochs": 2, "name": "tiny"} if "max_steps" not in arguments else {}
    return Trainer(model, data, callbacks=callbacks, **{"name": "tiny", **defaults, **arguments})


def said(lines, label):
    """The text of the line with that label; there is one at most."""
    texts = [line[8:] for line in lines() if line.startswith(label.ljust(8))]
    assert len(texts) <= 1
    return texts[0] if texts else None


def begin(trainer, **attributes):
    """What is said at the start of a fit, without the fit."""
    for name, value in attributes.items():
        setattr(trainer, name, value)
    RunSummary().on_train_start(trainer)


class At(Callback):
    """Does something after one step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if trainer.global_step == self.step:
            self.action(trainer)


def interrupt(trainer):
    signal.raise_signal(signal.SIGINT)


def test_five_lines_say_what_a_fit_will_do(lines):
    build().fit()
    first = lines()[:5]
    assert first == [
        "device  cpu, 1 of 8 devices",
        "model   Dense on 8x8x1, 260 parameters, 1.0 KB",
        "data    stripes: 32 train, 32 val, 32 test, on the device",
        "run     8 steps of 8 images, 2 epochs of 4 steps",
        "folder  logs/tiny/version_0, to be seen with tensorboard --logdir logs",
    ]


def test_examples_that_an_epoch_leaves_out_are_counted(lines):
    images = tiny_arrays(num=29)
    build(DataModule(images, images, batch_size=8, name="stripes", drop_last=True)).fit()
    text = "6 steps of 8 images, 2 epochs of 3 steps (5 images unused)"
    assert said(lines, "run") == text


def test_the_usual_lines_fit_a_terminal_of_80_columns(lines, folder):
    images = tiny_arrays(num=1_000)
    data = DataModule(images, images, images, batch_size=64, name="fashion_mnist")
    trainer = build(data, max_epochs=90, name="fashion/adam")
    begin(trainer, run_dir=folder / "logs/fashion/adam/version_10")
    assert len(lines()) == 5
    assert max(map(len, lines())) < 80


class Images:
    def __len__(self):
        return len(SPLIT[1])

    def __getitem__(self, index):
        return SPLIT[0][index], int(SPLIT[1][index])


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (DataModule(SPLIT, batch_size=8, keep_on_device=False), "sent batch by batch"),
        (DataModule(Images(), batch_size=8), "sent batch by batch"),
        (DataModule(Images(), batch_size=8, num_workers=1), "read by 1 worker"),
        (DataModule(Images(), batch_size=8, num_workers=3), "read by 3 workers"),
        (DataModule(SPLIT, batch_size=8, num_workers=3), "sent batch by batch"),
    ],
)
def test_it_says_how_the_examples_come_to_the_device(lines, data, where):
    begin(build(data))
    assert said(lines, "data") == f"data: 32 train, {where}"


def test_what_an_iterable_does_not_tell_is_left_out(lines):
    class Batches:
        def __iter__(self):
            return iter([{"image": SPLIT[0][:8], "label": SPLIT[1][:8]}] * 3)

    begin(build(DataModule(Batches()), max_epochs=3))
    assert said(lines, "data") == "data: sent batch by batch"
    assert said(lines, "run") == "steps of 8 images, 3 epochs"


@pytest.mark.parametrize(
    ("limits", "step", "text"),
    [
        ({"max_epochs": 1}, 0, "4 steps of 8 images, 1 epoch of 4 steps"),
        ({"max_steps": 6}, 0, "6 steps of 8 images, 4 per epoch"),
        ({"max_steps": 6, "max_epochs": 3}, 0, "6 steps of 8 images, 3 epochs of 4 steps"),
        ({"max_epochs": 5}, 10, "steps 11 to 20 of 8 images, 5 epochs of 4 steps"),
        ({"max_epochs": 5}, 20, "done: 20 steps of 8 images, 5 epochs of 4 steps"),
    ],
)
def test_the_length_of_the_run_and_where_it_is_resumed(lines, limits, step, text):
    begin(build(**limits), global_step=step)
    assert said(lines, "run") == text


def test_nothing_is_written_without_a_folder_and_that_is_said(lines):
    build(log_dir=None, max_steps=1).fit()
    assert said(lines, "folder") == "none, nothing is written"
    assert said(lines, "saved") is None


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "precision"),
    [
        (None, jnp.float32, ""),
        (jnp.float32, jnp.float32, ""),
        (jnp.bfloat16, jnp.float32, ", computes in bfloat16"),
        (jnp.bfloat16, jnp.bfloat16, ", computes in bfloat16, kept in bfloat16"),
    ],
)
def test_a_precision_that_is_not_float32_is_said(lines, dtype, param_dtype, precision):
    model = nnx.Conv(1, 4, (3, 3), dtype=dtype, param_dtype=param_dtype, rngs=nnx.Rngs(0))
    begin(build(model=model))
    size = 40 * jnp.dtype(param_dtype).itemsize
    assert said(lines, "model") == f"Conv on 8x8x1, 40 parameters, {size} B{precision}"


def test_the_best_is_that_of_the_checkpoint_and_its_folder_is_named(lines, folder):
    trainer = build(callbacks=[ModelCheckpoint("val/accuracy", mode="max")], max_epochs=3)
    history = trainer.fit()
    best = max(row["val/accuracy"] for row in history)
    pattern = r"val/accuracy (\S+) at step (\d+), epoch (\d), in (\S+)"
    value, step, epoch, path = re.fullmatch(pattern, said(lines, "best")).groups()
    assert float(value) == pytest.approx(best, rel=1e-3)
    row = history[int(epoch) - 1]
    assert (row["val/accuracy"], row["step"]) == (best, int(step))
    assert (folder / path / "loop").exists()
    assert said(lines, "ended") == "at step 12: 3 epochs done"
    assert said(lines, "saved") is None


def test_without_a_monitor_the_best_loss_and_the_last_checkpoint_are_named(lines, folder):
    history = build(callbacks=[ModelCheckpoint(None)], max_epochs=3).fit()
    row = min(history, key=lambda row: row["val/loss"])
    best = f"val/loss {row['val/loss']:.4g} at step {row['step']}, epoch {row['epoch'] + 1}"
    assert said(lines, "best") == best
    assert said(lines, "saved") == "logs/tiny/version_0/checkpoints/12"
    assert (folder / said(lines, "saved")).is_dir()


def test_a_best_that_was_not_kept_is_said_to_be_none(lines, folder, caplog):
    trainer = build(callbacks=[ModelCheckpoint(every_n_epochs=None)], max_epochs=3)
    history = trainer.fit()
    history[0]["val/loss"] = 0.0
    caplog.clear()
    RunSummary().on_fit_end(trainer)
    assert said(lines, "best") == "val/loss 0 at step 4, epoch 1, not kept"
    assert said(lines, "saved") == "logs/tiny/version_0/checkpoints/12"


def test_a_value_that_is_not_finite_is_no_best(lines):
    trainer = build(log_dir=None)
    losses = [0.5, float("nan"), 0.7]
    trainer.history = [{"epoch": i, "step": i, "val/loss": x} for i, x in enumerate(losses)]
    RunSummary().on_fit_end(trainer)
    assert said(lines, "best") == "val/loss 0.5 at step 0, epoch 1"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_steps": 6}, "at step 6, in epoch 2: max_steps reached"),
        (
            {"callbacks": [At(4, lambda trainer: trainer.stop("it is enough"))]},
            "at step 4: it is enough",
        ),
        ({"callbacks": [At(3, interrupt)]}, "at step 3, in epoch 1: interrupted"),
    ],
)
def test_it_says_why_the_run_ended_once(lines, arguments, text):
    build(**arguments, log_dir=None).fit()
    assert said(lines, "ended") == text
    assert not any(line.startswith("Stopped after") for line in lines())


def test_an_interrupted_run_says_how_to_go_on_and_the_resumed_one_goes_on_from_there(lines, caplog):
    build(callbacks=[At(3, interrupt)]).fit()
    assert said(lines, "go on") == 'fit(resume="auto")'
    caplog.clear()
    trainer = build()
    trainer.fit(resume="auto")
    assert said(lines, "run") == "steps 4 to 8 of 8 images, 2 epochs of 4 steps"
    assert said(lines, "ended") == "at step 8: 2 epochs done"
    assert said(lines, "go on") is None


def test_a_run_of_the_command_goes_on_with_the_command(lines):
    config = {"model": {"class_path": "helpers.Dense"}}
    build(callbacks=[At(3, interrupt)], config=config).fit()
    assert said(lines, "go on") == "nnx-alexnet fit --resume logs/tiny/version_0"


def test_a_resumed_run_that_had_ended_says_that_nothing_was_left(lines, caplog):
    build().fit()
    saved = said(lines, "saved")
    caplog.clear()
    build().fit(resume="auto")
    assert said(lines, "run").startswith("done: 8 steps")
    assert said(lines, "ended") == ("at step 8: 2 epochs done; there was nothing left to train")
    assert said(lines, "saved") == saved
    assert "images/s" not in said(lines, "time")


def test_the_speed_is_the_mean_of_the_epochs_by_their_length(lines):
    trainer = build(log_dir=None)
    summary = RunSummary()
    summary.on_fit_start(trainer)
    for steps, speed in [(10, 100.0), (20, 400.0)]:  # 80 images in 0.8 s, 160 in 0.4 s
        trainer.global_step += steps
        trainer.num_examples = steps * trainer.batch_size
        trainer.metrics["perf/images_per_second"] = speed
        trainer.metric_steps["perf/images_per_second"] = trainer.global_step
        summary.on_train_epoch_end(trainer)
    summary.on_fit_end(trainer)
    assert said(lines, "time").endswith("s, training at 200 images/s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3599.9, "59 min 59 s"),
     (3600, "1 h 0 min"), (7380, "2 h 3 min"), (90_000, "25 h 0 min")],
)  # fmt: skip
def test_a_duration_is_told_in_the_units_of_its_size(lines, monkeypatch, seconds, text):
    trainer = build(log_dir=None)
    clock = iter([100.0, 100.0 + seconds])
    fake = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(run_summary, "time", fake)
    RunSummary().on_fit_end(trainer)
    assert said(lines, "time") == text


def test_after_an_exception_it_says_nothing(lines):
    def fail(trainer):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        build(callbacks=[At(3, fail)]).fit()
    assert said(lines, "ended") is None
    assert said(lines, "time") is None


def test_without_a_progress_bar_it_is_silent_but_the_reason_of_a_stop_is_still_said(lines):
    stop = At(4, lambda trainer: trainer.stop("it is enough"))
    build(callbacks=[stop], progress_bar=False, log_dir=None).fit()
    assert said(lines, "device") is None
    assert said(lines, "ended") is None
    assert "Stopped after step 4: it is enough" in lines()


def test_one_that_is_given_speaks_alone_also_without_a_progress_bar(lines):
    build(callbacks=[RunSummary()], progress_bar=False, log_dir=None, max_steps=1).fit()
    build(callbacks=[RunSummary()], log_dir=None, max_steps=1)
    assert said(lines, "device") is not None
    assert said(lines, "ended") == "at step 1, in epoch 1: max_steps reached"
