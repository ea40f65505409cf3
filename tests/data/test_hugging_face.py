"""Datasets of Hugging Face as splits."""

import pickle

import numpy as np
import pytest
from PIL import Image

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.hugging_face import (
    HuggingFaceRows,
    ImageSizesDifferError,
)

datasets = pytest.importorskip("datasets")
Value, Features = datasets.Value, datasets.Features


def labelled(num=8, **columns):
    features = Features({
        "x": datasets.List(Value("uint8")),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
    })  # fmt: skip
    rows = {"x": [[i, 2 * i] for i in range(num)], "label": [i % 2 for i in range(num)]}
    return datasets.Dataset.from_dict(rows, features=features)


def images(*pictures):
    return datasets.Dataset.from_dict(
        {"image": list(pictures)}, features=Features({"image": datasets.Image()})
    )


def grey(value=0, size=(5, 4)):
    return Image.new("L", size, value)


@pytest.mark.parametrize("kind", [None, "numpy", "torch", "jax", "arrow"])
def test_the_format_of_a_dataset_makes_no_difference(kind):
    rows = HuggingFaceRows(labelled().with_format(kind))
    assert len(rows) == 8
    row = rows[3]
    assert (row["x"].dtype, row["x"].tolist()) == (np.uint8, [3, 6])
    assert (row["label"].dtype, row["label"]) == (np.int32, 1)


def test_only_the_columns_of_the_format_are_read():
    rows = HuggingFaceRows(labelled().with_format("numpy", columns=["x"]))
    assert [*rows[0]] == ["x"]
    assert rows.class_names is None
    assert rows.targets is None


def test_a_transform_of_the_user_is_applied():
    dataset = labelled()
    dataset.set_transform(lambda rows: {"y": [[v + 1 for v in x] for x in rows["x"]]})
    np.testing.assert_array_equal(HuggingFaceRows(dataset)[2]["y"], [3, 5])


def test_rows_after_a_selection_are_the_selected_ones():
    rows = HuggingFaceRows(labelled().select([5, 1]))
    assert [row["x"].tolist() for row in (rows[0], rows[1])] == [[5, 10], [1, 2]]
    assert rows.targets.tolist() == [1, 1]


def test_whole_columns_equal_the_rows():
    rows = HuggingFaceRows(labelled())
    columns = rows.columns()
    np.testing.assert_array_equal(columns["x"], np.stack([rows[i]["x"] for i in range(8)]))
    assert (columns["label"].dtype, columns["label"].tolist()) == (np.int32, [0, 1] * 4)


def test_structs_and_arrays_keep_their_form():
    features = Features({"a": datasets.Array2D((2, 3), "float32"), "s": {"u": Value("bool")}})
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    dataset = datasets.Dataset.from_dict({"a": [values] * 2, "s": [{"u": True}] * 2}, features)
    row = HuggingFaceRows(dataset)[1]
    np.testing.assert_array_equal(row["a"], values)
    assert row["s"] == {"u": True}


def test_grey_images_have_one_channel_and_others_three():
    assert HuggingFaceRows(images(grey(7), grey(9)))[1]["image"].tolist() == [[[9]] * 5] * 4
    red = Image.new("RGB", (5, 4), (200, 0, 0))
    rows = HuggingFaceRows(images(grey(7), red))
    assert rows[0]["image"][0, 0].tolist() == [7, 7, 7]
    assert rows[1]["image"][0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("picture", "pixel"),
    [
        (Image.new("RGBA", (5, 4), (9, 9, 9, 0)), [255] * 3),  # transparent: white
        (Image.new("CMYK", (5, 4), (0, 0, 0, 255)), [0] * 3),
        (Image.new("1", (5, 4), 1), [255]),
        (Image.new("I;16", (5, 4), 65535), [255]),
        (Image.new("P", (5, 4), 0).convert("P"), [0] * 3),
    ],
    ids=["RGBA", "CMYK", "1", "I;16", "P"],
)
def test_images_of_other_modes_are_converted(picture, pixel):
    assert HuggingFaceRows(images(picture))[0]["image"][0, 0].tolist() == pixel


def test_a_colour_image_among_grey_ones_is_an_error_with_its_index():
    pictures = [grey()] * 40
    pictures[20] = Image.new("RGB", (5, 4))
    rows = HuggingFaceRows(images(*pictures), "train")
    assert rows.modes == {"image": "L"}
    with pytest.raises(ValueError, match=r"`train`\[20\] has a colour image.*cast_column"):
        rows[20]


def test_images_that_the_user_left_encoded_are_decoded():
    dataset = images(grey(7)).cast_column("image", datasets.Image(decode=False))
    assert HuggingFaceRows(dataset)[0]["image"].tolist() == [[[7]] * 5] * 4
    colour = images(grey(7)).cast_column("image", datasets.Image(mode="RGB"))
    assert HuggingFaceRows(colour)[0]["image"].shape == (4, 5, 3)


