"""Which checkpoints count as damaged, and that nothing else costs one."""

import errno
import json
import logging
import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from nnx_alexnet import load_checkpoint
from nnx_alexnet.checkpoints import integrity, orbax_files
from nnx_alexnet.checkpoints import items as checkpoint_files
from nnx_alexnet.checkpoints import store as saving
from nnx_alexnet.checkpoints.digests import manifest_of
from nnx_alexnet.checkpoints.integrity import (
    DamagedError,
    UnreadableError,
    VanishedError,
    record_files,
)
from nnx_alexnet.checkpoints.items import read_checkpoint, read_loop
from nnx_alexnet.checkpoints.loading import choose_checkpoint, find_checkpoint, verify_checkpoints
from nnx_alexnet.checkpoints.orbax_files import read_arrays, write_arrays
from nnx_alexnet.checkpoints.store import Checkpoints
from nnx_alexnet.cli import main
from nnx_alexnet.devices.named_arrays import named_leaves, on_host

# Orbax leaves coroutines behind when it cannot read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def model(seed=0):
    return nnx.Linear(20, 30, rngs=nnx.Rngs(seed))


def arrays_of(step):
    arrays = {f"model/{name}": on_host(leaf) for name, leaf in named_leaves(model(step)).items()}
    return arrays | {"optimizer/count": np.array(step, np.int32)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints of two steps, the earlier one the best."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, monitor="val/loss", keep_best=1)
    for step, value in [(10, 0.25), (20, 0.5)]:
        checkpoints.save(step, arrays_of(step), {"epoch": step // 10, "data": {}}, value=value)
    checkpoints.close()
    return folder.parent


@pytest.fixture
def run(saved, tmp_path):
    """A copy of it."""
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def names(run):
    return listed(run / "checkpoints")


def resume(run):
    checkpoints = Checkpoints(run / "checkpoints", monitor="val/loss", keep_best=1)
    try:
        return checkpoints.restore(lambda loop: None)
    finally:
        checkpoints.close()


# ---- What hinders reading is no damage --------------------------------------------------------

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


def fail_in_orbax(monkeypatch, cause):
    def fail():
        raise cause

    monkeypatch.setattr(orbax_files, "_handler", fail)


def fail_to_open(monkeypatch, cause):
    """Whatever file of a checkpoint is opened."""
    real = os.open

    def fail(path, *arguments, **options):
        if "checkpoints/" in str(path):
            raise cause
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)


def fail_to_open_data(monkeypatch, cause):
    """The files of the arrays, which Orbax reads, and the digests are taken of."""
    fail_in_orbax(monkeypatch, RuntimeError("NOT_FOUND: nonsense"))
    real = os.open

    def fail(path, *arguments, **options):
        if "/d/" in str(path):
            raise cause
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)


def swallow(monkeypatch, cause):
    """Orbax keeps the cause to itself, and has read nothing."""
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
def test_what_hinders_reading_is_named_and_renames_nothing(run, monkeypatch, hinder, cause):
    with monkeypatch.context() as patch:
        hinder(patch, CAUSES[cause])
        with pytest.raises(OSError, match="could not be read") as raised:
            resume(run)
        if hinder is not swallow:
            assert str(CAUSES[cause]) in str(raised.value)
        with pytest.raises(OSError, match="Nothing shows that it is damaged"):
            load_checkpoint(run, model())
    assert names(run) == ["10", "20"]
    assert resume(run).step == 20


@pytest.mark.parametrize("hinder", [fail_in_orbax, fail_to_open])
def test_verify_tells_unreadable_from_damaged(run, monkeypatch, capsys, hinder):
    with monkeypatch.context() as patch:
        hinder(patch, CAUSES["EIO"])
        assert main(["verify", str(run)]) == 3
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[:5] for line in lines] == [
            [step, "unknown", "could", "not", "be"] for step in ("10", "20")
        ]
        assert all("Input/output error" in line for line in lines)
        assert main(["verify", str(run), "--json"]) == 3
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["error"] for row in rows] == ["OSError: [Errno 5] Input/output error"] * 2
    (run / "checkpoints/10/model/_METADATA").write_text("{")
    assert main(["verify", str(run)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1:4] == ["damaged", "model/_METADATA", "has"]
    assert second.split()[1] == "intact"


def test_the_latest_is_found_though_an_older_one_cannot_be_read(run, monkeypatch):
    real = os.open

    def fail(path, *arguments, **options):
        if "checkpoints/10" in str(path):
            raise CAUSES["EIO"]
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)
    assert find_checkpoint(run, "last").name == "20"
    with pytest.raises(OSError, match=r"checkpoints/10 could not be read .*Input/output error"):
        find_checkpoint(run)


