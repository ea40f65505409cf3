import numpy as np
import pytest
from data_helpers import array_loader, batches_of, same, sizes_of
from helpers import tiny_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx_alexnet.data import Loader
from nnx_alexnet.data.batching import own_batch, padded_size, plan_batches
from nnx_alexnet.data.examples import Rows
from nnx_alexnet.data.sources import IterableSource

SIZES = {"num": st.integers(1, 40), "batch_size": st.integers(1, 12), "seed": st.integers(0, 2**31)}


@given(**SIZES, multiple=st.integers(1, 5))
@settings(deadline=None)
def test_evaluation_pads_with_rows_of_the_batch(num, batch_size, seed, multiple):
    *_, last = array_loader(num, batch_size).batches(seed=seed, multiple=multiple)
    real = num % batch_size or batch_size
    size = -(-batch_size // multiple) * multiple
    assert last["mask"].tolist() == [True] * real + [False] * (size - real)
    assert last["index"].tolist() == [num - real + i % real for i in range(size)]
    dtypes = {key: value.dtype for key, value in last.items()}
    assert dtypes == {"image": np.float32, "label": np.int32, "mask": bool, "index": np.int32}


@given(**SIZES, parts=st.integers(1, 4))
@settings(deadline=None)
def test_without_padding_the_last_batch_is_smaller(num, batch_size, seed, parts):
    def part(number):
        def rows(size):
            share, rest = divmod(size, parts)
            return None if rest else slice(number * share, (number + 1) * share)

        return rows

    loader = array_loader(num, batch_size, shuffle=True)
    whole = list(loader.batches(seed=seed))
    assert all(batch["mask"].all() for batch in whole)
    assert [len(batch["index"]) for batch in whole] == [
        min(batch_size, num - first) for first in range(0, num, batch_size)
    ]
    read = [list(loader.batches(seed=seed, part=part(number))) for number in range(parts)]
    for number, batch in enumerate(whole):
        if len(batch["index"]) % parts:  # each process reads all of it
            assert all(same([each[number]], [batch]) for each in read)
        else:
            joined = np.concatenate([each[number]["index"] for each in read])
            np.testing.assert_array_equal(joined, batch["index"])
        assert loader.count(number, read[0][number]) == len(batch["index"])


@pytest.mark.parametrize(("multiple", "padded"), [(1, [4, 4, 7, 4]), (4, [4, 4, 8, 4])])
def test_batches_of_an_iterable_are_padded_to_the_first(multiple, padded):
    sizes = [4, 2, 7, 1]
    batches = list(Loader(IterableSource(batches_of(sizes))).batches(multiple=multiple))
    assert sizes_of(batches) == padded
    assert [batch["mask"].sum() for batch in batches] == sizes
    assert all(batch["mask"][:size].all() for batch, size in zip(batches, sizes, strict=True))
    assert batches[1]["index"].tolist() == [4, 5, 4, 5]


def masked_batches():
    images, labels = tiny_arrays(num=12)
    masks = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    return [
        {"image": images[i : i + 4], "label": labels[i : i + 4], "mask": mask}
        for i, mask in zip(range(0, 12, 4), masks, strict=True)
    ]


def test_training_batches_have_no_masked_rows():
    given_batches = masked_batches()
    loader = Loader(IterableSource(given_batches))
    assert loader.num_batches == 2  # of the second nothing is left
    first, second = loader.batches()
    np.testing.assert_array_equal(first["image"], given_batches[0]["image"][[0, 2, 3]])
    np.testing.assert_array_equal(first["label"], given_batches[0]["label"][[0, 2, 3]])
    assert first["mask"].tolist() == [True] * 3
    assert (first["index"].tolist(), second["index"].tolist()) == ([0, 1, 2], [3, 4, 5, 6])
    assert loader.num_batches == 2


def test_evaluation_keeps_the_mask_of_an_iterable():
    loader = Loader(IterableSource(masked_batches()))
    masks = [batch["mask"].tolist() for batch in loader.batches(multiple=1)]
    assert masks == [[True, False, True, True], [True] * 4]


def test_masks_that_exclude_every_row_are_rejected():
    (_, batch, _) = masked_batches()
    with pytest.raises(ValueError, match="`train` yields batches whose masks exclude every"):
        list(Loader(IterableSource([batch]), argument="train").batches())


@pytest.mark.parametrize(
    ("batch_size", "multiple", "size"), [(1, 1, 1), (7, 1, 7), (7, 4, 8), (8, 4, 8), (1, 8, 8)]
)
def test_padded_size_is_the_next_multiple(batch_size, multiple, size):
    assert padded_size(batch_size, multiple) == size


def test_a_process_without_rows_of_a_ragged_batch_pads_all_of_its_rows():
    def second_half(size):
        return slice(size // 2, size)

    full, ragged = plan_batches(np.arange(10, 16), 4, multiple=2, part=second_half)
    assert (full.rows.tolist(), full.num, full.size) == ([12, 13], 2, 2)
    assert (ragged.rows.tolist(), ragged.num, ragged.size) == ([14], 0, 2)


def test_a_masked_batch_is_padded_after_its_own_rows():
    mask = np.array([False, True, True])
    rows = Rows({"image": np.ones((3, 1)), "label": np.array([1, 2, 3])}, mask)
    batch = own_batch(rows, position=5, batch_size=2, multiple=2)
    assert batch["label"].tolist() == [1, 2, 3, 1]
    assert batch["mask"].tolist() == [False, True, True, False]
    assert batch["index"].tolist() == [5, 5, 6, 5]
    assert mask.tolist() == [False, True, True]  # of the caller, unchanged
