"""Checkpoints that a `Trainer` writes."""

import logging
import shutil
import signal
import threading
import time

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import TinyNet, tiny_arrays, trainer_of, tree_equal

from nnx_alexnet import DataModule, Trainer, load_checkpoint
from nnx_alexnet.callbacks import Callback, EarlyStopping, ModelCheckpoint
from nnx_alexnet.checkpoints import choose_checkpoint, read_loop
from nnx_alexnet.checkpoints import save as writing


def fit(tmp_path, *, callbacks=(), **arguments):
    data = DataModule(tiny_arrays(num=64), tiny_arrays(num=30, seed=1), batch_size=16)
    defaults = {"max_epochs": 3, "log_dir": tmp_path, "callbacks": callbacks}
    trainer = trainer_of(data=data, **{**defaults, **arguments})
    trainer.fit()
    return trainer


def test_short_epochs_do_not_wait_for_saves_and_the_best_is_kept(tmp_path, monkeypatch):
    write, written = writing.write_checkpoint, []

    def slow(folder, arrays, loop):
        written.append(loop["global_step"])
        time.sleep(0.5)
        write(folder, arrays, loop)

    monkeypatch.setattr(writing, "write_checkpoint", slow)

    class Sets(Callback):
        def on_validation_end(self, trainer):
            trainer.log({"val/mine": {5: 0.5, 9: 0.9}.get(trainer.epoch, 0.1)})

        metric_names = ("val/mine",)

    trainer = fit(
        tmp_path, callbacks=[Sets(), ModelCheckpoint("val/mine", mode="max")], max_epochs=12
    )
    assert {4, 40, 48} <= {*written}, "the first, the best, and the last"
    assert len(written) < 8
    steps = {int(path.name) for path in (trainer.run_dir / "checkpoints").iterdir()}
    assert {40, 48} <= steps


def test_a_request_that_does_not_give_way_is_honoured(tmp_path):
    class Twice(Callback):
        priority = 200  # after the callback that gives way

        def on_train_epoch_end(self, trainer):
            if trainer.epoch == 1:
                trainer.request_checkpoint()

    seen = {}

    class Spy(Callback):
        def on_train_start(self, trainer):
            save = trainer.checkpoints.save

            def spy(step, *arguments, gives_way, **options):
                seen[step] = gives_way
                save(step, *arguments, gives_way=gives_way, **options)

            trainer.checkpoints.save = spy

    class Always(ModelCheckpoint):
        def on_train_epoch_end(self, trainer):
            trainer.request_checkpoint(gives_way=True)

    fit(tmp_path, callbacks=[Spy(), Twice(), Always(keep_latest=9)])
    assert seen == {4: True, 8: False, 12: False}, "the last state of a fit does not give way"


def test_by_default_the_lowest_validation_loss_is_the_best(tmp_path, warnings):
    images, labels = tiny_arrays(num=64)
    data = DataModule((images, labels), (images, (labels + 1) % 4), batch_size=16)
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), data, optimizer=optax.adam(0.03), max_epochs=4,
        log_dir=tmp_path, progress_bar=False,
    )  # fmt: skip
    history = trainer.fit()
    best = min(history, key=lambda row: row["val/loss"])
    assert best["step"] < 16, "training makes the validation worse"
    with warnings.at_level(logging.INFO):
        about = load_checkpoint(trainer.run_dir, TinyNet(4, rngs=nnx.Rngs(9)))
    assert about["global_step"] == best["step"]
    reason = f"step {best['step']}, the best by val/loss ({best['val/loss']:.4g})."
    assert warnings.messages[-1] == (
        f"Loaded {trainer.run_dir}/checkpoints/{best['step']}: {reason}"
    )


