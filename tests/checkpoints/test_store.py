"""Saving, keeping, finding and loading checkpoints."""

import errno
import logging
import math
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import TinyNet, tiny_arrays, tree_equal
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet import DataModule, Trainer, load_checkpoint
from nnx_alexnet.callbacks import Callback, EarlyStopping, ModelCheckpoint
from nnx_alexnet.checkpoints import store as saving
from nnx_alexnet.checkpoints.items import read_checkpoint, read_loop
from nnx_alexnet.checkpoints.loading import choose_checkpoint, find_checkpoint
from nnx_alexnet.checkpoints.retention import kept_steps
from nnx_alexnet.checkpoints.store import Checkpoints

VALUES = st.one_of(st.floats(-5, 5), st.sampled_from([math.nan, math.inf, -math.inf]))


@given(
    values=st.dictionaries(st.integers(0, 50), VALUES, max_size=12),
    unranked=st.sets(st.integers(0, 50), max_size=6),
    keep_latest=st.integers(0, 4),
    keep_best=st.integers(0, 4),
    mode=st.sampled_from(["min", "max"]),
)
@settings(deadline=None)
def test_what_is_kept_is_the_latest_and_the_best(values, unranked, keep_latest, keep_best, mode):
    steps = sorted({*values, *unranked})
    options = {"keep_latest": keep_latest, "keep_best": keep_best, "mode": mode}
    kept = kept_steps(steps, values, **options)
    latest = set(steps[-keep_latest:]) if keep_latest else set()
    assert latest <= kept <= set(steps)
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    best = kept - latest
    assert all(step in finite for step in best), "a value that is not finite is never best"
    assert len(kept & set(finite)) >= min(keep_best, len(finite))
    if keep_best and finite:
        extreme = (min if mode == "min" else max)(finite.values())
        assert extreme in {finite[step] for step in kept if step in finite}
    # What was removed is never missed later: the kept ones alone choose the same.
    assert kept_steps(sorted(kept), values, **options) == kept


def small(step):
    return {"model/weights": np.full((3,), float(step)), "optimizer/count": np.array(step)}


def save_all(directory, values, **options):
    checkpoints = Checkpoints(directory, **options)
    for step, value in values.items():
        checkpoints.save(step, small(step), {"global_step": step}, value=value)
    checkpoints.close()
    return checkpoints


def test_the_best_and_the_latest_stay_on_disk(tmp_path):
    values = {1: 0.5, 2: 0.9, 3: math.nan, 4: None, 5: 0.1}
    options = {"monitor": "val/accuracy", "mode": "max", "keep_best": 1, "keep_latest": 1}
    checkpoints = save_all(tmp_path, values, **options)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 5]
    assert (checkpoints.best_step, checkpoints.best_value, checkpoints.latest_step) == (2, 0.9, 5)


def test_the_ranking_is_known_again_in_another_process(tmp_path):
    options = {"monitor": "val/loss", "mode": "min", "keep_best": 2, "keep_latest": 1}
    save_all(tmp_path, {1: 0.3, 2: 0.2, 3: 0.4}, **options)
    again = Checkpoints(tmp_path, **options)
    assert again.best_step == 2
    again.save(4, small(4), {"global_step": 4}, value=0.5)
    again.close()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [1, 2, 4]


@given(
    values=st.lists(VALUES, max_size=6), value=VALUES, keep_best=st.integers(0, 3), data=st.data()
)
@settings(deadline=None)
def test_what_would_be_best_is_what_would_be_kept(values, value, keep_best, data):
    mode = data.draw(st.sampled_from(["min", "max"]))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, monitor="x", mode=mode, keep_best=keep_best)
        for step, ranked in enumerate(values):
            ranking = {"monitor": "x", "mode": mode, "value": ranked}
            checkpoints._kept.add(step, {"ranking": ranking})
        options = {"keep_latest": 0, "keep_best": keep_best, "mode": mode}
        ranked = dict(enumerate([*values, value]))
        expected = len(values) in kept_steps([*ranked], ranked, **options)
        assert checkpoints.would_be_best(value) == expected
        assert not checkpoints.would_be_best(None)
        checkpoints.close()


