import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import digest_of, first_example, messages
from helpers import tiny_arrays

from nnx_alexnet.data import DataModule, array_source
from nnx_alexnet.data.sources import ArraySource

KEPT = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32"]


@pytest.mark.parametrize("dtype", [*KEPT, ml_dtypes.bfloat16, "complex64"])
def test_arrays_keep_their_dtype_and_values(dtype):
    array = np.array([[0, 1], [1, 1]]).astype(dtype)
    rows = ArraySource({"x": array}).take(np.array([1, 0]), seed=0, epoch=0).fields["x"]
    assert rows.dtype == array.dtype
    np.testing.assert_array_equal(rows, array[::-1])


def test_examples_in_order_are_read_only_views_and_equal_copies():
    source = ArraySource({"x": np.arange(12).reshape(6, 2), "y": [np.arange(6), np.ones(6, bool)]})
    rows, copies = source.span(2, 3).fields, source.take(np.arange(2, 5), seed=0, epoch=0).fields
    for view, copy in zip(jax.tree.leaves(rows), jax.tree.leaves(copies), strict=True):
        np.testing.assert_array_equal(view, copy)
        assert not view.flags.writeable
    assert np.shares_memory(rows["y"][0], source.fields["y"][0])
    assert source.fields["x"].flags.writeable


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float64", "float32"), ("complex128", "complex64")]
)
def test_64_bits_become_32_which_is_reported(warnings, dtype, expected):
    warnings.set_level("INFO", logger="nnx_alexnet")
    source = ArraySource({"x": {"y": np.array([3, 1], dtype)}, "n": np.arange(2)}, argument="val")
    assert first_example(source).fields["x"]["y"].dtype == expected
    (record,) = warnings.records  # nothing of the integers, whose values stay the same
    assert record.getMessage().startswith(f"`x/y`: {dtype} becomes {expected}, ")


def test_a_conversion_is_reported_once_for_all_splits(warnings):
    warnings.set_level("INFO", logger="nnx_alexnet")
    split = {"x": np.arange(4.0)}
    DataModule(split, [{"x": np.float64(3)}], {"x": np.arange(5.0)}, batch_size=1)
    (record,) = warnings.records
    assert record.getMessage().startswith("`x`: float64 becomes float32")


def test_64_bits_stay_where_jax_has_them():
    with jax.enable_x64(True):
        rows = first_example(ArraySource({"x": np.array([2**40]), "y": np.array([0.1])}))
    assert rows.fields["x"].tolist() == [2**40]
    assert rows.fields["y"].tolist() == [0.1]


def test_fields_may_be_trees_of_any_kind_of_array():
    source = ArraySource(
        {
            "views": [np.ones((2, 3)), jnp.zeros((2, 3))],
            "graph": {"nodes": torch.arange(4).reshape(2, 2), "size": pd.Series([1, 2])},
        }
    )
    rows = source.take(np.array([1]), seed=0, epoch=0).fields
    assert [view.tolist() for view in rows["views"]] == [[[1, 1, 1]], [[0, 0, 0]]]
    assert rows["graph"]["nodes"].tolist() == [[2, 3]]
    assert rows["graph"]["size"].tolist() == [2]
    assert {type(leaf) for leaf in jax.tree.leaves(rows)} == {np.ndarray}


@pytest.mark.parametrize("shape", [(4,), (4, 7), (4, 2, 3)])
def test_float_labels_are_no_classes(shape):
    source = ArraySource({"label": np.zeros(shape, np.float32)})
    spec = source.element_spec()["label"]
    assert (spec.shape, spec.dtype) == (shape[1:], np.float32)
    assert source.labels() is None


ZEROS = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((0, 4)), np.zeros(0, int), "`train` is empty"),
        (ZEROS, np.zeros(2, int), "3 of `image`, 2 of `label`.*Each split is one tuple"),
        (ZEROS, np.array([0, 1, 2**40]), f"value {2**40}, which does not fit into int32"),
        (ZEROS, np.array([0, 1, -(2**40)]), f"value -{2**40}, which does not fit into int32"),
        (ZEROS, np.array([0, 1, 1e300]), "values beyond .*, the largest float32"),
        (ZEROS, np.array(1), r"`label` of shape \(\); every array needs a first axis"),
        (ZEROS, np.array(list("abc")), r"dtype <U1;.*return_inverse=True.*class_names="),
        (ZEROS, pd.Series(list("abc")), r"dtype .*return_inverse=True"),
        (ZEROS, np.array([1, None, 2], object), "dtype object;.*contains None at position 1"),
        (ZEROS, np.array([0, "b", 2], object), "dtype object;.*contains 'b' at position 1"),
        (ZEROS, np.array([{"boxes": [1]}] * 3, object), "dtype object;.*contains {'boxes'"),
        (ZEROS, np.ma.masked_equal([0, 1, 2], 1), "masked array, whose mask would be lost"),
        (np.array([["a.jpg"], ["b.jpg"], ["c"]]), [0, 1, 2], r"`train\['image'\]` .*'a.jpg'"),
        (np.array([[Path("a.jpg")]] * 3), [0, 1, 2], r"contains PosixPath\('a.jpg'\)"),
        (torch.zeros((3, 3)).to_sparse(), [0, 1, 2], r"sparse_coo, which .* \.to_dense\(\)"),
        (np.array([["2020-01-01"]] * 3, "M8[D]"), [0, 1, 2], "dtype datetime64.*units of time"),
        (np.zeros(3, [("a", int)]), [0, 1, 2], "Pass each field of the structured array"),
        (pd.DataFrame({"a": [1.0] * 3, "b": ["x"] * 3}), [0, 1, 2], "dtype object;.*contains 'x'"),
    ],
)
def test_unusable_arrays_are_rejected_at_construction(images, labels, message):
    with pytest.raises(ValueError, match=message):
        DataModule((images, labels), batch_size=1)


