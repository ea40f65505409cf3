"""Checks before worker processes start: the script's guard, sockets, the dataset."""

import multiprocessing
import signal
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest
from helpers import Dense, tiny_arrays

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.data import worker_start as start
from nnx_alexnet.data.worker_start import (
    check_main_guard,
    check_temporary_folder,
    imported_script,
    ready_to_start,
    refuse_in_worker,
)

TESTS = Path(__file__).parents[1]
SPLIT = tiny_arrays(num=16)


class Examples:
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return SPLIT[0][index], SPLIT[1][index]


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """Runs source as Python runs a script; `check()` in it asks for the guard."""

    def run(source, *, name="script.py", change=None):
        path = tmp_path / name
        path.write_text(source)
        code = compile(source, str(path), "exec", dont_inherit=True)
        if change is not None:
            change(path)
        main = types.ModuleType("__main__")
        main.__file__ = str(path)
        main.check = lambda: check_main_guard(2)
        monkeypatch.setitem(sys.modules, "__main__", main)
        exec(code, vars(main))

    return run


UNGUARDED = [
    "check()",
    "x = 1\nfor _ in range(1):\n    check()",
    "if True:\n    check()",
    "import sys\nif len(sys.argv) > 0:\n    check()",
    "def main():\n    check()\nmain()",
    "with open(__file__):\n    check()",
    "try:\n    check()\nfinally:\n    pass",
    "if __name__ == '__main__':\n    pass\ncheck()",
    "x = check() or 3",
    "x = [check() for _ in range(1)]",
    "print(check(),\n      3)",
    "exec('check()')",
]


@pytest.mark.parametrize("source", UNGUARDED)
def test_scripts_that_workers_would_run_again_are_rejected(run_script, source):
    with pytest.raises(ValueError, match=r"imports? script\.py, whose line \d+ would run") as error:
        run_script(source)
    assert 'under `if __name__ == "__main__":`, or use num_workers=0.' in str(error.value)
    assert "\n" not in str(error.value)


GUARDED = [
    "if __name__ == '__main__':\n    check()",
    "def main():\n    check()\nif __name__ == '__main__':\n    main()",
    "def is_main_process():\n    return __name__ == '__main__'\nif is_main_process():\n    check()",
    "try:\n    if __name__ == '__main__':\n        check()\nfinally:\n    pass",
    "__name__ == '__main__' and check()",
    "check() if __name__ == '__main__' else None",
    "match __name__:\n    case '__main__':\n        check()",
    # A decorator, or a function, that looks for the name by itself.
    "def automain(f):\n    f.__module__ == '__main__' and f()\n@automain\ndef main():\n    check()",
    "def start(f):\n    if f.__module__ == '__main__':\n        f()\nstart(check)",
    "import functools\nif __name__ == '__main__':\n    functools.partial(check)()",
]


@pytest.mark.parametrize("source", GUARDED)
def test_scripts_with_a_guard_are_accepted(run_script, source):
    run_script(source)


def test_a_script_that_was_edited_since_it_started_is_accepted(run_script):
    run_script("check()", change=lambda path: path.write_text("# a comment\ncheck()"))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"if if if", b"\0"])
def test_files_that_are_not_python_are_accepted(run_script, content):
    run_script("check()", change=lambda path: path.write_bytes(content))


def test_a_deleted_script_is_rejected(run_script, monkeypatch):
    with pytest.raises(ValueError, match=r"import the script .*script\.py, which does not exist"):
        run_script("check()", change=Path.unlink)
    monkeypatch.setattr(sys, "frozen", True, raising=False)  # its workers import no script
    run_script("check()", change=Path.unlink)


@pytest.mark.parametrize("name", ["ipython", "ipython.py"])
def test_the_launcher_of_ipython_is_not_imported_again(run_script, name):
    run_script("check()", name=name)