def test_a_run_below_any_path_is_trained_resumed_and_loaded(tmp_path, monkeypatch):
    folder = tmp_path / "my [v2] *project\\"
    folder.mkdir()
    monkeypatch.chdir(folder)
    trainer = fit("logs", max_epochs=1)
    copied = tmp_path / "copy"
    shutil.copytree(trainer.run_dir, copied)
    shutil.copytree(copied, folder / "[copy]")
    for run in (trainer.run_dir, copied, folder / "[copy]"):
        fresh = TinyNet(4, rngs=nnx.Rngs(9))
        assert load_checkpoint(run, fresh)["global_step"] == 4
        assert tree_equal(nnx.state(fresh), nnx.state(trainer.model))
    model = TinyNet(4, rngs=nnx.Rngs(0))
    data = DataModule(tiny_arrays(num=64), tiny_arrays(num=30, seed=1), batch_size=16)
    again = Trainer(model, data, max_epochs=2, progress_bar=False)
    again.fit(resume="auto")
    assert (again.run_dir, again.global_step) == (trainer.run_dir, 8)


def test_trainers_in_several_threads_all_train(tmp_path):
    failures = []

    def run(number):
        try:
            saver = ModelCheckpoint(every_n_steps=1, keep_latest=1)
            trainer = fit(tmp_path / str(number), callbacks=[saver], max_epochs=2)
            assert load_checkpoint(trainer.run_dir, TinyNet(4, rngs=nnx.Rngs(9)), which="last")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [saved.name for saved in tmp_path.glob("*/tinynet/version_0/checkpoints/8")] == ["8"] * 3


def test_without_a_validation_the_latest_is_loaded(tmp_path):
    data = DataModule(tiny_arrays(num=64), batch_size=16)
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), data, max_epochs=2, log_dir=tmp_path, progress_bar=False
    )
    trainer.fit()
    assert choose_checkpoint(trainer.run_dir).reason.startswith("step 8, the latest; no metric")


def test_the_loaded_model_has_the_state_of_the_trained_one(tmp_path):
    trainer = fit(tmp_path)
    fresh = TinyNet(4, rngs=nnx.Rngs(9))
    about = load_checkpoint(trainer.run_dir, fresh)
    assert tree_equal(nnx.state(fresh), nnx.state(trainer.model))
    assert (about["global_step"], about["epoch"]) == (12, 3)
    assert about["metrics"]["val/loss"] == trainer.metrics["val/loss"]
    assert about["data"]["num_classes"] == 4


def test_checkpoints_hold_the_state_of_their_own_step(tmp_path):
    """The next step takes the arrays by donation while the save is still running."""

    class Keep(Callback):
        def __init__(self):
            self.states = {}

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            state = nnx.to_pure_dict(nnx.state(trainer.model, nnx.Param))
            self.states[trainer.global_step] = jax.tree.map(np.array, state)

    keep = Keep()
    saver = ModelCheckpoint(every_n_steps=1, keep_latest=20)
    trainer = fit(tmp_path, callbacks=[keep, saver])
    for step, expected in keep.states.items():
        fresh = TinyNet(4, rngs=nnx.Rngs(9))
        load_checkpoint(trainer.run_dir, fresh, which=str(step))
        assert tree_equal(nnx.to_pure_dict(nnx.state(fresh, nnx.Param)), expected)
    assert len(keep.states) == 12


def test_the_best_is_ranked_by_the_metric_of_its_own_step(tmp_path):
    class Fake(Callback):
        metric_names = ("score",)

        def on_validation_end(self, trainer):
            trainer.log({"score": [0.1, 0.9, 0.5][trainer.epoch]})

    # Step 7 is also saved, when "score" is an old value, which must not rank it.
    saver = ModelCheckpoint("score", mode="max", every_n_steps=7)
    fit(tmp_path, callbacks=[Fake(), saver])
    assert (saver.best_path.name, saver.best_value, saver.last_path.name) == ("8", 0.9, "12")


