"""Standard streams that are missing, closed, broken, full or of a narrow encoding."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from nnx_alexnet import Trainer
from nnx_alexnet.cli import main
from nnx_alexnet.cli.prediction_output import open_output
from nnx_alexnet.runs.folder import create_run_dir
from nnx_alexnet.runs.records import write_record
from nnx_alexnet.support.standard_streams import (
    escape_unencodable,
    is_terminal,
    print_result,
    unencodable_handler,
    write_message,
)


class Broken(io.StringIO):
    """A terminal whose every call fails."""

    def isatty(self):
        return True

    def write(self, text):
        raise RuntimeError("no terminal")

    def flush(self):
        raise RuntimeError("no terminal")


class Bare:
    """All that `print` needs of a stream."""

    def write(self, text):
        pass


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def narrow():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


class Unread(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


KINDS = [lambda: None, closed, Broken, Bare, narrow, Unread, Full]
IDS = ["none", "closed", "broken", "bare", "narrow", "unread", "full"]


@pytest.mark.parametrize("make", KINDS, ids=IDS)
def test_fit_works_with_any_standard_streams(make, printed, monkeypatch, tmp_path):
    split = np.zeros((64, 4), np.float32), np.arange(64) % 2
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    trainer = Trainer(model, (split, split), max_epochs=1, log_dir=tmp_path, name="run")
    monkeypatch.setattr(sys, "stderr", make())
    monkeypatch.setattr(sys, "stdout", make())
    history = trainer.fit()
    monkeypatch.undo()
    assert [row["step"] for row in history] == [1]
    assert (tmp_path / "run/version_0/checkpoints/1").is_dir()


@pytest.mark.parametrize("make", KINDS, ids=IDS)
def test_a_message_never_raises(make, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken())  # `print` would choose it without stderr
    monkeypatch.setattr(sys, "stderr", make())
    write_message("a café")
    is_there = is_terminal(sys.stderr)
    monkeypatch.undo()
    assert is_there == (make is Broken)


def test_a_message_that_cannot_be_encoded_is_escaped(monkeypatch):
    monkeypatch.setattr(sys, "stderr", narrow())
    write_message("café …")
    assert sys.stderr.buffer.getvalue() == b"caf\\xe9 \\u2026\n"


def test_any_text_can_be_written_and_name_bytes_are_kept(tmp_path):
    stream = narrow()
    escape_unencodable(stream)
    stream.write("é \udcff \ud800\n")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\xe9 \xff \\ud800\n"
    file = tmp_path / "a.txt"
    file.write_text("é \udcff \ud800", encoding="utf-8", errors=unencodable_handler())
    assert file.read_bytes() == b"\xc3\xa9 \xff \\ud800"


@pytest.mark.parametrize("make", [lambda: None, closed], ids=["none", "closed"])
def test_results_are_discarded_without_standard_output(make, monkeypatch):
    monkeypatch.setattr(sys, "stdout", make())
    print_result("a line")
    with open_output(None) as out:
        print("a line", file=out)
    assert out.name == os.devnull


@pytest.fixture
def logs(tmp_path):
    write_record(create_run_dir(tmp_path, "mine"), {})
    return str(tmp_path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Unread, (141, "")),
        (Full, (1, "error: Standard output cannot be written: No space left on device.\n")),
        (closed, (0, "")),
        (lambda: None, (0, "")),
    ],
    ids=["unread", "full", "closed", "none"],
)
def test_exit_codes_when_the_output_cannot_be_written(make, expected, logs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", make())
    status = main(["runs", logs])
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert status == expected[0]
    assert expected[1] in error
    assert len(error.splitlines()) <= 1


@pytest.mark.parametrize("make", [Unread, Full, closed, lambda: None])
def test_a_report_is_written_even_if_its_path_cannot_be(make, logs, monkeypatch):
    monkeypatch.setattr(sys, "stdout", make())
    monkeypatch.setattr(sys, "stderr", make())
    assert main(["report", f"{logs}/mine/version_0"]) == 0
    assert Path(logs, "mine/version_0/report.html").stat().st_size > 1000


FIT = """
import os, sys
import numpy as np
from flax import nnx
from nnx_alexnet import Trainer
from nnx_alexnet.callbacks import Callback

class Complain(Callback):
    def on_train_batch_end(self, *arguments):
        for descriptor in (0, 1, 2):  # as C++ libraries do
            os.write(descriptor, b"a message of C++")

split = np.zeros((64, 4), np.float32), np.arange(64) % 2
model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
trainer = Trainer(model, (split, split), max_epochs=1, callbacks=[Complain()], name="run")
trainer.fit()
assert sys.stderr is None
"""


def test_closed_descriptors_do_not_corrupt_files_of_the_run(tmp_path):
    (tmp_path / "job.py").write_text(FIT)
    done = subprocess.run(
        f"{sys.executable} job.py <&- >&- 2>&-", shell=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0
    files = [path for path in (tmp_path / "logs/run/version_0").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if b"of C++" in path.read_bytes()] == []


@pytest.mark.slow
def test_the_command_trains_without_standard_error(tmp_path):
    options = (
        "--model helpers.TinyNet --data.image_size 16 --data.batch_size 128 --trainer.max_steps 1"
    )
    done = subprocess.run(
        f"{sys.executable} -m nnx_alexnet fit {options} 2>&-; echo rc $?",
        shell=True, cwd=tmp_path, timeout=120, check=True, capture_output=True, text=True,
    )  # fmt: skip
    run = tmp_path / "logs/tinynet/version_0"
    assert done.stdout == f"Run folder: {run}\nrc 0\n"
    assert '"finished"' in (run / "environment.json").read_text()
