"""Names of runs, their folders, and the list of all runs."""

import os
import shutil
import time

import pytest
from helpers import write_run

from nnx_alexnet.runs.folder import (
    check_name,
    choose_run_dir,
    create_run_dir,
    find_runs,
    list_runs,
)
from nnx_alexnet.runs.records import write_record


@pytest.mark.parametrize("name", ["alexnet", "a/b", "v1.2_x-y", "Größe"])
def test_a_name_is_a_folder_inside_the_log_folder(name, tmp_path):
    folder = create_run_dir(tmp_path, name)
    assert folder.is_relative_to(tmp_path)
    assert folder.name == "version_0"


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/../../x", "/etc", "a//b", "a b", ".", "a\\b", "a\x00"]
)
def test_names_that_lead_outside_the_log_folder_are_refused(name):
    with pytest.raises(ValueError, match="`name`"):
        check_name(name)


@pytest.mark.parametrize("name", ["version_3", "a/version_0/b"])
def test_names_that_look_like_run_folders_are_refused(name):
    with pytest.raises(ValueError, match=r"`name`.*version_"):
        check_name(name)


def test_the_next_version_follows_the_largest(tmp_path):
    (tmp_path / "mine/version_7").mkdir(parents=True)
    (tmp_path / "mine/version_old").mkdir()
    assert create_run_dir(tmp_path, "mine").name == "version_8"


@pytest.mark.parametrize(
    "stray", ["version_²", "version_٣", "version_07", "version_-1", "version_"]
)
def test_a_folder_with_a_number_in_another_form_is_not_a_run(tmp_path, stray):
    (tmp_path / "mine/version_0/checkpoints").mkdir(parents=True)
    (tmp_path / "mine" / stray).mkdir()
    (tmp_path / "mine" / stray / "config.yaml").touch()
    assert choose_run_dir(tmp_path, "mine", "auto").name == "version_0"
    assert choose_run_dir(tmp_path, "mine", "never").name == "version_1"
    assert find_runs(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "fifo"])
@pytest.mark.parametrize("number", [1, 7])
def test_a_file_named_like_a_run_folder_is_skipped(tmp_path, kind, number):
    first = create_run_dir(tmp_path, "mine")
    (first / "config.yaml").touch()
    stray = tmp_path / f"mine/version_{number}"
    if kind == "file":
        stray.touch()
    elif kind == "fifo":
        os.mkfifo(stray)
    else:
        stray.symlink_to(first if kind == "link" else tmp_path / "nothing")
    assert choose_run_dir(tmp_path, "mine", "auto") == first
    assert find_runs(tmp_path) == [first]
    new = choose_run_dir(tmp_path, "mine", "never")
    assert new.name == ("version_2" if number == 1 else "version_1")
    assert new.is_dir()


def test_runs_behind_a_link_are_found_once(tmp_path):
    (tmp_path / "disk/alexnet").mkdir(parents=True)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/alexnet").symlink_to(tmp_path / "disk/alexnet")
    (tmp_path / "disk/alexnet/loop").symlink_to(tmp_path / "disk")
    run = create_run_dir(tmp_path / "logs", "alexnet")
    (run / "config.yaml").touch()
    (tmp_path / "logs/latest").symlink_to(run)
    assert choose_run_dir(tmp_path / "logs", "alexnet", "auto") == run
    assert find_runs(tmp_path / "logs") == [run]
    assert [row["run"] for row in list_runs(tmp_path / "logs")] == ["alexnet/version_0"]
    (tmp_path / "link").symlink_to(tmp_path / "logs")
    assert [row["run"] for row in list_runs(tmp_path / "link")] == ["alexnet/version_0"]


def test_a_run_deleted_while_runs_are_listed_is_left_out(tmp_path, monkeypatch):
    made = [create_run_dir(tmp_path, "mine") for _ in range(3)]
    for run in made:
        write_record(run, {})
    lstat = os.lstat

    def vanish(path, *arguments, **options):
        if str(path).endswith("version_1/config.yaml"):
            shutil.rmtree(made[1], ignore_errors=True)
        return lstat(path, *arguments, **options)

    monkeypatch.setattr(os, "lstat", vanish)
    assert find_runs(tmp_path) == [made[0], made[2]]


def test_the_newest_start_is_last_even_if_the_clock_was_set_back(tmp_path):
    first, second = (create_run_dir(tmp_path, "mine") for _ in range(2))
    write_record(first, {})
    future = time.time() + 10**7
    os.utime(first / "config.yaml", (future, future))
    write_record(second, {})
    assert find_runs(tmp_path) == [first, second]
    write_record(first, {})  # it is resumed
    assert find_runs(tmp_path) == [second, first]


def test_runs_are_sorted_by_the_time_of_their_start(tmp_path):
    made = [create_run_dir(tmp_path, name) for name in ("b", "a/c", "b")]
    for number, run in enumerate(made):
        (run / "config.yaml").touch()
        os.utime(run / "config.yaml", (number, number))
    create_run_dir(tmp_path, "empty")
    assert find_runs(tmp_path) == made


def test_a_hundred_runs_are_listed_quickly(tmp_path):
    first = write_run(tmp_path, "a", [0.5] * 100)
    for step in (1, 2, 3):
        for item in ("model", "optimizer", "loop", "manifest"):
            (first / f"checkpoints/{step}/{item}/d").mkdir(parents=True)
    for number in range(99):
        shutil.copytree(first, tmp_path / f"a/version_{number + 1}")
    began = time.perf_counter()
    assert len(list_runs(tmp_path)) == 100
    assert time.perf_counter() - began < 5  # half a second on an idle machine


def test_the_list_has_the_best_of_the_validation_and_the_newest_of_others(tmp_path):
    first = write_run(tmp_path, "a", [0.5, 0.75, 0.625], stop_reason="enough")
    second = write_run(tmp_path, "b/c", [0.25], test_accuracy=0.125, status="failed")
    os.utime(first / "config.yaml", (1, 1))
    assert list_runs(tmp_path) == [
        {
            "run": "a/version_0", "path": str(first), "status": "finished", "epochs": 3,
            "steps": 30, "started": "2026-11-25T10:00:00+0000",
            "ended": "2026-11-25T11:02:03+0000", "duration": 3723.0, "stop_reason": "enough",
            "error": None, "tags": None, "train/loss": 1.0, "lr": 0.1,
                "val/loss": 0.75, "val/accuracy": 0.75,
            "best_steps": {"val/loss": 20, "val/accuracy": 20},
        },
        {
            "run": "b/c/version_0", "path": str(second), "status": "failed", "epochs": 1,
            "steps": 10, "started": "2026-11-25T10:00:00+0000",
            "ended": "2026-11-25T11:02:03+0000", "duration": 3723.0, "stop_reason": None,
            "error": None, "tags": None, "train/loss": 1.0, "lr": 0.1,
                "val/loss": 1.25, "val/accuracy": 0.25,
            "test/loss": 0.875, "test/accuracy": 0.125,
            "best_steps": {"val/loss": 10, "val/accuracy": 10},
        },
    ]  # fmt: skip


def test_a_log_folder_without_runs_has_an_empty_list(tmp_path):
    assert list_runs(tmp_path) == list_runs(tmp_path / "missing") == []


def test_a_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"`log_dir` .* cannot be written.*Choose another"):
        create_run_dir(tmp_path / "file", "mine")


def test_a_resumed_run_needs_a_folder_with_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r'`resume` .* must be "auto", "never", or the folder'):
        choose_run_dir(tmp_path, "mine", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert choose_run_dir(tmp_path, "mine", tmp_path) == tmp_path