def test_an_orbax_that_cannot_be_imported_is_no_damage(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(OSError, match=r"could not be read .*import of orbax"):
        read_checkpoint(run / "checkpoints/20")


@pytest.mark.parametrize("left", [0, 1, 2, 3, 5])
def test_without_file_descriptors_the_run_is_refused_and_later_resumed(run, left):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    read_checkpoint(run / "checkpoints/10")  # which loads what it needs
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


def test_a_mishap_of_one_reading_is_no_damage(run, monkeypatch):
    """Say, a network disk on which a file was missing for a moment, and Orbax took it for zeros."""
    readings = []

    def once_zeros(folder, expected):
        readings.append(folder.name)
        found = read_arrays(folder, expected)
        if len(readings) == 1:
            found = {name: np.zeros_like(array) for name, array in found.items()}
        return found

    monkeypatch.setattr(checkpoint_files, "read_arrays", once_zeros)
    assert resume(run).step == 20
    assert names(run) == ["10", "20"]


# ---- What is damage ---------------------------------------------------------------------------


DAMAGE = {
    "no record": lambda folder: (
        (folder / "files.json").unlink(),
        (folder / "model/manifest.ocdbt").unlink(),
    ),
    "record is no JSON": lambda folder: (
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
def test_what_is_proved_damaged_is_set_aside_and_the_one_before_is_used(run, kind, caplog):
    DAMAGE[kind](run / "checkpoints/20")
    with pytest.raises(DamagedError, match="is damaged"):
        read_checkpoint(run / "checkpoints/20")
    with caplog.at_level(logging.WARNING):
        assert resume(run).step == 10
    assert names(run) == ["10", "damaged-20-0"]
    assert "The checkpoint 20 is damaged and not used" in caplog.text


def with_new_record(folder, change):
    """Damage that the record of the files does not show: they are as they were written."""
    change(folder)
    (folder / "files.json").unlink()
    record_files(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda f: (f / "loop/metadata").write_text("[1]"), "loop is no JSON object"),
        (lambda f: (f / "loop/metadata").write_text("{"), "loop is no JSON"),
        (lambda f: (f / "loop/metadata").write_text('{"a": 1}'), "loop differ from the digests"),
        (lambda f: (f / "manifest/metadata").write_text('{"arrays": [], "loop": ""}'), "structure"),
    ],
)
def test_files_that_are_whole_and_hold_something_else_are_damage(run, change, what):
    with_new_record(run / "checkpoints/20", change)
    with pytest.raises(DamagedError, match=what):
        read_checkpoint(run / "checkpoints/20")
    assert resume(run).step == 10


def huge(folder, shape=(200_000, 1_000_000)):
    """A manifest that promises 800 gigabytes."""
    manifest = json.loads((folder / "manifest/metadata").read_text())
    manifest["arrays"]["model/kernel"]["shape"] = list(shape)
    (folder / "manifest/metadata").write_text(json.dumps(manifest))


def huge_files(folder):
    """Arrays of other shapes, with their values all over again."""
    shutil.rmtree(folder / "model")
    write_arrays(folder / "model", {"kernel": np.zeros((300, 400), np.float32)})


@pytest.mark.parametrize("change", [huge, huge_files])
@pytest.mark.parametrize("is_recorded", [False, True])
def test_promises_are_compared_with_the_files_before_arrays_are_read(
    run, monkeypatch, change, is_recorded
):
    folder = run / "checkpoints/20"
    if is_recorded:
        with_new_record(folder, change)
    else:
        change(folder)
    handler = type(next(iter_handler()))
    monkeypatch.setattr(handler, "restore", lambda *_, **__: pytest.fail("arrays are read"))
    with pytest.raises(DamagedError):
        read_checkpoint(folder, items=("model",))


def iter_handler():
    with orbax_files._handler() as handler:
        yield handler


def test_more_bytes_than_the_files_hold_are_no_array(tmp_path):
    array = np.zeros((300, 400), np.float32)
    write_arrays(tmp_path / "model", {"kernel": array})
    promised = manifest_of({"kernel": array}, {})["arrays"]
    for path in (tmp_path / "model").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(integrity.MismatchError, match="480,000 bytes are promised by files of"):
        orbax_files.check_arrays(tmp_path / "model", promised)


# ---- Names and content ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["40", "5"])
def test_a_copy_under_another_number_is_damaged(run, name):
    shutil.copytree(run / "checkpoints/20", run / "checkpoints" / name)
    rows = {Path(row["checkpoint"]).name: row for row in verify_checkpoints(run)}
    assert rows[name]["damage"] == "it holds step 20, which is not its name"
    assert find_checkpoint(run, "last").name == "20"
    assert resume(run).step == 20
    assert names(run) == ["10", "20", f"damaged-{name}-0"]


@pytest.mark.parametrize("name", ["010", "٢٠", "²", "00"])
def test_a_number_that_is_not_canonical_is_no_step(run, name):
    shutil.copytree(run / "checkpoints/20", run / "checkpoints" / name)
    assert [Path(row["checkpoint"]).name for row in verify_checkpoints(run)] == ["10", "20"]
    assert find_checkpoint(run, "last").name == "20"
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
    assert find_checkpoint(run, "last").name == "20"
    assert len([*verify_checkpoints(run)]) == 2
    assert resume(run).step == 20
    assert os.path.lexists(path)
    # One that is in the way of a checkpoint is moved, and what a link points to stays.
    checkpoints = Checkpoints(run / "checkpoints", keep_latest=9)
    checkpoints.save(int(name), arrays_of(int(name)), {"epoch": 0})
    checkpoints.close()
    assert names(run) == sorted(["10", "20", name, f"damaged-{name}-0"])
    assert read_checkpoint(run / "checkpoints" / name).step == int(name)
    assert read_checkpoint(run / "checkpoints/20").step == 20


def test_a_copy_under_a_free_name_is_loaded_when_it_is_given(run):
    for copy in (run / "checkpoints/best-model", run.parent / "best-model"):
        shutil.copytree(run / "checkpoints/10", copy)
        assert choose_checkpoint(copy) == (copy, 10, "step 10, the given checkpoint")
        assert load_checkpoint(copy, model())["global_step"] == 10
        with pytest.raises(ValueError, match=r"`which` \(='20'\) does not match the checkpoint"):
            load_checkpoint(copy, model(), which=20)
    assert resume(run).step == 20
    assert "best-model" in names(run)


# ---- Readers of a run that goes on ------------------------------------------------------------


@pytest.fixture
def while_reading(monkeypatch):
    """Does something once, when the arrays or the JSON of a checkpoint are about to be read."""

    def at(name, action):
        real, done = getattr(checkpoint_files, name), []

        def read(folder, *arguments):
            if not done:
                done.append(folder)
                action(folder)
            return real(folder, *arguments)

        monkeypatch.setattr(checkpoint_files, name, read)

    return at


@pytest.mark.parametrize("place", ["_read_json", "_read_manifest"])
def test_a_checkpoint_deleted_while_it_is_read_is_skipped(run, while_reading, place):
    while_reading(place, lambda folder: shutil.rmtree(run / "checkpoints/10"))
    assert [Path(row["checkpoint"]).name for row in verify_checkpoints(run)] == ["20"]


def test_another_checkpoint_is_chosen_when_one_is_deleted_while_it_is_read(run, while_reading):
    while_reading("read_arrays", lambda folder: shutil.rmtree(folder.parent))
    about = load_checkpoint(run, loaded := model(9))  # the best, 10, vanishes
    assert about["global_step"] == 20
    np.testing.assert_array_equal(loaded.kernel[...], model(20).kernel[...])


def test_a_checkpoint_replaced_while_it_is_read_is_read_again(run, while_reading):
    def replace(folder):
        checkpoints = Checkpoints(run / "checkpoints", monitor="val/loss", keep_best=1)
        checkpoints.save(20, arrays_of(21), {"epoch": 3, "data": {}}, value=0.1)
        checkpoints.close()

    while_reading("read_arrays", replace)
    assert load_checkpoint(run, model(), which="last")["epoch"] == 3


def test_a_given_checkpoint_that_vanishes_is_no_damage(run, while_reading):
    while_reading("read_arrays", lambda folder: shutil.rmtree(folder.parent))
    with pytest.raises(VanishedError, match="deleted or replaced"):
        load_checkpoint(run / "checkpoints/10", model())


def test_a_damaged_checkpoint_is_neither_the_best_nor_the_latest(run, warnings):
    shutil.rmtree(run / "checkpoints/10/model")
    assert load_checkpoint(run, model())["global_step"] == 20
    assert "checkpoints/10 is damaged: model/_METADATA is missing" in warnings.text
    assert "It is not used." in warnings.text
    with pytest.raises(DamagedError):
        load_checkpoint(run, model(), which=10)
    (run / "checkpoints/20/loop/metadata").write_text("{")
    with pytest.raises(ValueError, match="holds no checkpoint that is whole"):
        load_checkpoint(run, model())


# ---- Paths ------------------------------------------------------------------------------------

ODD = [
    "a[1]",
    "a*b",
    "a?b",
    "a\\b",
    "**",
    "a\nb",
    "a%20b",
    "a b'\"",
    "ü日本",
    "#",
    "gs:",
    "\udcff~",
]


@pytest.mark.parametrize("name", [*ODD, "\udcff~", "x" * 250])
def test_any_path_holds_checkpoints_and_copies_of_them(saved, tmp_path, name):
    directory = tmp_path / name / "checkpoints"
    (tmp_path / "aXb/checkpoints").mkdir(parents=True)  # which a pattern would match
    checkpoints = Checkpoints(directory, keep_latest=1)
    for step in (10, 20):
        checkpoints.save(step, arrays_of(step), {"epoch": step})
    checkpoints.close()
    assert listed(directory) == ["20"]
    fresh = model(9)
    load_checkpoint(directory.parent, fresh)
    np.testing.assert_array_equal(fresh.kernel[...], model(20).kernel[...])
    shutil.copytree(saved, copy := tmp_path / name / "copy")
    assert load_checkpoint(copy, model())["global_step"] == 10
    assert {row["step"] for row in verify_checkpoints(copy)} == {10, 20}


def test_a_path_that_leaves_no_room_for_files_is_refused_before_anything_is_written(tmp_path):
    folder = tmp_path
    while len(os.fsencode(folder)) < 3890:
        folder = folder / ("x" * 60)
    with pytest.raises(ValueError, match=r"`log_dir` and `name` make a path of [\d,]+ bytes"):
        Checkpoints(folder / "checkpoints")
    assert listed(tmp_path) == []


def test_where_no_other_path_leads_to_a_folder_odd_ones_are_refused(tmp_path, monkeypatch):
    real = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: str(path)[:5] != "/proc" and real(path))
    with pytest.raises(ValueError, match=r"make the path '.*\[1\].*ASCII letters"):
        Checkpoints(tmp_path / "a[1]")
    Checkpoints(tmp_path / "a 1").close()


