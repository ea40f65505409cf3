"""Arrays that Orbax writes and reads."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from saved_runs import arrays_of, linear, listed

from nnx_alexnet import load_checkpoint
from nnx_alexnet.checkpoints import (
    Checkpoints,
    orbax_files,
    read_checkpoint,
    verify_checkpoints,
)
from nnx_alexnet.checkpoints.digests import ArrayInfo
from nnx_alexnet.checkpoints.integrity import DamagedError, MismatchError, record_files
from nnx_alexnet.checkpoints.orbax_files import check_arrays, read_arrays, write_arrays

# Orbax leaves coroutines behind when it cannot read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def huge(folder, shape=(200_000, 1_000_000)):
    """Lets the manifest promise 800 gigabytes."""
    manifest = json.loads((folder / "manifest/metadata").read_text())
    manifest["arrays"]["model/kernel"]["shape"] = list(shape)
    (folder / "manifest/metadata").write_text(json.dumps(manifest))


def huge_files(folder):
    """Writes arrays of other shapes."""
    shutil.rmtree(folder / "model")
    write_arrays(folder / "model", {"kernel": np.zeros((300, 400), np.float32)})


def iter_handler():
    with orbax_files._handler() as handler:
        yield handler


@pytest.mark.parametrize("change", [huge, huge_files])
@pytest.mark.parametrize("is_recorded", [False, True])
def test_shapes_are_compared_with_the_files_before_arrays_are_read(
    run, monkeypatch, change, is_recorded
):
    folder = run / "checkpoints/20"
    if is_recorded:
        (folder / "files.json").unlink()
        change(folder)
        record_files(folder)
    else:
        change(folder)
    handler = type(next(iter_handler()))
    monkeypatch.setattr(handler, "restore", lambda *_, **__: pytest.fail("arrays are read"))
    with pytest.raises(DamagedError):
        read_checkpoint(folder, items=("model",))


def test_more_bytes_than_the_files_have_are_refused(tmp_path):
    write_arrays(tmp_path / "model", {"kernel": np.zeros((300, 400), np.float32)})
    for path in (tmp_path / "model").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MismatchError, match="the arrays need 480,000 bytes, and the files have"):
        check_arrays(tmp_path / "model", {"kernel": ArrayInfo("float32", [300, 400])})


def test_arrays_of_another_name_dtype_or_shape_are_refused(tmp_path):
    write_arrays(tmp_path / "model", {"kernel": np.zeros((2, 3), np.float32)})
    expected = {"kernel": ArrayInfo("float32", [2, 3])}
    check_arrays(tmp_path / "model", expected)
    for other, message in [
        ({"bias": ArrayInfo("float32", [2, 3])}, "bias, kernel are only in the files or only in"),
        ({"kernel": ArrayInfo("float16", [2, 3])}, r"is float32\[2, 3\] in the files and float16"),
        ({"kernel": ArrayInfo("float32", [3, 2])}, r"and float32\[3, 2\] in the manifest"),
    ]:
        with pytest.raises(MismatchError, match=message):
            read_arrays(tmp_path / "model", other)


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


@pytest.mark.parametrize("name", [*ODD, "x" * 250])
def test_checkpoints_work_below_any_path(saved, tmp_path, name):
    directory = tmp_path / name / "checkpoints"
    (tmp_path / "aXb/checkpoints").mkdir(parents=True)  # a pattern would match it
    checkpoints = Checkpoints(directory, keep_latest=1)
    for step in (10, 20):
        checkpoints.save(step, arrays_of(step), {"epoch": step})
    checkpoints.close()
    assert listed(directory) == ["20"]
    fresh = linear(9)
    load_checkpoint(directory.parent, fresh)
    np.testing.assert_array_equal(fresh.kernel[...], linear(20).kernel[...])
    shutil.copytree(saved, copy := tmp_path / name / "copy")
    assert load_checkpoint(copy, linear())["global_step"] == 10
    assert {row["step"] for row in verify_checkpoints(copy)} == {10, 20}


def test_a_path_too_long_for_its_files_is_refused_before_writing(tmp_path):
    folder = tmp_path
    while len(os.fsencode(folder)) < 3890:
        folder = folder / ("x" * 60)
    with pytest.raises(ValueError, match=r"`log_dir` and `name` make a path of [\d,]+ bytes"):
        Checkpoints(folder / "checkpoints")
    assert listed(tmp_path) == []


def test_special_paths_are_refused_where_they_have_no_alternative(tmp_path, monkeypatch):
    real = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: str(path)[:5] != "/proc" and real(path))
    with pytest.raises(ValueError, match=r"make the path '.*\[1\].*ASCII letters"):
        Checkpoints(tmp_path / "a[1]")
    Checkpoints(tmp_path / "a 1").close()


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


def test_many_small_arrays_are_saved(tmp_path):
    arrays = {f"model/a{number}": np.zeros(200, np.float32) for number in range(300)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays, {})
    checkpoints.close()
    assert read_checkpoint(tmp_path / "1").arrays.keys() == arrays.keys()
