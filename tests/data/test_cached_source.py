import errno
import pickle

import jax
import numpy as np
import pytest
from data_helpers import Examples, messages

from nnx_alexnet.data.cache_folders import cached_records
from nnx_alexnet.data.cached_source import CachedSource
from nnx_alexnet.data.map_source import MapSource

KEYS = np.arange(160, dtype=np.uint8).reshape(10, 16)


def example(index):
    """Values of several dtypes and shapes, in a tree, one of them empty."""
    return {
        "image": np.full((4, 4, 3), index, np.uint8),
        "pose": (np.arange(3, dtype=np.float32) * index, np.int32(-index)),
        "none": np.zeros((0, 2), np.float32),
        "is_odd": np.bool_(index % 2),
    }


def broken(index):
    if index == 4:
        raise ValueError("no such picture")
    return example(index)


def cached(folder, dataset, **options):
    record = MapSource(Examples(example)).element_spec()
    (records,) = cached_records(folder, {"data": "mine"}, record, [KEYS])
    return CachedSource(dataset, records=records, record=record, **options)


def take(source, *indices):
    return source.take(np.array(indices), seed=0, epoch=0)


def equal(one, two):
    return jax.tree.structure(one) == jax.tree.structure(two) and all(
        x.dtype == y.dtype and np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    )


def test_examples_are_read_once_and_equal_those_of_the_dataset(tmp_path):
    dataset = Examples(example, 10)
    plain, source = MapSource(Examples(example, 10)), cached(tmp_path, dataset)
    for _ in range(2):
        for indices in ((3, 1, 9), (1, 2, 0)):
            assert equal(take(source, *indices).fields, take(plain, *indices).fields)
    assert dataset.reads == 5  # 0 (to know the form), 3, 1, 9, 2
    assert source.digest() == plain.digest()
    again = Examples(example, 10)
    take(cached(tmp_path, again), *range(10))
    assert again.reads == 0


def test_known_fields_are_not_in_the_records(tmp_path):
    def labelled(index):
        return {**example(index), "label": labels[index]}

    labels = np.arange(10, dtype=np.int32)
    take(cached(tmp_path, Examples(labelled, 10), known={"label": labels}), *range(10))
    source = cached(tmp_path, Examples(labelled, 10), known={"label": labels + 5})
    assert take(source, 2, 7).fields["label"].tolist() == [7, 12]


def test_a_worker_answers_without_fields_unless_an_example_is_bad(tmp_path):
    dataset = Examples(broken, 10)
    source = cached(tmp_path, dataset, on_bad_sample="skip")
    worker = pickle.loads(pickle.dumps(source.for_workers().records))
    assert worker.missing().tolist() == list(range(10))  # before it has looked
    assert take(source.for_workers(), 1, 2) == ({}, None, {})
    rows = take(source.for_workers(), 3, 4)
    assert rows.fields["image"][:, 0, 0, 0].tolist() == [3, 5]  # the next one stands in
    assert rows.bad == {4: "ValueError: no such picture"}
    source.records.refresh()
    assert source.records.missing().tolist() == [4, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="no such picture"):
        take(cached(tmp_path, dataset), 3, 4)


def test_an_example_of_another_form_is_refused_as_without_a_cache(tmp_path):
    def grows(index):
        return {**example(index), "image": np.zeros((4 + index // 7, 4, 3), np.uint8)}

    source = cached(tmp_path, Examples(grows, 10))
    with pytest.raises(ValueError, match=r"\[7\] differs from `data`\[0\]: `image` is uint8\[5,"):
        take(source, 6, 7)
    source.records.refresh()
    assert source.records.missing().tolist() == [1, 2, 3, 4, 5, 7, 8, 9]


def test_an_example_that_changed_since_the_start_is_not_added(tmp_path):
    keys = [bytes(key) for key in KEYS]
    source = cached(tmp_path, Examples(example, 10), key_of=keys.__getitem__)
    keys[6] = b"changed meantime"
    assert take(source, 5, 6).fields["image"][:, 0, 0, 0].tolist() == [5, 6]
    source.records.refresh()
    assert 6 in source.records.missing()
    assert 5 not in source.records.missing()


def test_a_full_disk_stops_writing_but_not_reading(tmp_path, monkeypatch, warnings):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    dataset = Examples(example, 10)
    source = cached(tmp_path, dataset)
    monkeypatch.setattr("nnx_alexnet.data.decoded_cache.os.pwrite", full)
    for _ in range(2):
        assert take(source, 5, 6).fields["image"][:, 0, 0, 0].tolist() == [5, 6]
    assert dataset.reads == 5
    (message,) = messages(warnings)
    assert "cannot be written: No space left on device" in message


def test_rows_that_a_caller_keeps_are_not_overwritten(tmp_path):
    source = cached(tmp_path, Examples(example, 10))
    take(source, *range(10))
    kept = [take(source, index, 0) for index in range(10)]
    assert [rows.fields["image"][0, 0, 0, 0] for rows in kept] == list(range(10))
