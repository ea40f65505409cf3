"""What goes wrong around a run: damaged checkpoints, full disks, bad numbers, dead workers."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import Job, digest, run_dir, run_here, saved_steps
from PIL import Image
from resume_job import JOB, build

from nnx_alexnet.callbacks import Callback
from nnx_alexnet.checkpoints import Checkpoints, choose_checkpoint, read_checkpoint
from nnx_alexnet.data import load_data
from nnx_alexnet.data.archives import safe_extraction

# ---- Damaged checkpoints -----------------------------------------------------------------------


def state(value):
    rng = np.random.default_rng(value)
    return {
        "model/layer/kernel": rng.normal(size=(50, 40)).astype(np.float32),
        "model/layer/bias": rng.normal(size=40).astype(np.float32),
        "optimizer/count": np.array(value, np.int32),
        "metrics/window/0": np.float32(value)[None],
    }


def two_checkpoints(folder):
    checkpoints = Checkpoints(folder)
    for step in (10, 20):
        checkpoints.save(step, state(step), {"epoch": step // 10, "note": "x" * 50})
    checkpoints.close()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path, where=0.5):
    data = bytearray(path.read_bytes())
    if data:
        data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(bytes(data))


HARMS = {"truncated": truncate, "emptied": empty, "deleted": Path.unlink, "a bit": flip_a_bit}


def check_survival(folder):
    """The newest exactly, or the one before; and the next save works. Returns which it was."""
    checkpoints = Checkpoints(folder)
    saved = checkpoints.restore(lambda loop: None)
    assert saved is not None
    expected = state(saved.step)
    assert saved.loop["epoch"] == saved.step // 10
    assert saved.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(saved.arrays[name], array)
    if saved.step == 10:
        assert [path.name for path in folder.glob("damaged-*")] == ["damaged-20-0"]
    for step in (20, 21):
        checkpoints.save(step, state(step), {"epoch": step // 10, "note": ""})
    checkpoints.close()
    assert read_checkpoint(folder / "21").step == 21
    assert read_checkpoint(folder / "20").step == 20
    return saved.step


def damage_each_file(tmp_path, choose):
    """Harms one file of the newest checkpoint after the other; returns which step was read."""
    two_checkpoints(tmp_path / "whole")
    files = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole/20").rglob("*")]
    files = sorted(path for path in files if (tmp_path / "whole" / path).is_file())
    results = []
    for number, path in enumerate(files):
        for harm in choose(number):
            folder = tmp_path / f"{harm} {number}"
            shutil.copytree(tmp_path / "whole", folder)
            HARMS[harm](folder / path)
            results.append(check_survival(folder))
    assert {*results} == {10, 20}, "some files are redundant, and some damage is noticed"
    return results


# Orbax leaves coroutines behind when it cannot read.
UNREADABLE = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@UNREADABLE
def test_a_damaged_file_costs_one_checkpoint_at_most(tmp_path):
    kinds = list(HARMS)
    every_third = lambda number: [kinds[number // 3 % 4]] if number % 3 == 0 else []  # noqa: E731
    assert len(damage_each_file(tmp_path, every_third)) > 7


@pytest.mark.slow
@UNREADABLE
def test_any_damage_to_any_file_costs_one_checkpoint_at_most(tmp_path):
    results = damage_each_file(tmp_path, lambda number: list(HARMS))
    print(f"{results.count(20)} of {len(results)} exact, the others on the one before")


def test_an_emptied_or_missing_folder_costs_one_checkpoint_at_most(tmp_path):
    two_checkpoints(tmp_path)
    shutil.rmtree(tmp_path / "20")
    (tmp_path / "20").mkdir()
    assert check_survival(tmp_path) == 10


@UNREADABLE
@given(where=st.floats(0, 1), number=st.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_a_flipped_bit_anywhere_is_never_read_as_another_value(tmp_path_factory, where, number):
    folder = tmp_path_factory.mktemp("flipped")
    two_checkpoints(folder)
    files = sorted(path for path in (folder / "20").rglob("*") if path.is_file())
    flip_a_bit(files[number % len(files)], where)
    check_survival(folder)


def test_a_run_with_only_damaged_checkpoints_does_not_start_again(copied):
    for path in (run_dir(copied) / "checkpoints").glob("*/manifest/metadata"):
        empty(path)
    with pytest.raises(ValueError, match=r"All checkpoints in .* are damaged.*never"):
        build(copied, JOB).fit(resume="auto")


def test_verify_tells_whole_from_damaged(copied, capsys):
    from nnx_alexnet.cli import main

    assert main(["verify", str(run_dir(copied))]) == 0
    capsys.readouterr()
    flip_a_bit(run_dir(copied) / "checkpoints/15/loop/metadata")
    assert main(["verify", str(run_dir(copied)), "--json"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["step"], first["digest"]) == (
        10,
        digest_of(run_dir(copied) / "checkpoints/10"),
    )
    assert "loop" in second["damage"] or "JSON" in second["damage"] or second["damage"]


def digest_of(folder):
    return read_checkpoint(folder, items=()).digest


# ---- Full disks and folders that cannot be written ---------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=False,
        capture_output=True,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def large(value):
    return {"model/w": np.full(300_000, value, np.float32)}  # 1.2 MB


@UNREADABLE
@pytest.mark.parametrize("on_error", ["raise", "warn"])
@pytest.mark.parametrize("is_foreseen", [True, False])
def test_a_full_disk_leaves_the_checkpoint_before_whole(
    small_disk, on_error, is_foreseen, caplog, monkeypatch
):
    if not is_foreseen:  # a quota, for instance
        usage = type(shutil.disk_usage("/"))(10**9, 0, 10**9)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    checkpoints = Checkpoints(small_disk / "checkpoints", keep_latest=1, on_error=on_error)
    checkpoints.save(1, large(1.0), {"epoch": 1})
    checkpoints.wait()
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 1_000_000)
    checkpoints.save(2, large(2.0), {"epoch": 2})
    said = r"step 2 \(1,200,000 bytes\) could not be written to .*, [\d,]+ bytes are free there: "
    if on_error == "raise":
        with pytest.raises(OSError, match=said):
            checkpoints.wait()
    else:
        checkpoints.wait()
        assert "Training continues" in caplog.text
    assert checkpoints.steps == [1]
    assert [path.name for path in (small_disk / "checkpoints").iterdir()] == ["1"]
    filler.unlink()
    checkpoints.save(3, large(3.0), {"epoch": 3})
    checkpoints.close()
    assert read_checkpoint(small_disk / "checkpoints/3").arrays["model/w"][0] == 3.0


@UNREADABLE
def test_a_run_on_a_full_disk_continues_and_can_be_resumed(small_disk, caplog):
    class Fill(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.global_step == 12:
                trainer.checkpoints.wait()
                file = (small_disk / "filler").open("ab", buffering=0)
                with file, contextlib.suppress(OSError):
                    while file.write(b"x" * 1000):
                        pass

    trainer = build(small_disk, {**JOB, "on_error": "warn"}, [Fill()])
    trainer.fit()
    assert trainer.global_step == 40, "neither logs nor checkpoints end it"
    messages = [record.message for record in caplog.records]
    assert sum("TensorBoard could not write" in message for message in messages) == 1
    assert sum("The checkpoint of step 20 " in message for message in messages) == 1
    (small_disk / "filler").unlink()
    assert max(saved_steps(small_disk)) == 10
    assert run_here(small_disk).global_step == 40


def test_a_folder_that_cannot_be_written_is_reported_before_compiling(tmp_path):
    (tmp_path / "file").touch()
    trainer = build(tmp_path / "file", JOB)
    with pytest.raises(ValueError, match=r"`log_dir` .* cannot be written"):
        trainer.fit()
    assert trainer.num_compilations == {}


def test_a_read_only_disk_is_reported_before_compiling(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    trainer = build(small_disk, JOB)
    with pytest.raises(ValueError, match=r"`log_dir` .* cannot be written"):
        trainer.fit()
    assert trainer.num_compilations == {}


def test_a_log_folder_that_vanishes_does_not_end_the_run(tmp_path):
    class Remove(Callback):
        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            if trainer.global_step == 13:
                trainer.checkpoints.wait()
                shutil.rmtree(trainer.run_dir)

    trainer = build(tmp_path, JOB, [Remove()])
    trainer.fit()
    assert trainer.global_step == 40
    assert max(saved_steps(tmp_path)) == 40


# ---- Numbers that are not finite ---------------------------------------------------------------


def test_a_nan_stops_before_it_is_saved_and_names_step_examples_and_array(tmp_path):
    trainer = build(tmp_path, {**JOB, "nan_at": 33})
    with pytest.raises(FloatingPointError) as raised:
        trainer.fit()
    text = str(raised.value)
    assert "Step 6 had a loss of " in text
    assert "its `image` is not finite for [33]." in text
    assert 33 in json.loads(text.split("held the examples ")[1].split("]", maxsplit=1)[0] + "]")
    newest = read_checkpoint(choose_checkpoint(run_dir(tmp_path), "last").path)
    assert newest.step == 5
    for name, array in newest.arrays.items():
        assert np.isfinite(array).all(), name


def test_parameters_that_overflow_are_not_saved_though_the_loss_was_finite(tmp_path):
    checkpoints = Checkpoints(tmp_path, finite=["w"])
    checkpoints.save(1, {"model/w": np.ones(3)}, {})
    checkpoints.save(2, {"model/w": np.array([1.0, np.inf])}, {})
    with pytest.raises(FloatingPointError, match="`w` of the model is not finite after step 2\\."):
        checkpoints.close()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


# ---- Data that fail ----------------------------------------------------------------------------


def test_a_killed_worker_ends_the_run_soon_with_its_place_and_a_checkpoint(tmp_path):
    job = Job(tmp_path, num_workers=1, kill_worker_at=33, save_every=1000)
    assert job.wait_for("error")
    seconds = time.time() - (tmp_path / "killed").stat().st_mtime
    status = job.end()
    kind, text = job.error()
    assert (status, kind) == (1, "WorkerDiedError")
    assert "of epoch 0 of `train` (Examples)" in text
    assert seconds < 5
    last = max(job.steps(), default=0)
    if last:
        assert saved_steps(tmp_path) == [last]
    orphans = subprocess.run(
        ["pgrep", "-g", str(job.process.pid)], capture_output=True, check=False
    )
    deadline = time.monotonic() + 5
    while orphans.stdout and time.monotonic() < deadline:
        time.sleep(0.2)
        orphans = subprocess.run(
            ["pgrep", "-g", str(job.process.pid)], capture_output=True, check=False
        )
    assert not orphans.stdout


def test_an_example_that_cannot_be_read_saves_the_last_step(tmp_path):
    trainer = build(tmp_path, {**JOB, "bad_sample_at": 33, "save_every": 1000})
    with pytest.raises(ValueError, match="the file of 33 is damaged"):
        trainer.fit()
    assert saved_steps(tmp_path) == ([trainer.global_step] if trainer.global_step else [])
    resumed = build(tmp_path, {**JOB, "bad_sample_at": 33, "on_bad_sample": "skip"})
    resumed.fit(resume="auto")
    assert resumed.global_step == 40


def test_a_skipped_example_is_replaced_the_same_way_wherever_a_run_stopped(tmp_path, caplog):
    options = {"bad_sample_at": 33, "on_bad_sample": "skip"}
    trainer = run_here(tmp_path / "straight", **options)
    assert list(trainer.data.train.bad_samples) == [33]
    assert sum("`train`[33] cannot be read" in r.message for r in caplog.records) == 1
    run_here(tmp_path / "stopped", stop_after=13, **options)
    run_here(tmp_path / "stopped", **options)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "straight")


def image_folder(root, bad=()):
    rng = np.random.default_rng(0)
    for split, num in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(num):
                pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    for path in bad:
        truncate(root / path)


def test_a_corrupt_image_is_named_or_skipped_and_capped(tmp_path):
    image_folder(tmp_path, bad=["train/cat/3.jpg", "val/dog/1.jpg"])
    arguments = {"image_size": 32, "batch_size": 4, "root": tmp_path, "num_workers": 0}
    with pytest.raises(ValueError, match=r"train/cat/3\.jpg"):
        list(load_data("folder", **arguments).train.batches())
    data = load_data("folder", on_bad_sample="skip", **arguments)
    first, second = ([b["image"].tobytes() for b in data.train.batches()] for _ in range(2))
    assert first == second
    assert list(data.train.bad_samples) == [3]
    assert "train/cat/3.jpg" in data.train.bad_samples[3]
    # In a measurement it counts nothing.
    assert sum(batch["mask"].sum() for batch in data.val.batches()) == 7
    truncate(tmp_path / "train/dog/0.jpg")
    data = load_data("folder", on_bad_sample="skip", **arguments)
    with pytest.raises(ValueError, match=r"More than 1 examples of `train` \(1%\) cannot be read"):
        list(data.train.batches())


@pytest.mark.parametrize("kind", ["above", "link"])
def test_an_archive_cannot_write_outside_its_folder(tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_text("whole")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("../secret" if kind == "above" else "link")
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(member)
    (tmp_path / "in").mkdir()
    from torchvision.datasets.utils import extract_archive

    with safe_extraction(), pytest.raises(tarfile.FilterError):
        extract_archive(str(tmp_path / "a.tar"), str(tmp_path / "in"))
    assert secret.read_text() == "whole"
    assert not hasattr(tarfile.TarFile, "extraction_filter") or (
        tarfile.TarFile.extraction_filter is not tarfile.data_filter
    )


def test_no_pickle_is_in_what_a_run_writes(copied):
    for path in run_dir(copied).rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith(b"\x80\x04"), path
            assert path.suffix not in (".pkl", ".pickle", ".pt"), path


def test_ctrl_c_twice_ends_the_command_at_once(tmp_path):
    job = Job(tmp_path, validation_seconds=60.0)
    assert job.wait_for("validation")
    os.kill(job.process.pid, signal.SIGINT)
    time.sleep(0.3)
    start = time.monotonic()
    os.kill(job.process.pid, signal.SIGINT)
    job.end()
    assert time.monotonic() - start < 20
