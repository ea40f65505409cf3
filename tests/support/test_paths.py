"""Paths that no file can have, and a working directory that was deleted."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from nnx_alexnet import DataModule, Trainer, load_checkpoint
from nnx_alexnet.cli import main
from nnx_alexnet.support.paths import (
    absolute_path,
    check_encodable,
    existing_working_directory,
    from_working_directory,
    has_working_directory,
)

SPLIT = np.zeros((64, 4), np.float32), np.arange(64) % 2


@pytest.fixture
def deleted(tmp_path, monkeypatch):
    """A working directory that is no more; returns a folder that is."""
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    yield tmp_path
    monkeypatch.undo()


def build(log_dir, **arguments):
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    return Trainer(model, (SPLIT, SPLIT), max_epochs=1, log_dir=log_dir, name="run", **arguments)


@pytest.mark.parametrize("path", ["a\0b", "~no_such_user_here/a", "x" * 300 + "\0"])
def test_an_impossible_path_is_refused_by_its_argument(path):
    with pytest.raises(ValueError, match=r"`log_dir` \(=.*\) cannot be a path: "):
        absolute_path(path, "log_dir")


def test_a_cycle_of_links_is_refused_unless_links_are_kept(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "a")
    try:
        assert absolute_path(tmp_path / "a", "root").is_absolute()  # newer versions of Python
    except ValueError as error:
        assert "`root`" in str(error)  # noqa: PT017


def test_characters_that_file_names_cannot_have_are_refused():
    with pytest.raises(ValueError, match=r"`name` \(='\\ud800'\) cannot be encoded in utf-8"):
        check_encodable("\ud800", "name")
    check_encodable("\udcff", "name")  # a byte that is not text
    with pytest.raises(ValueError, match="`name`"):
        Trainer(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), (SPLIT, SPLIT), name="\ud800")


def test_links_are_followed_by_default(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert absolute_path(tmp_path / "link", "root") == tmp_path.resolve()
    assert absolute_path(tmp_path / "link", "root", follow_links=False) == tmp_path / "link"


def test_a_path_below_the_working_directory_is_shown_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert from_working_directory(tmp_path / "logs") == Path("logs")
    assert from_working_directory(Path("/elsewhere")) == Path("/elsewhere")


def test_a_relative_log_dir_is_refused_in_a_deleted_working_directory(deleted):
    trainer = build("logs")
    with pytest.raises(
        ValueError, match=r"`log_dir` .* relative to the working directory, which was"
    ):
        trainer.fit()
    assert trainer.num_compilations == {}
    with existing_working_directory():
        with pytest.raises(ValueError, match="`log_dir`"):
            absolute_path("logs", "log_dir")
        assert [*Path.cwd().iterdir()] == []


def test_fit_works_in_a_deleted_working_directory(deleted, caplog):
    trainer = build(deleted / "logs")
    assert [row["step"] for row in trainer.fit()] == [1]
    assert (trainer.run_dir / "checkpoints/1").is_dir()
    resumed = build(deleted / "logs")
    resumed.fit(resume="auto")
    assert resumed.global_step == 1


def test_commands_work_in_a_deleted_working_directory(deleted, capsys):
    build(deleted / "logs").fit()
    run = str(deleted / "logs/run/version_0")
    assert main(["runs", str(deleted / "logs")]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["verify", run]) == 0
    assert main(["report", run]) == 0
    assert "was started from Python" in capsys.readouterr().err  # so its model is not measured
    for command in (["runs"], ["report", run, "--output", "a.html"], ["test"]):
        assert main(command) == (2 if "--output" in command else 1)
        assert "which was deleted" in capsys.readouterr().err
    assert not has_working_directory()


def test_a_deleted_working_directory_is_replaced_inside_the_block(deleted):
    with existing_working_directory():
        folder = Path.cwd()
        assert not has_working_directory()
        with existing_working_directory():
            assert Path.cwd() == folder
    with pytest.raises(FileNotFoundError):
        Path.cwd()
    assert from_working_directory(deleted) == deleted


def test_an_existing_working_directory_is_kept():
    before = Path.cwd()
    with existing_working_directory():
        assert Path.cwd() == before
        assert has_working_directory()


JOB = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from worker_datasets import Stripes

def main(folder):
    import tempfile
    from flax import nnx
    from helpers import Dense
    from nnx_alexnet import DataModule, Trainer
    data = DataModule(Stripes(), batch_size=16, num_workers=1)
    trainer = Trainer(Dense(), data, max_steps=2, log_dir=folder + "/logs", name="run")
    trainer.fit()
    print(trainer.global_step, [*os.scandir(tempfile.gettempdir())])

if __name__ == "__main__":
    os.chdir(sys.argv[1] + "/deleted")
    os.rmdir(sys.argv[1] + "/deleted")
    main(sys.argv[1])
"""


@pytest.mark.slow
def test_workers_start_in_a_deleted_directory_with_a_long_path(tmp_path):
    (tmp_path / "deleted").mkdir()
    temporary = tmp_path / ("t" * 120)
    temporary.mkdir()
    (tmp_path / "job.py").write_text(JOB.format(tests=str(Path(__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "job.py"), str(tmp_path)],
        env={**os.environ, "TMPDIR": str(temporary)},
        timeout=200, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # In the long folder is what stands in for the working directory; the sockets are elsewhere.
    assert done.stdout.startswith("2 [<DirEntry 'nnx-alexnet-")
    assert "pymp" not in done.stdout
    assert [*temporary.iterdir()] == []


def test_data_can_be_loaded_without_a_home_folder(monkeypatch):
    from nnx_alexnet.data import load_data

    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert load_data("digits", image_size=16).num_classes == 10
    with pytest.raises(FileNotFoundError, match="mnist"):
        load_data("mnist")


@pytest.mark.parametrize("value", [3, True, None, b"/tmp"])
@pytest.mark.parametrize("argument", ["log_dir", "resume", "path"])
def test_a_value_that_is_not_a_path_is_refused_by_its_argument(tmp_path, argument, value):
    arrays = np.zeros((8, 4), np.float32), np.zeros(8, np.int32)
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

    def fit(log_dir=tmp_path, **arguments):
        data = DataModule(arrays, batch_size=8)
        trainer = Trainer(model, data, max_epochs=1, log_dir=log_dir, progress_bar=False)
        trainer.fit(**arguments)

    call = {
        "log_dir": lambda: fit(log_dir=value),
        "resume": lambda: fit(resume=value),
        "path": lambda: load_checkpoint(value, model),
    }[argument]
    if argument == "log_dir" and value is None:
        call()  # which writes nothing
    else:
        with pytest.raises(TypeError, match=rf"`{argument}` \(={value!r}\) must be a path"):
            call()
    assert not any(tmp_path.iterdir())
