"""Streams of Hugging Face as splits."""

import numpy as np
import pytest
from PIL import Image

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.adapters import adapted, known_class_names
from nnx_alexnet.data.hugging_face_streams import StreamedRows, yields_batches

datasets = pytest.importorskip("datasets")


def labelled(num=8):
    features = datasets.Features({
        "x": datasets.List(datasets.Value("uint8")),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
    })  # fmt: skip
    rows = {"x": [[i, 2 * i] for i in range(num)], "label": [i % 2 for i in range(num)]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_streamed_examples_keep_the_dtypes_of_their_columns():
    example = next(iter(StreamedRows(labelled().to_iterable_dataset())))
    assert {name: value.dtype for name, value in example.items()} == {
        "x": np.uint8, "label": np.int32,
    }  # fmt: skip


def test_a_stream_after_map_is_read_without_known_columns():
    stream = labelled().to_iterable_dataset().map(lambda row: {"y": [row["label"]] * 3})
    examples = [*StreamedRows(stream)]
    assert examples[1]["y"].tolist() == [1, 1, 1]


def test_a_streamed_text_is_refused_by_name():
    stream = datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"`val` has columns .*'text' \(string\)"):
        StreamedRows(stream, "val")


@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_batches_of_a_stream_are_taken_as_they_are(kind):
    stream = labelled().to_iterable_dataset(num_shards=2).with_format(kind).batch(3)
    assert yields_batches(stream.map(lambda batch: batch))
    data = DataModule(stream, batch_size=8)
    batches = [*data.train.batches()]
    assert [len(batch["label"]) for batch in batches] == [3, 3, 2]
    assert batches[1]["x"].tolist() == [[3, 6], [4, 8], [5, 10]]
    assert (data.class_names, batches[0]["label"].dtype) == (("cat", "dog"), np.int32)


def test_other_streams_yield_examples():
    stream = labelled().to_iterable_dataset()
    assert not yields_batches(stream)
    assert not yields_batches(stream.map(lambda rows: rows, batched=True, batch_size=4))
    assert known_class_names(stream) == ("cat", "dog")


def test_batches_of_images_become_arrays():
    features = datasets.Features({"image": datasets.Image()})
    pictures = [Image.new("RGB", (4, 3), (i, 0, 0)) for i in range(4)]
    stream = datasets.Dataset.from_dict({"image": pictures}, features).to_iterable_dataset()
    data = DataModule(stream.batch(2), batch_size=2)
    assert [batch["image"][:, 0, 0, 0].tolist() for batch in data.train.batches()] == [
        [0, 1], [2, 3],
    ]  # fmt: skip


def test_the_state_of_a_stream_of_batches_is_that_of_the_library():
    batches = adapted(labelled().to_iterable_dataset(num_shards=2).batch(3), argument="train")
    iterator = iter(batches)
    next(iterator)
    state = batches.state_dict()
    rest = [batch["x"].tolist() for batch in iterator]
    batches.load_state_dict(state)
    assert [batch["x"].tolist() for batch in batches] == rest


@pytest.mark.parametrize("kind", ["torch", "numpy", "arrow", "pandas"])
def test_the_format_of_a_stream_makes_no_difference(kind):
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    features = datasets.Features({"image": datasets.Image(), "x": datasets.Value("int8")})
    rows = {"image": [Image.fromarray(image) for image in pixels], "x": [1, 2]}
    stream = datasets.Dataset.from_dict(rows, features).to_iterable_dataset()
    for split in (stream.with_format(kind), stream.with_format(kind).batch(2)):
        batch = next(DataModule(split, batch_size=2).train.batches())
        assert batch["image"].tolist() == pixels.tolist()
        assert (batch["x"].dtype, batch["x"].tolist()) == ("int8", [1, 2])
