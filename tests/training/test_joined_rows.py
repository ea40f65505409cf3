"""The rows of batches become one array per leaf."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet.training.joined_rows import joined


@pytest.mark.parametrize("num_rows", [None, 1, 7, 20])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, bool, jnp.bfloat16])
def test_the_result_is_what_concatenate_returns(num_rows, dtype):
    whole = np.arange(7 * 3).reshape(7, 3).astype(dtype)
    found = joined((whole[start : start + 3] for start in (0, 3, 6)), num_rows)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, whole)
    assert found.flags.writeable


def test_every_leaf_is_joined():
    batches = [{"a": np.zeros(n), "b": (np.ones((n, 2)), np.zeros((n, 0)))} for n in (2, 0, 1)]
    found = joined(batches)
    assert found["a"].shape == (3,)
    assert [leaf.shape for leaf in found["b"]] == [(3, 2), (3, 0)]


@pytest.mark.parametrize("num_rows", [None, 800])
def test_rows_are_not_held_twice(num_rows):
    def batches():
        for _ in range(80):
            yield np.ones((10, 1000), np.float32)

    tracemalloc.start()
    found = joined(batches(), num_rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.sum() == 800_000
    assert peak < 1.5 * found.nbytes


def test_rows_of_different_shapes_are_refused_with_the_alternative():
    batches = [np.zeros((2, 4)), np.zeros((2, 1))]
    with pytest.raises(ValueError, match=r"\(1,\) for one batch and .*\(4,\).*`predict_batches`"):
        joined(batches)
