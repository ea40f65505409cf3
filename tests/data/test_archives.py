import numpy as np
import pytest
from data_helpers import write_idx

from nnx_alexnet.data import load_data


@pytest.mark.parametrize("damage", [lambda all_: all_[:-9], lambda all_: b"x" + all_])
def test_a_damaged_packed_file_is_named_and_leaves_nothing(damage, tmp_path):
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    write_idx(path, np.zeros((2, 28, 28), np.uint8))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged: .*Replace"):
        load_data("mnist", root=tmp_path)
    assert [*path.parent.iterdir()] == [path]
