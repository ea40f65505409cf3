import re
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from fake_trainer import FakeTrainer
from flax import nnx
from helpers import (
    CONTROLS,
    HOSTILE,
    HOSTILE_SHOWN,
    At,
    Dense,
    press_ctrl_c,
    tiny_arrays,
    trainer_of,
)

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import Callback, ModelCheckpoint, ProgressBar, RunSummary, run_summary
from nnx_alexnet.dashboard import read_newest
from nnx_alexnet.support.log import logger

SPLIT = tiny_arrays(num=32)


@pytest.fixture
def lines(caplog, monkeypatch):
    """The logged lines, without those of epochs."""
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    with caplog.at_level("INFO", logger="nnx_alexnet"):
        yield lambda: [each for each in caplog.messages if not each.startswith("epoch ")]
    logger.removeHandler(caplog.handler)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Changed:
    """A trainer some of whose attributes have other values."""

    def __init__(self, trainer, **values):
        self.__dict__.update(values, trainer=trainer)

    def __getattr__(self, name):
        return getattr(self.trainer, name)


def build(data=None, *, model=None, **arguments):
    data = DataModule(SPLIT, SPLIT, SPLIT, batch_size=8, name="stripes") if data is None else data
    model = Dense() if model is None else model
    defaults = {"log_dir": "logs", "name": "tiny", "progress_bar": True}
    return trainer_of(model, data, **{**defaults, **arguments})


def text_of(lines, label):
    """The text of the line with a label; there is at most one."""
    texts = [line[8:] for line in lines() if line.startswith(label.ljust(8))]
    assert len(texts) <= 1
    return texts[0] if texts else None


def begin(trainer, **attributes):
    """Logs the start of a fit, without the fit."""
    RunSummary().on_train_start(Changed(trainer, **attributes))


def test_five_lines_describe_the_run(lines):
    build().fit()
    first = lines()[:5]
    assert first == [
        "device  cpu, 1 of 8 devices",
        "model   Dense on 8x8x1, 260 parameters, 1.0 KB",
        "data    stripes: 32 train, 32 val, 32 test, on the device",
        "run     8 steps of 8 examples, 2 epochs of 4 steps",
        "folder  logs/tiny/version_0; to view it: tensorboard --logdir logs",
    ]


def test_examples_that_no_epoch_uses_are_counted(lines):
    images = tiny_arrays(num=29)
    build(DataModule(images, images, batch_size=8, name="stripes", drop_last=True)).fit()
    text = "6 steps of 8 examples, 2 epochs of 3 steps (5 unused)"
    assert text_of(lines, "run") == text


def test_typical_lines_fit_80_columns(lines, folder):
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
def test_the_data_line_reports_how_examples_reach_the_device(lines, data, where):
    begin(build(data))
    assert text_of(lines, "data") == f"data: 32 train, {where}"


def test_unknown_sizes_of_an_iterable_are_omitted(lines):
    class Batches:
        def __iter__(self):
            return iter([{"image": SPLIT[0][:8], "label": SPLIT[1][:8]}] * 3)

    begin(build(DataModule(Batches()), max_epochs=3))
    assert text_of(lines, "data") == "data: sent batch by batch"
    assert text_of(lines, "run") == "steps of 8 examples, 3 epochs"


@pytest.mark.parametrize(
    ("limits", "step", "text"),
    [
        ({"max_epochs": 1}, 0, "4 steps of 8 examples, 1 epoch of 4 steps"),
        ({"max_steps": 6}, 0, "6 steps of 8 examples, 4 per epoch"),
        ({"max_steps": 6, "max_epochs": 3}, 0, "6 steps of 8 examples, 3 epochs of 4 steps"),
        ({"max_epochs": 5}, 10, "steps 11 to 20 of 8 examples, 5 epochs of 4 steps"),
        ({"max_epochs": 5}, 20, "done: 20 steps of 8 examples, 5 epochs of 4 steps"),
    ],
)
def test_the_run_line_reports_the_length_and_the_resumed_step(lines, limits, step, text):
    begin(build(**limits), global_step=step)
    assert text_of(lines, "run") == text


