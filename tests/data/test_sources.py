"""Which form a user's split is read as."""

from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_arrays
from PIL import Image
from torch.utils.data import TensorDataset

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.sources import IterableSource, MapSource, as_source

X, Y = tiny_arrays(num=8)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({}, "is a mapping with no keys"),
        ({"image": X, "label": Y[:3]}, "has 8 of `image`, 3 of `label`"),
        (X, r"one array of shape \(8, 8, 8, 1\) \(ndarray\)"),
        ([X, Y], r"is a list of two arrays; .*as a tuple: \(images, labels\)"),
        ((X.tolist(), Y.tolist()), r"tuple of \(list, list\).*np.asarray converts a list"),
        ((X, None), r"tuple of \(ndarray, NoneType\)"),
        ((X, Y, Y), r"tuple of \(ndarray, ndarray, ndarray\).*DataModule\(..., fields="),
        ((X,), r"tuple of \(ndarray\)"),
        ("images/", r"is a str; .*load_data\(\"folder\", root=...\)"),
        (Path("images"), r"is a PosixPath; .*load_data\(\"folder\", root=...\)"),
        (None, "is a NoneType; expected"),
        (TensorDataset, "is a TensorDataset; .*Pass an instance of the class"),
        ([1, 2, 3], r"`train\[0\]` gave a int; expected"),
        ([[0.0, 1.0, 2.0]], r"`train\[0\]` gave a list of length 3; expected"),
        ([], "`train` is empty"),
    ],
)
def test_splits_of_other_forms_are_rejected_with_a_remedy(split, message):
    with pytest.raises(ValueError, match=f"`train` .*{message}|^{message}"):
        DataModule(split, batch_size=4)


def test_tuples_of_any_length_are_named_by_fields():
    source = as_source((X, Y, Y), names=("image", "depth", "label"), argument="train")
    assert [*source.element_spec()] == ["image", "depth", "label"]
    assert as_source(X, names=("x",), argument="train").fields.keys() == {"x"}
    data = DataModule([(1, 2.0, 3)], fields=("x", "y", "label"), batch_size=1)
    (batch,) = data.train.batches()
    assert [batch[name].tolist() for name in ("x", "y", "label")] == [[1], [2.0], [3]]
    data = DataModule(iter([(X, Y, Y)]), fields=("x", "y", "label"))
    (batch,) = data.train.batches()
    assert batch.keys() == {"x", "y", "label", "mask", "index"}


def test_dicts_are_read_as_arrays():
    (batch,) = DataModule(
        {"x": X, "nested": {"y": Y}}, batch_size=8, drop_last=False
    ).train.batches()
    order = batch["index"]
    np.testing.assert_array_equal(batch["x"], X[order])
    np.testing.assert_array_equal(batch["nested"]["y"], Y[order])


def test_a_list_is_read_as_examples_or_batches_by_its_content():
    images, labels = tiny_arrays(num=4)
    assert isinstance(as_source(list(zip(images, labels, strict=True)), argument="x"), MapSource)
    assert isinstance(as_source([(images, labels)], argument="x"), IterableSource)
    assert isinstance(as_source([{"image": images, "label": labels}], argument="x"), IterableSource)
    ragged = [{"tokens": np.zeros(5), "size": np.zeros(3)}]
    assert isinstance(as_source(ragged, argument="x"), MapSource)
    for item in ({"tokens": np.zeros(5)}, {"tokens": np.zeros((5, 3))}):
        with pytest.raises(ValueError, match="may be examples or batches"):
            as_source([item], argument="x")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ((8, 8, 1), (8, 8)),
        ((8, 8, 3), (8, 8, 3)),
        ((3, 8, 8), (3, 8, 8)),
        ((1, 8, 8), (1,)),
        ((3, 8, 8), (3,)),
        ((32, 10, 3), (32, 10)),
    ],
)
def test_a_list_that_may_be_examples_or_batches_is_rejected(image, label):
    pair = np.zeros(image, np.float32), np.zeros(label, np.float32)
    with pytest.raises(ValueError, match=r"`train` is a list of items .* may be examples or batch"):
        DataModule([pair, pair], batch_size=2)
    images, labels = (np.stack([array, array]) for array in pair)
    assert DataModule((images, labels), batch_size=2).train.num_examples == 2
    assert not DataModule(iter([pair])).train.indexable


@pytest.mark.parametrize(
    ("image", "label", "dtype", "is_batch"),
    [
        ((8, 8, 8, 1), (8, 8, 8), np.float32, True),
        ((16, 28, 28), (16,), np.int32, True),
        ((1, 28, 28), (1,), np.int32, True),
        ((16, 10, 3), (16,), np.float32, True),
        ((16, 10, 5), (16, 10), np.float32, True),
        ((16, 5), (16, 4), np.float32, True),
        ((16, 5), (16,), np.float32, True),
        ((8, 8, 1), (4, 4), np.float32, False),
        ((3, 8, 8), (8, 8), np.float32, False),
        ((8, 8, 1), (10,), np.float32, False),
        ((8, 8, 1), (), np.int32, False),
    ],
)
def test_shapes_decide_whether_a_list_holds_batches(image, label, dtype, is_batch):
    pair = np.zeros(image, np.float32), np.zeros(label, dtype)
    assert DataModule([pair, pair], batch_size=1).train.indexable != is_batch


def test_a_list_of_pil_images_and_masks_is_read_as_examples():
    image, mask = Image.new("RGB", (4, 3)), Image.new("P", (4, 3), 5)
    source = as_source([{"image": image, "label": mask}] * 2, argument="train")
    rows = source.take(np.arange(2), seed=0, epoch=0)
    assert rows.fields["image"].shape == (2, 3, 4, 3)
    assert (rows.fields["label"] == np.full((2, 3, 4), 5)).all()