def test_a_first_save_that_cannot_be_read_back_fails_at_once(tmp_path, monkeypatch):
    def forget(folder, arrays):
        write_arrays(folder, {name: array + 1 for name, array in arrays.items()})

    monkeypatch.setattr(checkpoint_files, "write_arrays", forget)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays_of(1), {"epoch": 1})
    with pytest.raises(OSError, match=r"step 1 .* could not be written .*differ from the digests"):
        checkpoints.close()
    assert listed(tmp_path) == []


def test_every_save_compares_structure_with_what_is_on_disk(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays_of(1), {"epoch": 1})
    checkpoints.wait()

    def forget(folder, arrays):
        write_arrays(folder, dict([*arrays.items()][1:]))

    monkeypatch.setattr(checkpoint_files, "write_arrays", forget)
    checkpoints.save(2, arrays_of(2), {"epoch": 1})
    with pytest.raises(OSError, match="bias are in the files or in the manifest only"):
        checkpoints.close()
    assert listed(tmp_path) == ["1"]


def test_arrays_without_elements_are_saved(tmp_path):
    arrays = {"model/none": np.zeros((0, 3), np.float32), "model/w": np.ones(2)}
    arrays["optimizer/none"] = np.zeros((2, 0), np.int32)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays, {})
    checkpoints.close()
    found = read_checkpoint(tmp_path / "1").arrays
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
        name: (array.dtype, array.shape) for name, array in arrays.items()
    }


