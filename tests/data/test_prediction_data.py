"""The data that `Trainer.predict` accepts, and the images that it decodes."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import Examples, load_folder, write_images
from helpers import tiny_arrays
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from nnx_alexnet.data import DataModule, find_images, prediction_loader

X, Y = tiny_arrays(num=8)
TORCH = torch.from_numpy(X.transpose(0, 3, 1, 2))
DATA = DataModule((X, Y), batch_size=4)


def fields(value, data=DATA):
    """The fields of all batches, joined, without `mask` and `index`."""
    batches = list(prediction_loader(data, value).batches())
    names = batches[0].keys() - {"mask", "index"}
    return {name: np.concatenate([batch[name] for batch in batches]) for name in names}


# ---- The forms of a split ----------------------------------------------------------------------

ONLY_IMAGES = {
    "NumPy": X,
    "JAX": jnp.asarray(X),
    "torch": TORCH,
    "dict": {"image": X},
    "list of arrays": [*X],
    "list of dicts": [{"image": x} for x in X],
    "list of batches": [X[:5], X[5:]],
    "dataset of 1-tuples": TensorDataset(TORCH),
    "dataset of arrays": Examples(lambda index: X[index], num=8),
    "dataset of PIL images": Examples(lambda index: Image.fromarray(X[index, ..., 0]), num=8),
    "loader of lists": DataLoader(TensorDataset(TORCH), batch_size=3),
    "loader of arrays": DataLoader(Examples(lambda index: X[index], num=8), batch_size=3),
}


@pytest.mark.parametrize("form", ONLY_IMAGES)
def test_images_need_no_labels_in_any_form(form):
    found = fields(ONLY_IMAGES[form])
    assert found.keys() == {"image"}
    np.testing.assert_array_equal(found["image"], X)


LABELLED = {
    "tuple": (X, Y),
    "list of pairs": list(zip(X, Y, strict=True)),
    "list of batches": [(X[:5], Y[:5]), (X[5:], Y[5:])],
    "loader": DataLoader(TensorDataset(TORCH, torch.from_numpy(Y)), batch_size=3),
}


@pytest.mark.parametrize("form", LABELLED)
def test_labels_may_be_given(form):
    found = fields(LABELLED[form])
    np.testing.assert_array_equal(found["image"], X)
    np.testing.assert_array_equal(found["label"], Y)


def test_generators_are_read_once_and_may_be_endless():
    def endless():
        while True:
            yield {"image": X[:3]}

    batches = prediction_loader(DATA, endless()).batches()
    assert [next(batches)["index"].tolist() for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]


def test_a_split_is_read_whole_and_in_order():
    data = DataModule((X, Y), (X[:3], Y[:3]), batch_size=5)
    assert data.train.num_batches == 1, "its last batch is left out in training"
    np.testing.assert_array_equal(fields(data.train, data)["image"], X)
    np.testing.assert_array_equal(fields(data.val, data)["label"], Y[:3])


def test_a_loader_that_shuffles_causes_a_warning(warnings):
    dataset = TensorDataset(TORCH)
    prediction_loader(DATA, DataLoader(dataset, batch_size=8))
    assert not any("shuffles" in text for text in warnings.messages)
    prediction_loader(DATA, DataLoader(dataset, batch_size=8, shuffle=True))
    assert any("`data` is a DataLoader that shuffles" in text for text in warnings.messages)


def test_the_first_field_is_that_of_the_data():
    tokens = np.arange(12, dtype=np.int32).reshape(4, 3)
    data = DataModule((tokens, tokens > 3), fields=("tokens", "attention"), batch_size=2)
    assert fields(tokens, data).keys() == {"tokens"}
    tables = DataModule({"x": tokens}, batch_size=2)
    assert fields({"x": tokens, "more": tokens}, tables).keys() == {"x", "more"}
    with pytest.raises(ValueError, match=r"without a name, .*`image`; .*'x'\. Pass a dict"):
        prediction_loader(tables, tokens)


def test_sequences_are_padded_as_in_training_and_fields_may_be_missing():
    examples = [{"tokens": [1] * n, "target": [2] * n} for n in (1, 5)]
    data = DataModule(examples, batch_size=1, pad_to={"tokens": (4, 8), "target": 8})
    found = list(prediction_loader(data, [{"tokens": [7, 8]}, {"tokens": [9] * 5}]).batches())
    assert [batch["tokens"].tolist() for batch in found] == [
        [[7, 8, 0, 0]], [[9, 9, 9, 9, 9, 0, 0, 0]]
    ]  # fmt: skip
    assert fields({"tokens": np.ones((2, 6), np.int32)}, data)["tokens"].shape == (2, 6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            X[0],
            r"`data\['image'\]` has the shape \(8, 8, 1\); .*a single example, pass image\[None\]",
        ),
        (torch.zeros(1, 8, 8), r"has the shape \(1, 8, 8\); .*, pass image\[None\]"),
        ({"image": X[0]}, r"has the shape \(8, 8, 1\); .*, pass image\[None\]"),
        (X[..., 0], r"has the shape \(8, 8, 8\); .*image\[..., None\] adds the channel axis"),
        (X[0, 0], r"has the shape \(8, 1\); expected \[N, 8, 8, 1\], as in the train split\.$"),
        (
            [*X[..., 0]],
            r"`data\[0\]\['image'\]` has the shape \(8, 8\); .* or \[N, 8, 8, 1\] for a",
        ),
        ((x for x in X), r"has the shape \(8, 8, 1\); expected \[N, 8, 8, 1\]"),
        (np.float32(1), "every array needs a first axis"),
        (X[:0], "`data` is empty"),
        ([], "`data` is empty"),
        (
            np.zeros((2, 9, 9, 1), np.uint8),
            r"`data` has `image` uint8\[9, 9, 1\], `train` has",
        ),
        (
            np.zeros((2, 8, 8, 3), np.uint8),
            r"`data` has `image` uint8\[8, 8, 3\], `train` has",
        ),
        (
            X.astype(np.uint16),
            r"`image` uint16\[8, 8, 1\], .* after .*Use the same dtype in both",
        ),
        (7, "`data` is a int; expected a dict or tuple of arrays, a dataset"),
        ((X, Y, Y), r"`data` is a tuple of \(ndarray, ndarray, ndarray\)"),
        ({"image": X, "mask": Y}, "`data` has the key `mask`"),
        ({"image": X, "name": ["a"] * 8}, r"`data\['name'\]` has dtype"),
    ],
)
def test_data_of_other_shapes_and_forms_are_rejected(value, message):
    with pytest.raises(ValueError, match=message):
        prediction_loader(DATA, value)


def test_a_whole_data_module_is_rejected():
    with pytest.raises(TypeError, match="`data` is a DataModule; pass one of its splits"):
        prediction_loader(DATA, DATA)


# ---- Images ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder with the images of `X` as files, two of them in a folder of it."""
    (tmp_path / "z").mkdir()
    for number, image in enumerate(X):
        place = tmp_path / "z" if number >= 6 else tmp_path
        Image.fromarray(image[..., 0]).save(place / f"{number}.png")
    return tmp_path


