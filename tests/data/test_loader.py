import numpy as np
import pytest
from data_helpers import array_loader, batches_of

from nnx_alexnet.data import Loader
from nnx_alexnet.data.sources import ArraySource, IterableSource, MapSource


@pytest.mark.parametrize("argument", ["epoch", "seed", "start"])
def test_negative_arguments_are_rejected(argument):
    with pytest.raises(ValueError, match=rf"`{argument}` \(=-1\)"):
        array_loader(4, 2).batches(**{argument: -1})


def test_unread_batches_are_completed_by_index():
    loader = array_loader(5, 3, shuffle=True)
    for whole, bare in zip(
        loader.batches(seed=1), loader.batches(seed=1, reads=False), strict=True
    ):
        assert bare.keys() == {"mask", "index"}
        complete = loader.complete(bare)
        assert complete.keys() == whole.keys()
        for name, array in whole.items():
            np.testing.assert_array_equal(complete[name], array)


def test_complete_returns_a_batch_with_images_unchanged():
    (batch,) = Loader(IterableSource(batches_of([4]))).batches()
    assert Loader(IterableSource(batches_of([4]))).complete(batch) is batch


def test_labels_in_memory_are_those_known_without_reading_examples():
    targets = np.array([[0.5], [1.5]], np.float32)
    arrays = Loader(ArraySource({"image": np.zeros((2, 4)), "label": targets}))
    assert arrays.labels() is None
    np.testing.assert_array_equal(arrays.labels_in_memory(), targets)
    assert Loader(MapSource([(np.zeros((2, 2, 1)), 1)])).labels_in_memory() is None
    assert Loader(IterableSource(batches_of([4]))).labels_in_memory() is None


def test_only_map_style_datasets_are_read_by_workers():
    images, labels = np.zeros((4, 8)), np.arange(4)
    examples = list(zip(images, labels, strict=True))
    assert Loader(ArraySource({"image": images}), num_workers=2).num_workers == 0
    assert Loader(IterableSource(batches_of([4])), num_workers=2).num_workers == 0
    assert Loader(MapSource(examples), num_workers=2).num_workers == 2
