import numpy as np
import pytest
from data_helpers import batches_of, same, sizes_of
from helpers import tiny_arrays

from nnx_alexnet.data import Loader
from nnx_alexnet.data.sources import IterableSource


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sizes", [[4, 4, 3], [3, 8, 5, 1], [16, 8, 8, 16, 5], [1, 1, 40]])
def test_no_batch_of_an_iterable_is_dropped(sizes, drop_last):
    loader = Loader(IterableSource(batches_of(sizes)), drop_last=drop_last)
    for _ in range(2):
        batches = list(loader.batches())
        assert sizes_of(batches) == sizes
        seen = np.concatenate([batch["index"] for batch in batches])
        np.testing.assert_array_equal(seen, np.arange(sum(sizes)))
        images = np.concatenate([batch["image"] for batch in batches])
        np.testing.assert_array_equal(images, tiny_arrays(num=sum(sizes))[0])
    assert loader.num_batches == len(sizes)
    assert (loader.indexable, loader.drop_last, loader.num_examples) == (False, False, None)
    assert (loader.batch_size, loader.num_left_out) == (sizes[0], 0)


def test_batches_without_rows_are_skipped_and_not_counted():
    images, labels = tiny_arrays(num=8)
    empty = (images[:0], labels[:0])
    batches = [empty, (images[:4], labels[:4]), empty, (images[4:], labels[4:]), empty]
    loader = Loader(IterableSource(batches))
    assert (loader.batch_size, loader.num_batches) == (4, 2)
    for options in ({}, {"multiple": 1}):
        assert sizes_of(loader.batches(**options)) == [4, 4]
    assert loader.num_batches == 2


def test_start_yields_the_tail_of_an_iterable():
    loader = Loader(IterableSource(batches_of([4, 4, 3])))
    assert same(loader.batches(start=1), list(loader.batches())[1:])
