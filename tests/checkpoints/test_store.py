"""Saving in the background, and what stays on disk."""

import errno
import math
import tempfile
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_runs import arrays_of, linear, listed, save_all, small

from nnx_alexnet import load_checkpoint
from nnx_alexnet.checkpoints import read_checkpoint, read_loop
from nnx_alexnet.checkpoints import save as writing
from nnx_alexnet.checkpoints.retention import kept_steps
from nnx_alexnet.checkpoints.store import Checkpoints

VALUES = st.one_of(st.floats(-5, 5), st.sampled_from([math.nan, math.inf, -math.inf]))


def test_the_best_and_the_latest_stay_on_disk(tmp_path):
    values = {1: 0.5, 2: 0.9, 3: math.nan, 4: None, 5: 0.1}
    options = {"monitor": "val/accuracy", "mode": "max", "keep_best": 1, "keep_latest": 1}
    checkpoints = save_all(tmp_path, values, **options)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 5]
    assert (checkpoints.best_step, checkpoints.best_value, checkpoints.latest_step) == (2, 0.9, 5)


def test_another_process_continues_the_ranking(tmp_path):
    options = {"monitor": "val/loss", "mode": "min", "keep_best": 2, "keep_latest": 1}
    save_all(tmp_path, {1: 0.3, 2: 0.2, 3: 0.4}, **options)
    again = Checkpoints(tmp_path, **options)
    assert again.best_step == 2
    again.save(4, small(4), {"global_step": 4}, value=0.5)
    again.close()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [1, 2, 4]


def test_another_metric_or_direction_discards_the_ranking(run):
    def open_with(**options):
        checkpoints = Checkpoints(run / "checkpoints", keep_best=1, keep_latest=9, **options)
        best = checkpoints.best_step
        checkpoints.close()
        return best

    assert open_with(monitor="val/loss") == 10
    assert open_with(monitor="val/loss", mode="max") == 20
    assert open_with(monitor="val/accuracy", mode="max") is None
    assert open_with() is None


@given(
    values=st.lists(VALUES, max_size=6), value=VALUES, keep_best=st.integers(0, 3), data=st.data()
)
@settings(deadline=None)
def test_would_be_best_agrees_with_what_is_kept(values, value, keep_best, data):
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


def test_saves_in_time_take_at_most_5_percent_of_it(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    write, seen = writing.write_checkpoint, threading.Event()

    def slow(*arguments):
        assert seen.wait(60)
        now[0] += 3
        write(*arguments)

    monkeypatch.setattr(writing, "write_checkpoint", slow)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.has_rested
    checkpoints.save(1, small(1), {"global_step": 1})
    assert not checkpoints.has_rested, "a save is under way"
    seen.set()
    checkpoints.wait()
    assert now[0] == 103
    for later, expected in [(103, False), (159.9, False), (160.1, True)]:
        now[0] = later
        assert checkpoints.has_rested == expected
    checkpoints.close()


def slow_writer(tmp_path, monkeypatch, **options):
    """Checkpoints whose writes wait for `go`, and the steps of the writes that have begun."""
    write, begun, go = writing.write_checkpoint, [], threading.Event()

    def slow(folder, arrays, loop):
        begun.append(loop["global_step"])
        assert go.wait(60)
        write(folder, arrays, loop)

    monkeypatch.setattr(writing, "write_checkpoint", slow)
    checkpoints = Checkpoints(tmp_path, monitor="val/loss", **options)

    def save(step, value, *, gives_way=True):
        checkpoints.save(step, small(step), {"global_step": step}, value=value, gives_way=gives_way)

    return checkpoints, save, begun, go


def test_a_waiting_checkpoint_that_is_no_longer_the_best_is_not_written(tmp_path, monkeypatch):
    checkpoints, save, begun, go = slow_writer(tmp_path, monkeypatch, keep_best=1)
    for step, value in [(1, 0.9), (2, 0.5), (3, 0.4), (4, 0.3)]:
        save(step, value)  # nothing waits for the first one
    assert (checkpoints.steps, checkpoints.latest_step) == ([1], 1)
    assert not checkpoints.would_be_best(0.35)
    assert checkpoints.would_be_best(0.2)
    go.set()
    save(5, None, gives_way=False)  # the last state of a fit
    checkpoints.close()
    assert begun == [1, 4, 5]
    assert (checkpoints.steps, checkpoints.best_step) == ([4, 5], 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5"]


def test_two_waiting_checkpoints_among_the_best_are_both_written(tmp_path, monkeypatch):
    checkpoints, save, begun, go = slow_writer(tmp_path, monkeypatch, keep_best=2)
    save(1, 0.9)
    save(2, 0.5)
    go.set()
    save(3, 0.4)
    checkpoints.close()
    assert begun == [1, 2, 3]


def test_nothing_is_deleted_for_a_checkpoint_that_only_waits(tmp_path, monkeypatch):
    checkpoints, save, _, go = slow_writer(tmp_path, monkeypatch, keep_best=1, keep_latest=1)
    go.set()
    save(1, 0.5)
    checkpoints.wait()
    checkpoints._thread._rests_until = time.monotonic() + 60
    save(2, 0.4)
    time.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    began = time.monotonic()
    checkpoints.close()  # the run ends: no more rest
    assert time.monotonic() - began < 30
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_waiting_checkpoint_is_written_after_a_failed_save(tmp_path, monkeypatch, warnings):
    checkpoints, save, begun, go = slow_writer(tmp_path, monkeypatch, keep_best=1, on_error="warn")
    slow = writing.write_checkpoint

    def fail_first(folder, arrays, loop):
        slow(folder, arrays, loop)
        if loop["global_step"] == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write_checkpoint", fail_first)
    save(1, 0.9)
    save(2, 0.5)
    go.set()
    checkpoints.wait()
    assert "step 1 " in warnings.text
    assert (begun, checkpoints.steps) == ([1, 2], [2])
    checkpoints.close()


def test_changes_after_a_save_request_are_not_saved(tmp_path, monkeypatch):
    checkpoints, _, _, go = slow_writer(tmp_path, monkeypatch)
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


def test_saves_and_loads_in_several_threads_do_not_interfere(tmp_path):
    failures, numbers = [], range(3)

    def work(number):
        try:
            checkpoints = Checkpoints(tmp_path / str(number), keep_latest=2)
            for step in range(1, 8):
                arrays = arrays_of(step)
                if number == 2 and step == 4:
                    arrays["model/kernel"] = np.array(["no number"], object)
                    checkpoints.save(step, arrays, {"epoch": step})
                    with pytest.raises(OSError, match="step 4"):
                        checkpoints.wait()
                    continue
                checkpoints.save(step, arrays, {"epoch": step})
                fresh = linear(9)
                checkpoints.wait()
                load_checkpoint(tmp_path / str(number), fresh)
                np.testing.assert_array_equal(fresh.kernel[...], linear(step).kernel[...])
            checkpoints.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [listed(tmp_path / str(number)) for number in numbers] == [["6", "7"]] * 3


def test_orbax_is_imported_once_when_the_caller_asks(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    imported = []
    monkeypatch.setattr("importlib.import_module", imported.append)
    checkpoints.wait()
    assert imported == []
    checkpoints.prepare()
    checkpoints.prepare()
    checkpoints.close()
    assert imported == ["orbax.checkpoint"]
