"""What a checkpoint consists of."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from saved_runs import arrays_of, names, resume

from nnx_alexnet.checkpoints import choose_checkpoint, read_checkpoint, read_loop
from nnx_alexnet.checkpoints.digests import ArrayInfo
from nnx_alexnet.checkpoints.items import (
    check_checkpoint,
    find_steps,
    is_checkpoint,
    read_shapes,
    write_checkpoint,
)
from nnx_alexnet.checkpoints.verifying import verify_checkpoints


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    folder = tmp_path / "7"
    folder.mkdir()
    arrays = arrays_of(7) | {"metrics/window/0": np.ones(2, np.float32)}
    ranking = {"monitor": None, "mode": "min", "value": None}
    loop = {"global_step": 7, "ranking": ranking, "epoch": 2}
    write_checkpoint(folder, arrays, loop)
    check_checkpoint(folder)
    found = read_checkpoint(folder)
    assert (found.step, found.loop) == (7, loop)
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)
    assert list(found.item("metrics")) == ["window/0"]
    assert read_loop(folder) == loop


def test_only_the_requested_items_are_read(run):
    folder = run / "checkpoints/20"
    assert read_checkpoint(folder, items=()).arrays == {}
    assert list(read_checkpoint(folder, items=("optimizer",)).arrays) == ["optimizer/count"]
    assert read_checkpoint(folder, items=()).digest == read_checkpoint(folder).digest
    assert read_shapes(folder, "model") == {
        "bias": ArrayInfo("float32", [30]),
        "kernel": ArrayInfo("float32", [20, 30]),
    }


def test_steps_are_found_by_name_and_checkpoints_by_content(run):
    folder = run / "checkpoints"
    (folder / "best").mkdir()
    assert find_steps(folder) == {10: folder / "10", 20: folder / "20"}
    assert is_checkpoint(folder / "10")
    assert not is_checkpoint(folder)


@pytest.mark.parametrize("name", ["40", "5"])
def test_a_copy_named_like_another_step_is_damaged(run, name):
    shutil.copytree(run / "checkpoints/20", run / "checkpoints" / name)
    rows = {Path(row["checkpoint"]).name: row for row in verify_checkpoints(run)}
    assert rows[name]["damage"] == "it holds step 20, unlike its name"
    assert choose_checkpoint(run, "last").path.name == "20"
    assert resume(run).step == 20
    assert names(run) == ["10", "20", f"damaged-{name}-0"]