def test_many_small_arrays_that_are_compressed_together_are_saved(tmp_path):
    arrays = {f"model/a{number}": np.zeros(200, np.float32) for number in range(300)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays, {})
    checkpoints.close()
    assert read_checkpoint(tmp_path / "1").arrays.keys() == arrays.keys()


# ---- Saves that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_what_a_failed_save_goes_on_writing_is_cleared(tmp_path, monkeypatch, on_error):
    writers = []

    def fail(folder, *_):
        def keep_writing():
            for number in range(30):
                (folder / "model/d").mkdir(parents=True, exist_ok=True)
                (folder / f"model/d/{number}").write_bytes(b"x")
                stop.wait(0.005)

        stop = threading.Event()
        writers.append(threading.Thread(target=keep_writing))
        writers[-1].start()
        stop.wait(0.01)
        raise ValueError("RESOURCE_EXHAUSTED: no room")

    monkeypatch.setattr(saving, "write_checkpoint", fail)
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
def test_a_folder_that_takes_nothing_any_more_leaves_what_there_is(run, monkeypatch, error):
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


def test_a_folder_deleted_while_the_run_goes_on_is_made_anew(run):
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

    monkeypatch.setattr(saving, "delete", refuse)
    checkpoints = Checkpoints(run / "checkpoints", keep_latest=1)
    checkpoints.save(30, arrays_of(30), {})
    checkpoints.close()
    assert "The checkpoint 10 could not be deleted" in warnings.text
    assert read_loop(run / "checkpoints/30")["global_step"] == 30


