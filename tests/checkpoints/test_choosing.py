"""Which checkpoint of a run is chosen, and why."""

import errno
import math
import os
import shutil

import pytest
from saved_runs import linear, names, resume, save_all

from nnx_alexnet import load_checkpoint
from nnx_alexnet.checkpoints.choosing import choose_checkpoint

NAN = math.nan


def test_a_run_its_folder_or_a_checkpoint_can_be_given(tmp_path):
    folder = tmp_path / "checkpoints"
    save_all(folder, {1: 0.9, 2: 0.1}, monitor="val/loss", keep_best=1, keep_latest=2)
    assert choose_checkpoint(tmp_path).path.name == "2"
    assert (
        choose_checkpoint(tmp_path, "1").path.name
        == choose_checkpoint(tmp_path, 1).path.name
        == "1"
    )
    assert choose_checkpoint(folder, "last").path.name == "2"
    assert choose_checkpoint(folder / "1").path.name == "1"
    for which in ("bst", "3", 3, "01", "²", None):
        with pytest.raises(ValueError, match=r"`which` .* is unknown.*'1', '2', 'auto', 'best'"):
            choose_checkpoint(tmp_path, which)
    with pytest.raises(ValueError, match=r"elsewhere'\) does not exist\. It must be"):
        choose_checkpoint(tmp_path / "elsewhere")


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
        ({1: 0.5, 2: 0.25, 3: 0.75}, ("val/loss", "min"), 1, "1, as requested"),
        ({1: 0.5, 2: 0.25}, (None, "min"), "auto",
         "2, the latest; no metric ranked this run's checkpoints"),
    ],
)  # fmt: skip
def test_the_choice_and_its_reason(tmp_path, values, by, which, expected):
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
def test_the_best_without_a_ranking_is_refused(tmp_path, values, monitor, message):
    save_all(tmp_path, values, monitor=monitor)
    with pytest.raises(ValueError, match=rf"`which` \(='best'\) {message}"):
        choose_checkpoint(tmp_path, "best")


def test_the_newest_checkpoint_determines_the_metric(tmp_path):
    save_all(tmp_path, {1: 0.1, 2: 0.2}, monitor="val/loss", keep_latest=9)
    save_all(tmp_path, {3: 0.7, 4: 0.6}, monitor="val/accuracy", mode="max", keep_latest=9)
    assert choose_checkpoint(tmp_path).reason == "step 3, the best by val/accuracy (0.7)"
    save_all(tmp_path, {5: 0.4}, monitor="val/loss", mode="max", keep_latest=9)
    assert choose_checkpoint(tmp_path).reason == "step 5, the best by val/loss (0.4)"
    save_all(tmp_path, {6: None}, keep_latest=9)
    assert choose_checkpoint(tmp_path).step == 6


def test_the_best_is_found_among_damaged_and_unranked_ones(tmp_path):
    options = {"monitor": "val/loss", "keep_best": 3, "keep_latest": 3}
    save_all(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3}, **options)
    (tmp_path / "3/loop/metadata").write_text("{")
    assert choose_checkpoint(tmp_path).path.name == "1"
    save_all(tmp_path / "nan", {1: math.nan, 2: math.nan}, monitor="val/loss")
    assert choose_checkpoint(tmp_path / "nan").path.name == "2"


def test_the_latest_is_found_although_an_older_one_is_unreadable(run, monkeypatch):
    real = os.open

    def fail(path, *arguments, **options):
        if "checkpoints/10" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)
    assert choose_checkpoint(run, "last").path.name == "20"
    with pytest.raises(OSError, match=r"checkpoints/10 could not be read .*Input/output error"):
        choose_checkpoint(run)


def test_a_copy_with_any_name_can_be_given(run):
    for copy in (run / "checkpoints/best-model", run.parent / "best-model"):
        shutil.copytree(run / "checkpoints/10", copy)
        assert choose_checkpoint(copy) == (copy, 10, "step 10, the given checkpoint")
        assert load_checkpoint(copy, linear())["global_step"] == 10
        with pytest.raises(ValueError, match=r"`which` \(='20'\) does not match the checkpoint"):
            load_checkpoint(copy, linear(), which=20)
    assert resume(run).step == 20
    assert "best-model" in names(run)