@pytest.mark.parametrize("name", ["__main__", "package.__main__"])
def test_the_main_module_of_a_package_is_not_imported_again(monkeypatch, name):
    main = types.ModuleType("__main__")
    main.__spec__ = types.SimpleNamespace(name=name, origin=__file__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert imported_script() is None
    main.__spec__.name = "package.train"
    assert imported_script() == Path(__file__)


def test_a_notebook_has_no_script(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    assert imported_script() is None
    check_main_guard(2)


# ---- In a worker -------------------------------------------------------------------------------


@pytest.fixture
def importing(monkeypatch):
    """As in a worker that imports the script."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_worker_that_runs_the_script_again_exits(importing, verb, tmp_path, capsys):
    trainer = Trainer(Dense(), DataModule(SPLIT, SPLIT, SPLIT, batch_size=8), log_dir=tmp_path)
    with pytest.raises(SystemExit) as stopped:
        getattr(trainer, verb)()
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('under `if __name__ == "__main__":`, or use num_workers=0.')
    assert [*tmp_path.iterdir()] == []


def test_other_processes_than_workers_continue(capsys):
    refuse_in_worker()
    assert capsys.readouterr().err == ""


# ---- Sockets -----------------------------------------------------------------------------------


@pytest.fixture
def temporary(monkeypatch):
    """Sets the temporary folder; returns what `multiprocessing` uses."""
    config = multiprocessing.current_process()._config
    monkeypatch.setitem(config, "tempdir", None)

    def use(folder):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        return config

    return use


def test_a_short_temporary_folder_is_kept(temporary, tmp_path):
    config = temporary("/tmp")
    check_temporary_folder()
    assert config["tempdir"] is None  # `multiprocessing` makes its own


def test_a_long_temporary_folder_is_replaced_by_a_private_short_one(temporary, tmp_path):
    config = temporary(tmp_path / ("x" * 120))
    check_temporary_folder()
    short = Path(config["tempdir"])
    assert len(str(short)) < 40
    assert short.stat().st_mode & 0o777 == 0o700
    check_temporary_folder()
    assert config["tempdir"] == str(short)
    short.rmdir()
    check_temporary_folder()  # it was removed meanwhile
    assert Path(config["tempdir"]).is_dir()


def test_without_a_short_temporary_folder_the_error_names_tmpdir(temporary, tmp_path, monkeypatch):
    temporary(tmp_path / ("x" * 120))
    monkeypatch.setattr(start, "_SHORT_FOLDERS", [str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match=r"TMPDIR .* is too long .* at most 71 bytes, or use num"):
        check_temporary_folder()


def test_without_a_temporary_folder_the_error_names_tmpdir(temporary, monkeypatch):
    temporary("/tmp")

    def fails():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", fails)
    data = DataModule(Examples(), batch_size=8, num_workers=1)
    with pytest.raises(ValueError, match="Set TMPDIR to a writable folder, or use num_workers=0"):
        Trainer(Dense(), data, log_dir=None, max_epochs=1, progress_bar=False).fit()


def test_ctrl_c_is_blocked_while_processes_start():
    def blocked():
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    assert not blocked()
    with ready_to_start():
        assert blocked()
    assert not blocked()


# ---- The dataset -------------------------------------------------------------------------------


def loader_of(dataset):
    return DataModule(dataset, batch_size=8, num_workers=2).train


def test_datasets_of_a_notebook_are_rejected(monkeypatch):
    monkeypatch.setattr(Examples, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Examples", Examples, raising=False)
    monkeypatch.setattr(start, "imported_script", lambda: None)
    loader = loader_of(Examples())
    with pytest.raises(
        ValueError, match="defined in the main program, which workers cannot import"
    ):
        loader.check_workers()
    monkeypatch.setattr(start, "imported_script", lambda: Path(__file__))
    loader.check_workers()


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [(lambda: 0, "AttributeError: Can't pickle local object|PicklingError"), (sys, "TypeError")],
)
def test_datasets_that_cannot_be_pickled_are_rejected_before_a_run_starts(
    attribute, reason, tmp_path
):
    dataset = Examples()
    dataset.attribute = attribute
    data = DataModule(dataset, batch_size=8, num_workers=1)
    with pytest.raises(ValueError, match=rf"cannot be sent to workers: ({reason})"):
        Trainer(Dense(), data, log_dir=tmp_path, max_epochs=1).fit()
    assert [*tmp_path.iterdir()] == []


def test_errors_while_pickling_are_reported(monkeypatch):
    def fails(self):
        raise RuntimeError("no state")

    monkeypatch.setattr(Examples, "__reduce_ex__", lambda self, protocol: fails(self))
    with pytest.raises(ValueError, match=r"cannot be sent to workers: RuntimeError: no state"):
        loader_of(Examples()).check_workers()


# ---- Scripts -----------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from helpers import Dense
from nnx_alexnet import DataModule, Trainer
from worker_datasets import Stripes

data = DataModule(Stripes(), batch_size=16, num_workers=2)
trainer = Trainer(Dense(), data, max_epochs=1)
{train}
"""


@pytest.mark.parametrize(
    ("train", "last"),
    [
        ("trainer.fit()", "ValueError: `num_workers` (=2) starts processes that import script.py"),
        # It looks like a guard, so that the workers find out.
        pytest.param(
            "is_main = True\nif is_main:\n    trainer.fit()",
            "nnx_alexnet.data.worker_process.WorkerDiedError",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["noticed", "in the workers"],
)
def test_a_script_without_a_guard_fails_with_one_traceback(tmp_path, train, last):
    (tmp_path / "script.py").write_text(SCRIPT.format(tests=str(TESTS), train=train))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path,
        timeout=200, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1].startswith(last)
    # At most the one run that the user started.
    assert len([*tmp_path.glob("logs/*/*")]) == (0 if last.startswith("ValueError") else 1)