def test_a_run_without_a_folder_reports_that_nothing_is_written(lines):
    build(log_dir=None, max_steps=1).fit()
    assert text_of(lines, "folder") == "none: nothing is written"
    assert text_of(lines, "saved") is None


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "precision"),
    [
        (None, jnp.float32, ""),
        (jnp.float32, jnp.float32, ""),
        (jnp.bfloat16, jnp.float32, ", computed in bfloat16"),
        (jnp.bfloat16, jnp.bfloat16, ", computed in bfloat16, stored in bfloat16"),
    ],
)
def test_a_precision_other_than_float32_is_reported(lines, dtype, param_dtype, precision):
    model = nnx.Conv(1, 4, (3, 3), dtype=dtype, param_dtype=param_dtype, rngs=nnx.Rngs(0))
    begin(build(model=model))
    size = 40 * jnp.dtype(param_dtype).itemsize
    assert text_of(lines, "model") == f"Conv on 8x8x1, 40 parameters, {size} B{precision}"


def test_the_best_line_names_value_position_and_checkpoint(lines, folder):
    trainer = build(callbacks=[ModelCheckpoint("val/accuracy", mode="max")], max_epochs=3)
    history = trainer.fit()
    best = max(row["val/accuracy"] for row in history)
    pattern = r"val/accuracy (\S+) at step (\d+), epoch (\d), in (\S+)"
    value, step, epoch, path = re.fullmatch(pattern, text_of(lines, "best")).groups()
    assert float(value) == pytest.approx(best, rel=1e-3)
    row = history[int(epoch) - 1]
    assert (row["val/accuracy"], row["step"]) == (best, int(step))
    assert (folder / path / "loop").exists()
    assert text_of(lines, "ended") == "at step 12: 3 epochs done"
    assert text_of(lines, "saved") is None


def test_without_a_ranking_the_best_loss_and_the_last_save_are_named(lines, folder):
    history = build(callbacks=[ModelCheckpoint(None)], max_epochs=3).fit()
    row = min(history, key=lambda row: row["val/loss"])
    best = f"val/loss {row['val/loss']:.4g} at step {row['step']}, epoch {row['epoch'] + 1}"
    assert text_of(lines, "best") == best
    assert text_of(lines, "saved") == "logs/tiny/version_0/checkpoints/12"
    assert (folder / text_of(lines, "saved")).is_dir()


def test_a_best_value_without_a_checkpoint_is_marked(lines, folder, caplog):
    trainer = build(callbacks=[ModelCheckpoint(every_n_epochs=None)], max_epochs=3)
    history = trainer.fit()
    history[0]["val/loss"] = 0.0
    caplog.clear()
    RunSummary().on_fit_end(trainer)
    assert text_of(lines, "best") == "val/loss 0 at step 4, epoch 1, not kept"
    assert text_of(lines, "saved") == "logs/tiny/version_0/checkpoints/12"


def test_a_value_that_is_not_finite_is_never_the_best(lines):
    trainer = FakeTrainer()
    losses = [0.5, float("nan"), 0.7]
    trainer.history = [{"epoch": i, "step": i, "val/loss": x} for i, x in enumerate(losses)]
    RunSummary().on_fit_end(trainer)
    assert text_of(lines, "best") == "val/loss 0.5 at step 0, epoch 1"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_steps": 6}, "at step 6, in epoch 2: max_steps reached"),
        (
            {"callbacks": [At(4, lambda trainer: trainer.stop("it is enough"))]},
            "at step 4: it is enough",
        ),
        ({"callbacks": [At(3, press_ctrl_c)]}, "at step 3, in epoch 1: interrupted"),
    ],
)
def test_the_reason_for_the_end_is_logged_once(lines, arguments, text):
    build(**arguments, log_dir=None).fit()
    assert text_of(lines, "ended") == text
    assert not any(line.startswith("Stopped after") for line in lines())


def test_an_interrupted_run_reports_how_to_resume_it(lines, caplog):
    build(callbacks=[At(3, press_ctrl_c)]).fit()
    assert text_of(lines, "resume") == 'fit(resume="auto")'
    caplog.clear()
    trainer = build()
    trainer.fit(resume="auto")
    assert text_of(lines, "run") == "steps 4 to 8 of 8 examples, 2 epochs of 4 steps"
    assert text_of(lines, "ended") == "at step 8: 2 epochs done"
    assert text_of(lines, "resume") is None