@pytest.mark.parametrize(
    ("name", "remedy"), [("mask", "Give masks of images another name"), ("index", "`id`")]
)
def test_the_names_of_the_loader_are_refused(name, remedy):
    with pytest.raises(ValueError, match=rf"`train` has the key `{name}`, which .*{remedy}"):
        DataModule({"x": ZEROS, name: np.ones(3, bool)}, batch_size=1)
    with pytest.raises(ValueError, match=rf"`train\[0\]` has the key `{name}`"):
        DataModule([{"x": 1.0, name: True}], batch_size=1)
    with pytest.raises(ValueError, match=rf"`fields` has the key `{name}`"):
        DataModule((ZEROS, ZEROS), fields=("image", name), batch_size=1)


def test_a_list_of_classes_is_accepted():
    arrays = DataModule((ZEROS, [2, 0, 1]), batch_size=1).train.arrays()
    assert arrays["label"].tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match=r"dtype object;.*contains None at position 0"):
        DataModule((ZEROS, [None, 0, 1]), batch_size=1)
    with pytest.raises(ValueError, match=r"`train\['label'\]` is a list that cannot be converted"):
        DataModule((ZEROS, [[1], [1, 2], [3]]), batch_size=1)


def test_pandas_frames_and_series_are_accepted():
    frame = pd.DataFrame({"a": [0.5, 1.5], "b": [2.0, 3.0]})
    arrays = DataModule((frame, pd.Series([1, 0])), batch_size=1).train.arrays()
    assert arrays["image"].tolist() == [[0.5, 2.0], [1.5, 3.0]]
    assert arrays["label"].tolist() == [1, 0]


def test_bfloat16_tensors_keep_their_bits():
    tensor = torch.tensor([1.5, -2.0, 3e38], dtype=torch.bfloat16)
    (array,) = DataModule({"x": tensor}, batch_size=1).train.arrays().values()
    assert array.dtype == ml_dtypes.bfloat16
    assert array.astype(np.float32).tolist() == tensor.float().tolist()


def test_memory_mapped_arrays_are_read_row_by_row(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(6, 2))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    loader = DataModule({"x": mapped, "label": np.arange(6)}, batch_size=3).train
    assert loader.arrays() is None  # so they are not sent to the device as a whole
    assert loader.element_spec()["x"].dtype == np.float32
    for batch in loader.batches():
        assert type(batch["x"]) is np.ndarray
        assert batch["x"].dtype == np.float32
        np.testing.assert_array_equal(batch["x"][:, 0], 2 * batch["index"])


@pytest.mark.parametrize(
    ("low", "high", "is_reported"), [(0, 255, True), (0, 1, False), (-9, 200, False)]
)
def test_floats_that_look_like_bytes_cause_a_warning(warnings, low, high, is_reported):
    images = np.linspace(low, high, 4 * 6 * 6, dtype=np.float32).reshape(4, 6, 6, 1)
    ArraySource({"image": images}, argument="train")
    reported = messages(warnings)
    assert bool(reported) == is_reported
    assert all("`train` has float32 images from 0 to 255" in each for each in reported)


def test_one_changed_bit_changes_the_digest_of_arrays():
    images, labels = tiny_arrays(num=8)
    first = digest_of((images, labels))
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert digest_of((images.copy(), labels.astype(np.int64))) == first
    assert digest_of({"image": images, "label": labels}) == first
    assert digest_of({"images": images, "label": labels}) != first
    assert digest_of((np.asfortranarray(images), labels)) == first
    for index in (0, 5):
        changed, others = images.copy(), labels.copy()
        changed[index, 3, 3, 0] ^= 1
        others[index] ^= 1
        assert digest_of((changed, labels)) != first
        assert digest_of((images, others)) != first
    assert digest_of((images[::-1], labels)) != first
    assert digest_of((images.reshape(8, 4, 16, 1), labels)) != first
    assert digest_of((images.astype(np.float32), labels)) != first


def test_large_arrays_are_digested_by_evenly_spaced_rows(monkeypatch):
    monkeypatch.setattr(array_source, "_WHOLE_BYTES", 2000)
    images, labels = np.zeros((1000, 5), np.uint8), np.zeros(1000, np.int32)
    first = digest_of((images, labels))
    for changed_row, is_seen in ((0, True), (1, False), (999, True)):
        changed = images.copy()
        changed[changed_row] = 1
        assert (digest_of((changed, labels)) != first) == is_seen
    assert digest_of((images[:-1], labels[:-1])) != first
