"""What a folder of checkpoints holds after saves, failures and changes by others."""

import contextlib
import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
from saved_runs import arrays_of, listed, names, resume, save_all, small

from nnx_alexnet.checkpoints import Checkpoints, checkpoint_folder, read_loop
from nnx_alexnet.checkpoints import save as writing


def test_a_run_of_which_all_checkpoints_are_damaged_is_refused(run):
    for step in ("10", "20"):
        (run / "checkpoints" / step / "loop/metadata").write_text("{")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"All checkpoints in .* are damaged.*never"):
            resume(run)
        assert names(run) == ["damaged-10-0", "damaged-20-0"]


def test_an_empty_folder_has_nothing_to_resume_from(tmp_path):
    assert resume(tmp_path) is None
    assert names(tmp_path) == []


def test_the_check_of_a_checkpoint_precedes_its_reading(run):
    seen = []

    def refuse(loop):
        seen.append(loop["global_step"])
        raise KeyError("another run")

    checkpoints = Checkpoints(run / "checkpoints")
    with pytest.raises(KeyError, match="another run"):
        checkpoints.restore(refuse)
    checkpoints.close()
    assert seen == [20]


def test_a_checkpoint_that_does_not_reach_the_disk_is_undone(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_late_writes_of_a_failed_save_are_deleted(tmp_path, monkeypatch, on_error):
    writers = []

    def fail(folder, *_):
        def keep_writing():
            for number in range(30):
                with contextlib.suppress(FileExistsError, FileNotFoundError):  # deleted meanwhile
                    (folder / "model/d").mkdir(parents=True, exist_ok=True)
                    (folder / f"model/d/{number}").write_bytes(b"x")
                stop.wait(0.005)

        stop = threading.Event()
        writers.append(threading.Thread(target=keep_writing))
        writers[-1].start()
        stop.wait(0.01)
        raise ValueError("RESOURCE_EXHAUSTED: no room")

    monkeypatch.setattr(writing, "write_checkpoint", fail)
    checkpoints = Checkpoints(tmp_path, on_error=on_error)
    checkpoints.save(1, arrays_of(1), {})
    if on_error == "raise":
        with pytest.raises(OSError, match="no room"):
            checkpoints.wait()
    checkpoints.close()
    assert listed(tmp_path) == []
    writers[0].join()
    assert listed(tmp_path) == []


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_becomes_read_only_keeps_its_checkpoints(run, monkeypatch, error):
    checkpoints = Checkpoints(run / "checkpoints")

    def refuse(self, *_, **__):
        raise OSError(error, os.strerror(error), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        checkpoints.save(30, arrays_of(30), {})
        with pytest.raises(OSError, match=rf"step 30 .*{os.strerror(error)}.* is of step 20\."):
            checkpoints.wait()
    assert checkpoints.steps == [10, 20]
    checkpoints.save(40, arrays_of(40), {})
    checkpoints.close()
    assert names(run) == ["20", "40"]


def test_a_folder_deleted_during_the_run_is_created_again(run):
    checkpoints = Checkpoints(run / "checkpoints")
    shutil.rmtree(run)
    checkpoints.save(30, arrays_of(30), {})
    checkpoints.close()
    assert (checkpoints.steps, names(run)) == ([30], ["30"])


def test_a_best_checkpoint_deleted_by_hand_is_no_longer_the_best(run):
    checkpoints = Checkpoints(run / "checkpoints", monitor="val/loss", keep_best=1, keep_latest=1)
    assert checkpoints.best_step == 10
    shutil.rmtree(run / "checkpoints/10")
    for step, value in [(30, 0.4), (40, 0.6)]:
        checkpoints.save(step, arrays_of(step), {}, value=value)
    checkpoints.close()
    assert (checkpoints.best_step, names(run)) == (30, ["30", "40"])


def test_an_old_checkpoint_that_cannot_be_deleted_is_reported(run, monkeypatch, warnings):
    def refuse(folder):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(folder))

    monkeypatch.setattr(checkpoint_folder, "delete", refuse)
    checkpoints = Checkpoints(run / "checkpoints", keep_latest=1)
    checkpoints.save(30, arrays_of(30), {})
    checkpoints.close()
    assert "The checkpoint 10 could not be deleted" in warnings.text
    assert read_loop(run / "checkpoints/30")["global_step"] == 30


def test_a_folder_that_cannot_be_opened_is_named_with_its_cause(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"The checkpoints in .*file cannot be opened: .*exists"):
        Checkpoints(tmp_path / "file")