def test_ranking_by_another_metric_or_direction_ranks_anew(run):
    def open_with(**options):
        checkpoints = Checkpoints(run / "checkpoints", keep_best=1, keep_latest=9, **options)
        best = checkpoints.best_step
        checkpoints.close()
        return best

    assert open_with(monitor="val/loss") == 10
    assert open_with(monitor="val/loss", mode="max") == 20
    assert open_with(monitor="val/accuracy", mode="max") is None
    assert open_with() is None


def test_saves_and_readers_in_several_threads_do_not_disturb_each_other(tmp_path):
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
                fresh = model(9)
                checkpoints.wait()
                load_checkpoint(tmp_path / str(number), fresh)
                np.testing.assert_array_equal(fresh.kernel[...], model(step).kernel[...])
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


def test_a_folder_that_cannot_be_opened_is_named_with_its_cause(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"The checkpoints in .*file cannot be opened: .*exists"):
        Checkpoints(tmp_path / "file")


def test_checkpoints_behind_a_link_to_a_folder_work(run, tmp_path):
    (run / "checkpoints").rename(tmp_path / "disk")
    (run / "checkpoints").symlink_to(tmp_path / "disk")
    assert load_checkpoint(run, model())["global_step"] == 10
    checkpoints = Checkpoints(run / "checkpoints", keep_latest=1)
    checkpoints.save(30, arrays_of(30), {})
    checkpoints.close()
    assert names(run) == ["30"]
    assert (run / "checkpoints").is_symlink()


def test_errors_are_of_their_kinds(run):
    assert issubclass(DamagedError, ValueError)
    error = UnreadableError(run, CAUSES["EIO"])
    assert (error.errno, isinstance(error, OSError)) == (errno.EIO, True)
    assert str(error).startswith(f"The checkpoint {run} could not be read (OSError: [Errno 5]")
