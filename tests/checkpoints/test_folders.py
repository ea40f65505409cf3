"""Names, renames and deletions of the folders of checkpoints."""

import os
import shutil
from pathlib import Path

import pytest
from saved_runs import arrays_of, listed, names, resume, save_all

from nnx_alexnet.checkpoints import (
    Checkpoints,
    checkpoint_folder,
    choose_checkpoint,
    read_checkpoint,
)
from nnx_alexnet.checkpoints.folders import check_room, describe_room, quarantine, writing
from nnx_alexnet.checkpoints.verifying import verify_checkpoints


def test_nothing_is_deleted_before_its_replacement_is_on_the_disk(tmp_path, monkeypatch):
    synced, renamed = [], {}
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").readlink())
    )
    rename, delete = Path.rename, checkpoint_folder.delete

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
    monkeypatch.setattr(checkpoint_folder, "delete", check)
    save_all(tmp_path, {1: None, 2: None}, keep_latest=1)
    assert deleted == ["1"]


@pytest.mark.parametrize("newer_is_there", [False, True])
def test_a_killed_replacement_is_undone_or_completed(tmp_path, newer_is_there):
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


@pytest.mark.parametrize("name", ["010", "٢٠", "²", "00"])
def test_a_number_not_written_like_a_step_is_set_aside(run, name):
    shutil.copytree(run / "checkpoints/20", run / "checkpoints" / name)
    assert [Path(row["checkpoint"]).name for row in verify_checkpoints(run)] == ["10", "20"]
    assert choose_checkpoint(run, "last").path.name == "20"
    assert resume(run).step == 20
    assert names(run) == ["10", "20", f"damaged-{name}-0"]


@pytest.mark.parametrize("name", ["30", "7"])
@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "fifo"])
def test_files_and_links_named_like_steps_are_ignored(run, name, kind):
    path = run / "checkpoints" / name
    if kind == "file":
        path.write_text("x")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(run / "checkpoints" / ("20" if kind == "link" else "nothing"))
    assert choose_checkpoint(run, "last").path.name == "20"
    assert len([*verify_checkpoints(run)]) == 2
    assert resume(run).step == 20
    assert os.path.lexists(path)
    # A save of that step renames it, and the target of a link remains.
    checkpoints = Checkpoints(run / "checkpoints", keep_latest=9)
    checkpoints.save(int(name), arrays_of(int(name)), {"epoch": 0})
    checkpoints.close()
    assert names(run) == sorted(["10", "20", name, f"damaged-{name}-0"])
    assert read_checkpoint(run / "checkpoints" / name).step == int(name)
    assert read_checkpoint(run / "checkpoints/20").step == 20


def test_the_folder_of_checkpoints_may_be_a_link(run, tmp_path):
    (run / "checkpoints").rename(tmp_path / "disk")
    (run / "checkpoints").symlink_to(tmp_path / "disk")
    assert choose_checkpoint(run).step == 10
    checkpoints = Checkpoints(run / "checkpoints", keep_latest=1)
    checkpoints.save(30, arrays_of(30), {})
    checkpoints.close()
    assert names(run) == ["30"]
    assert (run / "checkpoints").is_symlink()


def test_a_folder_that_is_not_completed_disappears(tmp_path):
    def fail():
        with writing(tmp_path) as folder:
            (folder / "model").mkdir()
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert listed(tmp_path) == []


def test_damaged_checkpoints_of_one_step_get_different_names(tmp_path, warnings):
    for number in range(2):
        (tmp_path / "7").mkdir()
        quarantine(tmp_path / "7", "a bit flipped")
        assert listed(tmp_path)[-1] == f"damaged-7-{number}"
    assert "The checkpoint 7 is damaged and not used (a bit flipped)" in warnings.text


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path):
    check_room(tmp_path / "checkpoints", 1000)
    with pytest.raises(OSError, match="No space left on device"):
        check_room(tmp_path / "checkpoints", 2**60)
    assert describe_room(tmp_path).endswith("bytes are free there")
    assert describe_room(tmp_path / "missing") == "the folder is gone"