def test_after_a_save_it_rests_for_as_long(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    write, seen = saving.write_checkpoint, threading.Event()

    def slow(*arguments):
        assert seen.wait(60)
        now[0] += 3
        write(*arguments)

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.has_rested
    checkpoints.save(1, small(1), {"global_step": 1})
    assert not checkpoints.has_rested, "a save is under way"
    seen.set()
    checkpoints.wait()
    assert now[0] == 103
    for later, expected in [(103, False), (105.9, False), (106, True)]:
        now[0] = later
        assert checkpoints.has_rested == expected
    checkpoints.close()


def test_short_epochs_do_not_wait_for_saves_and_the_best_of_them_is_kept(tmp_path, monkeypatch):
    write, written = saving.write_checkpoint, []

    def slow(folder, arrays, loop):
        written.append(loop["global_step"])
        time.sleep(0.5)
        write(folder, arrays, loop)

    monkeypatch.setattr(saving, "write_checkpoint", slow)

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


def small_writer(tmp_path, monkeypatch, **options):
    """Checkpoints whose writing waits for `go`, and the steps that it has begun to write."""
    write, begun, go = saving.write_checkpoint, [], threading.Event()

    def slow(folder, arrays, loop):
        begun.append(loop["global_step"])
        assert go.wait(60)
        write(folder, arrays, loop)

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    checkpoints = Checkpoints(tmp_path, monitor="val/loss", **options)

    def save(step, value, *, gives_way=True):
        checkpoints.save(step, small(step), {"global_step": step}, value=value, gives_way=gives_way)

    return checkpoints, save, begun, go


def test_of_the_best_that_wait_only_those_that_stay_the_best_are_written(tmp_path, monkeypatch):
    checkpoints, save, begun, go = small_writer(tmp_path, monkeypatch, keep_best=1)
    for step, value in [(1, 0.9), (2, 0.5), (3, 0.4), (4, 0.3)]:
        save(step, value)  # no one waits for the first
    assert (checkpoints.steps, checkpoints.latest_step) == ([1], 1)
    assert not checkpoints.would_be_best(0.35)
    assert checkpoints.would_be_best(0.2)
    go.set()
    save(5, None, gives_way=False)  # the last state of a fit
    checkpoints.close()
    assert begun == [1, 4, 5]
    assert (checkpoints.steps, checkpoints.best_step) == ([4, 5], 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5"]


def test_two_of_the_best_that_wait_are_both_written(tmp_path, monkeypatch):
    checkpoints, save, begun, go = small_writer(tmp_path, monkeypatch, keep_best=2)
    save(1, 0.9)
    save(2, 0.5)
    go.set()
    save(3, 0.4)
    checkpoints.close()
    assert begun == [1, 2, 3]


def test_nothing_is_deleted_for_a_checkpoint_that_only_waits(tmp_path, monkeypatch):
    checkpoints, save, _, go = small_writer(tmp_path, monkeypatch, keep_best=1, keep_latest=1)
    go.set()
    save(1, 0.5)
    checkpoints.wait()
    checkpoints._writer._rests_until = time.monotonic() + 60
    save(2, 0.4)
    time.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    began = time.monotonic()
    checkpoints.close()  # the run ends, so nothing rests any more
    assert time.monotonic() - began < 30
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_request_that_does_not_give_way_is_honoured(tmp_path):
    class Twice(Callback):
        priority = 200  # after the one that gives way

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


def test_a_failed_save_does_not_take_the_one_that_waits_with_it(tmp_path, monkeypatch, warnings):
    checkpoints, save, begun, go = small_writer(tmp_path, monkeypatch, keep_best=1, on_error="warn")
    slow = saving.write_checkpoint

    def fail_first(folder, arrays, loop):
        slow(folder, arrays, loop)
        if loop["global_step"] == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "write_checkpoint", fail_first)
    save(1, 0.9)
    save(2, 0.5)
    go.set()
    checkpoints.wait()
    assert "step 1 " in warnings.text
    assert (begun, checkpoints.steps) == ([1, 2], [2])
    checkpoints.close()


def test_what_changes_after_a_save_was_asked_for_is_not_in_it(tmp_path, monkeypatch):
    checkpoints, _, _, go = small_writer(tmp_path, monkeypatch)
    loop = {
        "callbacks": {"Mine": {"seen": [1]}}, "metrics": {"val/loss": 0.5},
        "history": [{"step": 1}], "identity": {"seed": 0}, "data": {"classes": ("a", "b")},
    }  # fmt: skip
    checkpoints.save(1, small(1), loop)
    loop["callbacks"]["Mine"]["seen"].append(2)
    loop["metrics"]["val/loss"] = 0.25
    loop["history"].append({"step": 2})
    go.set()
    checkpoints.close()
    found = read_loop(tmp_path / "1")
    assert {name: found[name] for name in loop} == {
        "callbacks": {"Mine": {"seen": [1]}}, "metrics": {"val/loss": 0.5},
        "history": [{"step": 1}], "identity": {"seed": 0}, "data": {"classes": ["a", "b"]},
    }  # fmt: skip


def test_a_step_is_not_saved_twice(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for value in (1, 2):
        checkpoints.save(7, small(value), {"epoch": 0, "step_in_epoch": 7})
    checkpoints.close()
    assert checkpoints.steps == [7]
    assert read_checkpoint(tmp_path / "7").arrays["optimizer/count"] == 1


def test_a_step_is_saved_again_when_its_epoch_has_ended_since(tmp_path):
    checkpoints = Checkpoints(tmp_path, monitor="val/loss")
    checkpoints.save(7, small(1), {"epoch": 0, "step_in_epoch": 7})
    checkpoints.save(7, small(2), {"epoch": 1, "step_in_epoch": 0}, value=0.5)
    checkpoints.close()
    assert (checkpoints.steps, checkpoints.best_step) == ([7], 7)
    assert read_checkpoint(tmp_path / "7").loop["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["7"]


def test_nothing_is_deleted_before_the_disk_has_what_replaces_it(tmp_path, monkeypatch):
    synced, renamed = [], {}
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").readlink())
    )
    rename, delete = Path.rename, saving.delete

    def follow(path, target):
        renamed[target] = path, len(synced)
        return rename(path, target)

    def check(path):
        written, before = renamed[tmp_path / "2"]
        names = {each.relative_to(tmp_path / "2") for each in (tmp_path / "2").rglob("*")}
        assert {written, *(written / name for name in names)} <= {*synced[:before]}
        assert tmp_path in synced[before:]
        deleted.append(path.name)
        delete(path)

    deleted = []
    monkeypatch.setattr(Path, "rename", follow)
    monkeypatch.setattr(saving, "delete", check)
    save_all(tmp_path, {1: None, 2: None}, keep_latest=1)
    assert deleted == ["1"]


def test_a_checkpoint_that_the_disk_does_not_take_is_undone(tmp_path, monkeypatch):
    save_all(tmp_path, {1: None})
    checkpoints = Checkpoints(tmp_path, keep_latest=1)

    def fail(file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", fail)
        checkpoints.save(2, small(2), {"global_step": 2})
        with pytest.raises(
            OSError, match=r"step 2 .*Input/output error.*newest checkpoint is of step 1"
        ):
            checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    checkpoints.save(3, small(3), {"global_step": 3})
    checkpoints.close()
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


@pytest.mark.parametrize("newer_is_there", [False, True])
def test_a_replacement_that_was_killed_is_undone_or_ended(tmp_path, newer_is_there):
    save_all(tmp_path, {7: None})
    (tmp_path / "7").rename(tmp_path / "replaced-7")
    if newer_is_there:
        save_all(tmp_path / "other", {7: None})
        (tmp_path / "other/7").rename(tmp_path / "7")
        (tmp_path / "other").rmdir()
    (tmp_path / "deleting-3").mkdir()
    (tmp_path / "writing-1a2b3c4d/checkpoint").mkdir(parents=True)
    (tmp_path / "writing-samples").mkdir()  # somebody's own
    Checkpoints(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "writing-samples"]
    assert read_checkpoint(tmp_path / "7").step == 7


def test_find_checkpoint_takes_a_run_its_folder_or_a_step(tmp_path):
    folder = tmp_path / "checkpoints"
    save_all(folder, {1: 0.9, 2: 0.1}, monitor="val/loss", keep_best=1, keep_latest=2)
    assert find_checkpoint(tmp_path).name == "2"
    assert find_checkpoint(tmp_path, "1").name == find_checkpoint(tmp_path, 1).name == "1"
    assert find_checkpoint(folder, "last").name == "2"
    assert find_checkpoint(folder / "1").name == "1"
    for which in ("bst", "3", 3, "01", "²", None):
        with pytest.raises(ValueError, match=r"`which` .* is unknown.*'1', '2', 'auto', 'best'"):
            find_checkpoint(tmp_path, which)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        find_checkpoint(tmp_path / "elsewhere")


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "by", "which", "expected"),
    [
        ({1: 0.5, 2: 0.25, 3: 0.75}, ("val/loss", "min"), "auto", "2, the best by val/loss (0.25)"),
        ({1: 0.5, 2: 0.25, 3: 0.75}, ("val/loss", "min"), "best", "2, the best by val/loss (0.25)"),
        ({1: 0.5, 2: 0.25, 3: 0.75}, ("val/f1", "max"), "auto", "3, the best by val/f1 (0.75)"),
        ({1: 0.5, 2: 0.5}, ("val/loss", "min"), "auto", "1, the best by val/loss (0.5)"),
        ({1: 0.5, 2: NAN, 3: None}, ("val/loss", "min"), "auto", "1, the best by val/loss (0.5)"),
        ({1: math.inf, 2: 9.0}, ("val/f1", "max"), "auto", "2, the best by val/f1 (9)"),
        ({1: NAN}, ("val/loss", "min"), "auto", "1, the latest; none has a finite val/loss"),
        ({1: 0.5, 2: 0.25, 3: 0.75}, ("val/loss", "min"), "last", "3, the latest"),
        ({1: 0.5, 2: 0.25, 3: 0.75}, ("val/loss", "min"), 1, "1, as asked for"),
        ({1: 0.5, 2: 0.25}, (None, "min"), "auto",
         "2, the latest; no metric ranked this run's checkpoints"),
    ],
)  # fmt: skip
def test_which_checkpoint_is_chosen_and_why(tmp_path, values, by, which, expected):
    monitor, mode = by
    save_all(tmp_path, values, monitor=monitor, mode=mode, keep_best=1, keep_latest=9)
    choice = choose_checkpoint(tmp_path, which)
    assert choice.reason == f"step {expected}"
    assert choice.path == tmp_path / str(choice.step)


@pytest.mark.parametrize(
    ("values", "monitor", "message"),
    [
        (
            {1: 0.5, 2: 0.25},
            None,
            "needs checkpoints that are ranked by .* ranked none. .*steps 1, 2 work",
        ),
        ({1: NAN, 2: None}, "val/loss", "needs a checkpoint with a finite val/loss.*steps 1, 2 "),
    ],
)
def test_the_best_without_a_ranking_is_an_error_that_says_what_works(
    tmp_path, values, monitor, message
):
    save_all(tmp_path, values, monitor=monitor)
    with pytest.raises(ValueError, match=rf"`which` \(='best'\) {message}"):
        find_checkpoint(tmp_path, "best")


def test_the_newest_checkpoint_tells_by_which_metric_a_run_is_ranked(tmp_path):
    save_all(tmp_path, {1: 0.1, 2: 0.2}, monitor="val/loss", keep_latest=9)
    save_all(tmp_path, {3: 0.7, 4: 0.6}, monitor="val/accuracy", mode="max", keep_latest=9)
    assert choose_checkpoint(tmp_path).reason == "step 3, the best by val/accuracy (0.7)"
    save_all(tmp_path, {5: 0.4}, monitor="val/loss", mode="max", keep_latest=9)
    assert choose_checkpoint(tmp_path).reason == "step 5, the best by val/loss (0.4)"
    save_all(tmp_path, {6: None}, keep_latest=9)
    assert choose_checkpoint(tmp_path).step == 6


def test_by_default_the_lowest_validation_loss_is_the_best_and_loading_says_so(tmp_path, warnings):
    images, labels = tiny_arrays(num=64)
    data = DataModule((images, labels), (images, (labels + 1) % 4), batch_size=16)
    trainer = Trainer(
        TinyNet(4, rngs=nnx.Rngs(0)), data, optimizer=optax.adam(0.03), max_epochs=4,
        log_dir=tmp_path, progress_bar=False,
    )  # fmt: skip
    history = trainer.fit()
    best = min(history, key=lambda row: row["val/loss"])
    assert best["step"] < 16, "what is learned makes the validation worse"
    with warnings.at_level(logging.INFO):
        about = load_checkpoint(trainer.run_dir, TinyNet(4, rngs=nnx.Rngs(9)))
    assert about["global_step"] == best["step"]
    reason = f"step {best['step']}, the best by val/loss ({best['val/loss']:.4g})."
    assert warnings.messages[-1] == (
        f"Loaded {trainer.run_dir}/checkpoints/{best['step']}: {reason}"
    )


def test_a_run_in_a_folder_of_any_name_is_trained_resumed_and_loaded(tmp_path, monkeypatch):
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


def fit(tmp_path, *, callbacks=(), **arguments):
    model = TinyNet(4, rngs=nnx.Rngs(0))
    data = DataModule(tiny_arrays(num=64), tiny_arrays(num=30, seed=1), batch_size=16)
    defaults = {"max_epochs": 3, "log_dir": tmp_path, "progress_bar": False}
    trainer = Trainer(model, data, callbacks=callbacks, **{**defaults, **arguments})
    trainer.fit()
    return trainer


def test_a_checkpoint_is_loaded_into_a_freshly_built_model(tmp_path):
    trainer = fit(tmp_path)
    fresh = TinyNet(4, rngs=nnx.Rngs(9))
    about = load_checkpoint(trainer.run_dir, fresh)
    assert tree_equal(nnx.state(fresh), nnx.state(trainer.model))
    assert (about["global_step"], about["epoch"]) == (12, 3)
    assert about["metrics"]["val/loss"] == trainer.metrics["val/loss"]
    assert about["data"]["num_classes"] == 4


def test_a_checkpoint_holds_what_it_was_taken_of_though_training_went_on(tmp_path):
    """The arrays are donated to the next step while the save is still under way."""

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

    # Step 7 is saved too, when "score" is an old value: it must not count as its own.
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


def test_a_save_in_mid_epoch_keeps_the_position(tmp_path):
    trainer = fit(tmp_path, callbacks=[ModelCheckpoint(every_n_steps=3, keep_latest=9)])
    about = read_loop(trainer.run_dir / "checkpoints/6")
    assert (about["epoch"], about["step_in_epoch"], about["global_step"]) == (1, 2, 6)


def test_an_exception_leaves_the_last_finished_save_whole(tmp_path):
    class Fails(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.global_step == 6:
                raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, callbacks=[Fails()])
    folder = find_checkpoint(tmp_path / "tinynet/version_0")
    assert folder.name == "4"
    load_checkpoint(folder, TinyNet(4, rngs=nnx.Rngs(9)))
    saved = sorted(path.name for path in folder.parent.iterdir())
    assert saved == ["4", "6"], "the best, and the last good step"


def test_a_model_of_another_architecture_is_refused_with_the_differences(tmp_path):
    trainer = fit(tmp_path, max_epochs=1)
    with pytest.raises(
        ValueError, match=r"dense/kernel: saved float32\[8, 4\], now float32\[8, 5\]"
    ):
        load_checkpoint(trainer.run_dir, TinyNet(5, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"conv/kernel: saved .*, now nothing"):
        load_checkpoint(trainer.run_dir, nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


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


def test_the_best_is_found_beside_damaged_and_unranked_ones(tmp_path):
    options = {"monitor": "val/loss", "keep_best": 3, "keep_latest": 3}
    save_all(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3}, **options)
    (tmp_path / "3/loop/metadata").write_text("{")
    assert find_checkpoint(tmp_path).name == "1"
    save_all(tmp_path / "nan", {1: math.nan, 2: math.nan}, monitor="val/loss")
    assert find_checkpoint(tmp_path / "nan").name == "2"


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


@pytest.mark.parametrize("model", ["x", nnx.Linear, None])
def test_what_is_no_model_takes_no_checkpoint(tmp_path, model):
    with pytest.raises(TypeError, match=r"`model` .* must be an nnx.Module that is built like"):
        load_checkpoint(tmp_path, model)