def test_a_path_means_a_file_or_all_files_of_a_folder(folder, monkeypatch):
    for path in (folder, str(folder), [folder], find_images([folder])[0]):
        np.testing.assert_array_equal(fields(path)["image"], X)
    np.testing.assert_array_equal(fields(folder / "3.png")["image"], X[3:4])
    np.testing.assert_array_equal(fields([folder / "z", folder / "0.png"])["image"], X[[6, 7, 0]])
    monkeypatch.setenv("HOME", str(folder))
    np.testing.assert_array_equal(fields("~/z")["image"], X[6:])


def test_pil_images_and_files_may_be_mixed(folder):
    images = [Image.fromarray(image[..., 0]) for image in X]
    np.testing.assert_array_equal(fields(images[2])["image"], X[2:3])
    np.testing.assert_array_equal(fields(images)["image"], X)
    np.testing.assert_array_equal(fields((images[1], str(folder / "0.png")))["image"], X[[1, 0]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "I;16"])
def test_images_get_the_channels_of_the_train_split(mode):
    grey = Image.new("L", (8, 8), 51)
    image = Image.new("I;16", (8, 8), 51 * 257) if mode == "I;16" else grey.convert(mode)
    assert (fields(image)["image"] == 51).all()
    colour = DataModule((np.zeros((4, 8, 8, 3), np.uint8), Y[:4]), batch_size=4)
    assert fields(image, colour)["image"].shape == (1, 8, 8, 3)
    assert (fields(image, colour)["image"] == 51).all()


def test_other_sizes_are_resized_and_the_middle_is_cut_out():
    image = Image.new("L", (32, 16), 0)
    image.paste(200, (6, 0, 26, 16))  # the square in the middle, and a margin
    assert (fields(image)["image"] == 200).all()
    assert image.size == (32, 16)


@pytest.mark.parametrize("augment", [True, False])
def test_files_are_decoded_as_those_of_the_train_split(tmp_path, augment):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    data = load_folder(tmp_path, augment=augment)
    files = find_images([tmp_path / "val"])[0]
    trained = np.concatenate([batch["image"] for batch in data.val.batches()])
    np.testing.assert_array_equal(fields(files, data)["image"], trained)


def test_pixels_get_the_scale_of_float_images_from_0_to_1():
    image = Image.new("L", (8, 8), 51)
    data = DataModule(((X / 255).astype(np.float16), Y), batch_size=4)
    found = fields(image, data)["image"]
    assert found.dtype == np.float16
    assert (found == np.float16(0.2)).all()
    for trained, text in [
        (np.float32(X > 99) * 2 - 1, "float32 images from -1 to 1"),
        (X > 99, "bool images from 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=f"train split has {text}, whose scale is not known"):
            prediction_loader(DataModule((trained, Y), batch_size=4), image)


@pytest.mark.parametrize("shape", [(8,), (8, 8), (8, 9, 3), (8, 8, 2)])
def test_images_are_rejected_if_training_images_have_another_form(shape):
    data = DataModule((np.zeros((4, *shape), np.uint8), Y[:4]), batch_size=4)
    with pytest.raises(ValueError, match="become squares of 1 or 3 channels; the train split has"):
        prediction_loader(data, Image.new("L", (8, 8)))


def test_missing_files_are_reported_before_any_file_is_read(folder):
    with pytest.raises(FileNotFoundError, match=r"There is no image file .*gone\.png\.$"):
        prediction_loader(DATA, [folder / "0.png", folder / "gone.png"])
    with pytest.raises(FileNotFoundError, match=r'pass `trainer.data.val_sets\["val/a"\]`'):
        prediction_loader(DATA, "val/a")
    with pytest.raises(FileNotFoundError, match=r"image file val\. .*pass `trainer.data.val`"):
        prediction_loader(DATA, "val")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`data`: The folder .*empty has no images"):
        prediction_loader(DATA, folder / "empty")
    (folder / "8.png").write_text("no image")
    with pytest.raises(ValueError, match=r"Cannot decode the image file .*8\.png"):
        fields(folder)


def test_tables_have_names():
    frame = pd.DataFrame({"x": [1, 2], "y": [0.5, 1.5]})
    data = DataModule({"x": np.array([1, 2]), "y": np.array([0.5, 1.5])}, batch_size=2)
    assert fields(dict(frame), data)["y"].tolist() == [0.5, 1.5]
