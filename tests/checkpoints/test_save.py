"""Writing one checkpoint."""

import numpy as np
import pytest
from saved_runs import arrays_of, listed, small

from nnx_alexnet.checkpoints import Checkpoints, items
from nnx_alexnet.checkpoints.orbax_files import write_arrays
from nnx_alexnet.checkpoints.save import Save, SaveWriter, snapshot
from nnx_alexnet.devices import NonFiniteError

RANKING = {"monitor": "val/loss", "mode": "min", "value": 0.5}


def save_of(step, arrays=None, **loop):
    return Save(step, arrays or small(step), {"global_step": step, "ranking": RANKING, **loop})


def test_a_save_knows_its_value_size_and_position():
    save = save_of(7, {"model/w": np.zeros(3, np.float32)}, epoch=1, step_in_epoch=3)
    assert (save.value, save.num_bytes) == (0.5, 12)
    assert save.is_at_position_of({"epoch": 1, "step_in_epoch": 3, "metrics": {}})
    assert not save.is_at_position_of({"epoch": 2, "step_in_epoch": 0})


def test_a_snapshot_refuses_what_json_cannot_represent():
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        snapshot({"callbacks": {"Mine": {1, 2}}})


def test_arrays_that_must_be_finite_are_checked_before_writing(tmp_path):
    writer = SaveWriter(tmp_path, finite=["weights"], synced=[])
    bad = {"model/weights": np.array([1.0, np.inf])}
    with pytest.raises(NonFiniteError, match="`weights` of the model is not finite after step 3"):
        writer.write(save_of(3, bad))
    assert (listed(tmp_path), writer.has_written) == ([], False)
    SaveWriter(tmp_path, finite=[], synced=[tmp_path / "missing"]).write(save_of(3, bad))
    assert listed(tmp_path) == ["3"]


def test_the_first_save_is_read_back(tmp_path, monkeypatch):
    def forget(folder, arrays):
        write_arrays(folder, {name: array + 1 for name, array in arrays.items()})

    monkeypatch.setattr(items, "write_arrays", forget)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays_of(1), {"epoch": 1})
    with pytest.raises(OSError, match=r"step 1 .* could not be written .*differ from the digests"):
        checkpoints.close()
    assert listed(tmp_path) == []


def test_every_save_compares_the_structure_on_disk(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays_of(1), {"epoch": 1})
    checkpoints.wait()

    def forget(folder, arrays):
        write_arrays(folder, dict([*arrays.items()][1:]))

    monkeypatch.setattr(items, "write_arrays", forget)
    checkpoints.save(2, arrays_of(2), {"epoch": 1})
    with pytest.raises(OSError, match="bias are only in the files or only in the manifest"):
        checkpoints.close()
    assert listed(tmp_path) == ["1"]