def test_callback_state_is_in_the_checkpoint_of_the_same_epoch(tmp_path):
    saver = ModelCheckpoint(every_n_epochs=1, keep_latest=3)
    trainer = fit(tmp_path, callbacks=[EarlyStopping("val/loss"), saver])
    for step in (4, 8, 12):
        about = read_loop(trainer.run_dir / "checkpoints" / str(step))
        state = about["callbacks"]["EarlyStopping(val/loss)"]
        assert state["best_step"] <= step
        assert about["epoch"] == step / 4
        assert about["step_in_epoch"] == 0


def test_a_save_within_an_epoch_keeps_the_position(tmp_path):
    trainer = fit(tmp_path, callbacks=[ModelCheckpoint(every_n_steps=3, keep_latest=9)])
    about = read_loop(trainer.run_dir / "checkpoints/6")
    assert (about["epoch"], about["step_in_epoch"], about["global_step"]) == (1, 2, 6)


def test_after_an_exception_the_last_good_step_is_saved(tmp_path):
    class Fails(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.global_step == 6:
                raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, callbacks=[Fails()])
    folder = choose_checkpoint(tmp_path / "tinynet/version_0").path
    assert folder.name == "4"
    load_checkpoint(folder, TinyNet(4, rngs=nnx.Rngs(9)))
    saved = sorted(path.name for path in folder.parent.iterdir())
    assert saved == ["4", "6"], "the best, and the last good step"


def test_lists_of_modules_survive_a_round_trip(tmp_path):
    class Stack(nnx.Module):
        def __init__(self, seed):
            rngs = nnx.Rngs(seed)
            self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(11)])

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    images = np.ones((8, 2), np.float32)
    data = DataModule((images, np.zeros(8, np.int32)), batch_size=4)
    model = Stack(0)
    optimizer = optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9))
    trainer = Trainer(model, data, optimizer=optimizer, max_epochs=1, log_dir=tmp_path)
    trainer.fit()
    fresh = Stack(1)
    load_checkpoint(trainer.run_dir, fresh)
    assert tree_equal(nnx.state(fresh), nnx.state(model))


def test_ctrl_c_saves_the_exact_step(tmp_path):
    class Interrupt(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.global_step == 5:
                signal.raise_signal(signal.SIGINT)

    trainer = fit(tmp_path, callbacks=[Interrupt()])
    fresh = TinyNet(4, rngs=nnx.Rngs(9))
    about = load_checkpoint(trainer.run_dir, fresh, which="last")
    assert (about["epoch"], about["step_in_epoch"], about["global_step"]) == (1, 1, 5)
    assert tree_equal(nnx.state(fresh), nnx.state(trainer.model))


def test_bfloat16_parameters_are_saved_and_loaded(tmp_path):
    model = nnx.Linear(2, 3, param_dtype=jax.numpy.bfloat16, rngs=nnx.Rngs(0))
    images = np.ones((8, 2), np.float32)
    data = DataModule((images, np.zeros(8, np.int32)), batch_size=4)
    trainer = Trainer(model, data, max_epochs=1, log_dir=tmp_path, progress_bar=False)
    trainer.fit()
    fresh = nnx.Linear(2, 3, param_dtype=jax.numpy.bfloat16, rngs=nnx.Rngs(1))
    load_checkpoint(trainer.run_dir, fresh)
    assert tree_equal(nnx.state(fresh), nnx.state(model))
    again = nnx.Linear(2, 3, param_dtype=jax.numpy.bfloat16, rngs=nnx.Rngs(1))
    trainer = Trainer(again, data, max_epochs=2, log_dir=tmp_path, progress_bar=False)
    trainer.fit(resume="auto")
    assert trainer.global_step == 4


def test_a_copied_checkpoint_may_have_any_name(tmp_path):
    trainer = fit(tmp_path, max_epochs=1)
    copy = tmp_path / "my model"
    (trainer.run_dir / "checkpoints/4").rename(copy)
    assert load_checkpoint(copy, TinyNet(4, rngs=nnx.Rngs(9)))["global_step"] == 4
