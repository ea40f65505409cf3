"""Which checkpoints count as damaged, and that nothing else costs one."""

import errno
import logging
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from saved_runs import fail_in_orbax, fail_to_open, linear, listed, names, resume

from nnx_alexnet import load_checkpoint
from nnx_alexnet.checkpoints import items, orbax_files, read_checkpoint
from nnx_alexnet.checkpoints.integrity import (
    DamagedError,
    UnreadableError,
    VanishedError,
    record_files,
)
from nnx_alexnet.checkpoints.orbax_files import read_arrays

# Orbax leaves coroutines behind when it cannot read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


CAUSES = {
    "EMFILE": OSError(errno.EMFILE, "Too many open files"),
    "ENFILE": OSError(errno.ENFILE, "Too many open files in system"),
    "ENOMEM": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "EACCES": PermissionError(errno.EACCES, "Permission denied"),
    "EIO": OSError(errno.EIO, "Input/output error"),
    "ESTALE": OSError(errno.ESTALE, "Stale file handle"),
    "memory": MemoryError("of the process"),
    "import": ImportError("no orbax here"),
    "any": RuntimeError("a bug of a library"),
}


def fail_to_open_data(monkeypatch, cause):
    """Lets Orbax fail, and the files of the arrays fail to open."""
    fail_in_orbax(monkeypatch, RuntimeError("NOT_FOUND: nonsense"))
    real = os.open

    def fail(path, *arguments, **options):
        if "/d/" in str(path):
            raise cause
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)


def swallow(monkeypatch, cause):
    """Lets Orbax read nothing without an error."""
    del cause

    class Handler:
        def metadata(self, path):
            return type("Metadata", (), {"tree": None})

    class Context:
        def __enter__(self):
            return Handler()

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(orbax_files, "_handler", Context)


@pytest.mark.parametrize(
    ("hinder", "cause"),
    [
        *((fail_in_orbax, cause) for cause in CAUSES),
        *((fail_to_open, cause) for cause in CAUSES),
        *((fail_to_open_data, cause) for cause in ("EMFILE", "EIO", "memory")),
        (swallow, "any"),
    ],
)
def test_an_error_while_reading_is_reported_and_renames_nothing(run, monkeypatch, hinder, cause):
    with monkeypatch.context() as patch:
        hinder(patch, CAUSES[cause])
        with pytest.raises(OSError, match="could not be read") as raised:
            resume(run)
        if hinder is not swallow:
            assert str(CAUSES[cause]) in str(raised.value)
        with pytest.raises(OSError, match="Nothing shows that it is damaged"):
            load_checkpoint(run, linear())
    assert names(run) == ["10", "20"]
    assert resume(run).step == 20


def test_a_missing_orbax_is_not_damage(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(OSError, match=r"could not be read .*import of orbax"):
        read_checkpoint(run / "checkpoints/20")


@pytest.mark.parametrize("left", [0, 1, 2, 3, 5])
def test_without_file_descriptors_the_run_is_refused_and_later_resumed(run, left):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    read_checkpoint(run / "checkpoints/10")  # loads the modules that it needs
    limit = max(int(name) for name in listed(Path("/proc/self/fd"))) + 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for descriptor in taken[:left]:
        os.close(descriptor)
    outcome = ""
    try:
        outcome = f"resumed after {resume(run).step}"
    except OSError as error:
        outcome = str(error)
    finally:
        for descriptor in taken[left:]:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert outcome == "resumed after 20" or "Too many open files" in outcome
    assert names(run) == ["10", "20"]
    assert resume(run).step == 20


def test_a_transient_error_of_one_read_is_not_damage(run, monkeypatch):
    """As if a file on a network disk was missing for a moment, and Orbax read it as zeros."""
    readings = []

    def once_zeros(folder, expected):
        readings.append(folder.name)
        found = read_arrays(folder, expected)
        if len(readings) == 1:
            found = {name: np.zeros_like(array) for name, array in found.items()}
        return found

    monkeypatch.setattr(items, "read_arrays", once_zeros)
    assert resume(run).step == 20
    assert names(run) == ["10", "20"]


DAMAGE = {
    "no record": lambda folder: (
        (folder / "files.json").unlink(),
        (folder / "model/manifest.ocdbt").unlink(),
    ),
    "record is not JSON": lambda folder: (
        (folder / "files.json").write_text("["),
        (folder / "model/manifest.ocdbt").write_bytes(b""),
    ),
    "record is nested": lambda folder: (
        (folder / "files.json").write_text("[" * 100_000),
        (folder / "model/manifest.ocdbt").write_bytes(b""),
    ),
    "record leads out": lambda folder: (
        (folder / "files.json").write_text('{"../20": {"size": 1, "sha256": "x"}}'),
        (folder / "model/manifest.ocdbt").write_bytes(b""),
    ),
    "a file": lambda folder: (folder / "model/_METADATA").unlink(),
    "a folder": lambda folder: shutil.rmtree(folder / "model"),
    "a folder is a file": lambda folder: (
        shutil.rmtree(folder / "model"),
        (folder / "model").write_text("x"),
    ),
    "loop": lambda folder: (folder / "loop/metadata").write_text("[" * 100_000),
    "loop is a folder": lambda folder: (
        (folder / "loop/metadata").unlink(),
        (folder / "loop/metadata").mkdir(),
    ),
    "manifest": lambda folder: (folder / "manifest/metadata").write_text("{}"),
    "a FIFO": lambda folder: (
        (folder / "model/manifest.ocdbt").unlink(),
        os.mkfifo(folder / "model/manifest.ocdbt"),
    ),
    "a FIFO of JSON": lambda folder: (
        (folder / "loop/metadata").unlink(),
        os.mkfifo(folder / "loop/metadata"),
    ),
    "empty": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_previous_one_used(run, kind, caplog):
    DAMAGE[kind](run / "checkpoints/20")
    with pytest.raises(DamagedError, match="is damaged"):
        read_checkpoint(run / "checkpoints/20")
    with caplog.at_level(logging.WARNING):
        assert resume(run).step == 10
    assert names(run) == ["10", "damaged-20-0"]
    assert "The checkpoint 20 is damaged and not used" in caplog.text


def with_new_record(folder, change):
    """Damage that the record of the files does not show, because it was taken afterwards."""
    change(folder)
    (folder / "files.json").unlink()
    record_files(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda f: (f / "loop/metadata").write_text("[1]"), "loop is not a JSON object"),
        (lambda f: (f / "loop/metadata").write_text("{"), "loop is not JSON"),
        (lambda f: (f / "loop/metadata").write_text('{"a": 1}'), "loop differ from the digests"),
        (lambda f: (f / "manifest/metadata").write_text('{"arrays": [], "loop": ""}'), "structure"),
    ],
)
def test_intact_files_with_other_content_are_damage(run, change, what):
    with_new_record(run / "checkpoints/20", change)
    with pytest.raises(DamagedError, match=what):
        read_checkpoint(run / "checkpoints/20")
    assert resume(run).step == 10


def test_a_given_checkpoint_that_vanishes_is_not_damage(run, while_reading):
    while_reading("read_arrays", lambda folder: shutil.rmtree(folder.parent))
    with pytest.raises(VanishedError, match="deleted or replaced"):
        load_checkpoint(run / "checkpoints/10", linear())


def test_the_errors_have_the_documented_types(run):
    assert issubclass(DamagedError, ValueError)
    error = UnreadableError(run, CAUSES["EIO"])
    assert (error.errno, isinstance(error, OSError)) == (errno.EIO, True)
    assert str(error).startswith(f"The checkpoint {run} could not be read (OSError: [Errno 5]")