def test_images_of_several_sizes_are_not_one_array():
    rows = HuggingFaceRows(images(grey(), grey(size=(6, 4))), "train")
    with pytest.raises(ImageSizesDifferError, match=r"`train`\[1\] has an image of shape"):
        rows.columns()


def test_missing_values_are_an_error_with_their_index():
    dataset = datasets.Dataset.from_dict({"x": [1.0, None]})
    with pytest.raises(ValueError, match=r"`train`\[1\], column 'x', has 1 missing"):
        HuggingFaceRows(dataset, "train")[1]
    pictures = datasets.Dataset.from_dict(
        {"image": [grey(), None]}, features=Features({"image": datasets.Image()})
    )
    with pytest.raises(ValueError, match=r"`train`\[1\] has no image in the column 'image'"):
        HuggingFaceRows(pictures, "train")


def test_texts_and_sounds_are_refused_by_name():
    features = Features({
        "x": Value("int32"), "text": Value("string"), "when": Value("date32"),
        "sound": datasets.Audio(), "words": datasets.List(Value("string")),
    })  # fmt: skip
    dataset = datasets.Dataset.from_dict({name: [] for name in features}, features)
    expected = (
        r"`train` has columns .*: 'text' \(string\), 'when' \(date32\), 'sound' \(Audio\), "
        r"'words' \(string\)\. Leave them out, dataset\.remove_columns\(\['text', 'when', "
    )
    with pytest.raises(ValueError, match=expected):
        HuggingFaceRows(dataset, "train")


def test_rows_can_be_sent_to_a_worker():
    rows = pickle.loads(pickle.dumps(HuggingFaceRows(labelled())))
    assert rows[3]["x"].tolist() == [3, 6]


def test_a_data_module_takes_class_names_and_labels_from_the_dataset():
    data = DataModule(labelled(), labelled(4), batch_size=4)
    assert (data.class_names, data.num_classes) == (("cat", "dog"), 2)
    assert data.train.labels().tolist() == [0, 1] * 4
    (batch,) = data.val.batches()
    assert batch["x"].tolist() == [[0, 0], [1, 2], [2, 4], [3, 6]]
    assert data.train.sample_digest() == DataModule(labelled(), batch_size=2).train.sample_digest()


def test_batches_read_together_equal_rows_read_one_by_one(monkeypatch):
    pictures = [grey(i, size=(6, 5)) for i in range(8)]
    dataset = labelled().add_column("n", [2**i for i in range(8)])
    dataset = datasets.concatenate_datasets([dataset, images(*pictures)], axis=1)
    data = DataModule(dataset, batch_size=3)
    together = [*data.train.batches(epoch=1)]

    def unable(*_):
        raise ValueError

    monkeypatch.setattr(HuggingFaceRows, "columns", unable)
    one_by_one = [*data.train.batches(epoch=1)]
    assert len(together) == len(one_by_one) == 2
    for first, second in zip(together, one_by_one, strict=True):
        assert {*first} == {"x", "label", "n", "image", "mask", "index"}
        for name, array in first.items():
            assert array.dtype == second[name].dtype
            np.testing.assert_array_equal(array, second[name])


def test_a_row_that_is_unlike_the_others_is_named():
    data = DataModule(datasets.Dataset.from_dict({"x": [[1, 2]] * 7 + [[1, 2, 3]]}), batch_size=4)
    with pytest.raises(
        ValueError, match=r"`train`\[7\] differs from `train`\[0\]: `x` is int32\[3\]"
    ):
        [*data.train.batches()]


@pytest.mark.parametrize("mode", ["P", "1", "I;16"])
def test_masks_whose_values_would_change_are_refused_with_a_remedy(mode):
    dtype = {"P": np.uint8, "1": bool, "I;16": np.uint16}[mode]
    values = (np.arange(12).reshape(3, 4) % 2).astype(dtype)
    mask = Image.fromarray(values)
    if mode == "P":
        mask.putpalette([9, 9, 9, 200, 0, 0])
    assert mask.mode == mode
    features = datasets.Features({"image": datasets.Image(), "depth": datasets.Image()})
    rows = {"image": [Image.new("RGB", (4, 3))] * 2, "depth": [mask] * 2}
    split = datasets.Dataset.from_dict(rows, features)
    message = rf"The column 'depth' has an image of mode '{mode}'.*rename the column to 'image'"
    with pytest.raises(ValueError, match=message):
        DataModule(split, batch_size=2)
    with pytest.raises(ValueError, match=message):
        _ = DataModule(split.to_iterable_dataset(), batch_size=2).batch_size
    split.set_transform(lambda rows: {**rows, "depth": [np.asarray(x) for x in rows["depth"]]})
    batch = next(DataModule(split, batch_size=2).train.batches())
    assert batch["depth"].dtype == dtype
    assert (batch["depth"] == values).all()