def test_a_run_of_the_command_line_is_resumed_with_a_command(lines):
    config = {"model": {"class_path": "helpers.Dense"}}
    build(callbacks=[At(3, press_ctrl_c)], config=config).fit()
    assert text_of(lines, "resume") == "nnx-alexnet fit --resume logs/tiny/version_0"


def test_a_run_interrupted_before_its_first_step_has_steps_left(lines):
    class Interrupted(Callback):
        def on_train_start(self, trainer):
            press_ctrl_c(trainer)

    build(callbacks=[Interrupted()]).fit()
    assert text_of(lines, "ended") == "at step 0: interrupted"


def test_resuming_a_finished_run_reports_that_nothing_was_left(lines, caplog):
    build().fit()
    saved = text_of(lines, "saved")
    caplog.clear()
    build().fit(resume="auto")
    assert text_of(lines, "run").startswith("done: 8 steps")
    assert text_of(lines, "ended") == ("at step 8: 2 epochs done; nothing was left to train")
    assert text_of(lines, "saved") == saved
    assert "examples/s" not in text_of(lines, "time")


def test_the_speed_is_the_mean_over_all_examples(lines):
    trainer = FakeTrainer([RunSummary()])
    trainer.begin()
    for examples, speed in [(80, 100.0), (160, 400.0)]:  # 0.8 s and 0.4 s
        trainer.num_examples = examples
        trainer.run_epoch({"perf/images_per_second": speed})
    trainer.run_epoch({})  # its speed was not measured
    trainer.end()
    assert text_of(lines, "time").endswith("s, training at 200 examples/s")


def test_the_time_line_reports_how_long_the_fit_took(lines, monkeypatch):
    clock = iter([100.0, 854.0])
    monkeypatch.setattr(run_summary, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    RunSummary().on_fit_end(FakeTrainer())
    assert text_of(lines, "time") == "12m34s"


def test_after_an_exception_no_outcome_is_logged(lines):
    def fail(trainer):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        build(callbacks=[At(3, fail)]).fit()
    assert text_of(lines, "ended") is None
    assert text_of(lines, "time") is None


def test_without_it_only_the_reason_for_a_stop_is_logged(lines):
    stop = At(4, lambda trainer: trainer.stop("it is enough"))
    build(callbacks=[stop], progress_bar=False, log_dir=None).fit()
    assert text_of(lines, "device") is None
    assert text_of(lines, "ended") is None
    assert "Stopped after step 4: it is enough" in lines()


def test_it_can_be_added_without_a_progress_bar(lines):
    build(callbacks=[RunSummary()], progress_bar=False, log_dir=None, max_steps=1).fit()
    build(callbacks=[RunSummary()], log_dir=None, max_steps=1)
    assert text_of(lines, "device") is not None
    assert text_of(lines, "ended") == "at step 1, in epoch 1: max_steps reached"


class LogOne(Callback):
    """Publishes a metric of that name after each epoch."""

    def __init__(self, name):
        self.metric_names = (name,)

    def on_train_epoch_end(self, trainer):
        trainer.log({self.metric_names[0]: 0.5})


def test_control_characters_in_names_are_escaped_in_all_lines(printed, tmp_path):
    split = tiny_arrays(num=16, num_classes=4)
    names = (HOSTILE, "=1", "$x$", "b" * 10_000)
    data = DataModule(split, split, batch_size=8, class_names=names, name=HOSTILE)
    model = type("Net\x1b[2J\n", (Dense,), {})()
    trainer = Trainer(
        model, data, max_epochs=2, name="run", log_dir=tmp_path,
        callbacks=[LogOne("val/{x}%s```é"), ProgressBar()], config={"note": HOSTILE},
    )  # fmt: skip
    trainer.fit()
    trainer.validate()
    text = printed()
    assert set(text) & CONTROLS == {"\n"}
    assert r"Net\x1b[2J\n on 8x8x1" in text
    assert f"{HOSTILE_SHOWN}: 16 train" in text
    assert "{x}%s```é" in text
    assert "0.5000" in text
    starts = {line.split()[0] for line in text.splitlines()}
    assert starts <= {
        "device", "model", "data", "run", "folder", "epoch", "Compiled", "ended", "best", "saved",
        "time", "train", "1/2", "2/2",
    }  # fmt: skip
    newest = read_newest(trainer.run_dir, ["val/mistakes", "val/confusion_matrix", "config"])
    assert set(newest) >= {"val/mistakes", "val/confusion_matrix"}
