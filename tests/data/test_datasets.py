import pickle

import numpy as np
import pytest
import scipy.io
import torchvision
from data_helpers import images_of, write_idx
from sklearn.datasets import load_digits

from nnx_alexnet.data import DATASETS, load_data


def test_digits_are_split_into_1293_144_and_360():
    data = load_data(image_size=32)
    sizes = [data.train.num_examples, data.val.num_examples, data.test.num_examples]
    assert sizes == [1293, 144, 360]
    assert data.class_names == tuple("0123456789")
    images = np.concatenate([images_of(loader) for loader in (data.train, data.val, data.test)])
    assert (images.dtype, images.min(), images.max()) == (np.uint8, 0, 255)
    for loader in (data.val, data.test):
        counts = np.bincount(loader.labels(), minlength=10)
        assert counts.max() - counts.min() <= 3


def test_digits_are_those_of_scikit_learn():
    bunch = load_digits()
    expected = np.rint(bunch.images * 255 / 16), bunch.target
    data = load_data("digits", image_size=8, batch_size=8)
    splits = [split.arrays() for split in (data.train, data.val, data.test)]
    found = [np.concatenate([fields[name] for fields in splits]) for name in ("image", "label")]
    order, expected_order = (
        np.lexsort(images.reshape(1797, 64).T) for images in (found[0], expected[0])
    )
    np.testing.assert_array_equal(found[0][order, ..., 0], expected[0][expected_order])
    np.testing.assert_array_equal(found[1][order], expected[1][expected_order])


def test_held_out_digits_do_not_depend_on_the_seed():
    first, second = load_data(seed=0), load_data(seed=1)
    np.testing.assert_array_equal(images_of(first.test), images_of(second.test))
    np.testing.assert_array_equal(images_of(first.val), images_of(second.val))


def test_the_transform_standardises_the_train_split():
    data = load_data(image_size=8, drop_last=False)
    values = np.asarray(data.transform({"image": images_of(data.train)})["image"])
    assert abs(values.mean()) < 1e-4
    assert abs(values.std() - 1) < 1e-4


def test_without_augmentation_no_image_is_translated_or_mirrored():
    augmented, plain = load_data().transform, load_data(augment=False).transform
    assert augmented.translate > 0
    assert (plain.translate, plain.flip, plain.mean) == (0, False, augmented.mean)


def test_an_unknown_name_is_rejected_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'fashion_mnist'"):
        load_data("fashion-mnist")


@pytest.mark.parametrize("name", ["hf:", "npz:", "zip:x", "hf"])
def test_incomplete_names_of_paths_are_rejected(name):
    with pytest.raises(ValueError, match=rf"`name` \(='{name}'\) is unknown.*'npz:PATH'"):
        load_data(name)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("digits", {"columns": ["image"]}),
        ("digits", {"rename": {"image": "x"}}),
        ("npz:x", {"root": "photos"}),
    ],
)
def test_arguments_of_other_datasets_are_refused(name, arguments):
    (argument,) = arguments
    with pytest.raises(ValueError, match=rf"`{argument}` .* does not apply to '{name}'"):
        load_data(name, **arguments)


def test_columns_are_a_list():
    with pytest.raises(ValueError, match=r"`columns` \(='image'\) must be a list of names"):
        load_data("npz:x", columns="image")


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"digits"}))
def test_missing_files_are_reported_with_their_place(name, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_data(name, root=tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "download=True" in message or name == "folder"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "folder", "flip"),
    [
        ("mnist", "MNIST", False),
        ("fashion_mnist", "FashionMNIST", True),
        ("kmnist", "KMNIST", False),
    ],
)
def test_the_mnist_family_is_read_from_packed_files(name, folder, flip, tmp_path):
    rng = np.random.default_rng(0)
    test_images = rng.integers(0, 256, (20, 28, 28)).astype(np.uint8)
    for split, images in (("train", np.zeros((40, 28, 28), np.uint8)), ("t10k", test_images)):
        labels = (np.arange(len(images)) % 10).astype(np.uint8)
        write_idx(tmp_path / folder / "raw" / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / folder / "raw" / f"{split}-labels-idx1-ubyte.gz", labels)
    for _ in range(2):  # unpacked once, and then found
        data = load_data(name, root=tmp_path, image_size=28, batch_size=8)
        assert [x.num_examples for x in (data.train, data.val, data.test)] == [30, 10, 20]
        np.testing.assert_array_equal(images_of(data.test)[..., 0], test_images)
        assert data.test.labels().tolist() == [*range(10)] * 2
        assert len(data.class_names) == 10
        assert data.transform.flip is flip


def test_the_real_fashion_mnist_is_read(fashion_mnist):
    data = load_data("fashion_mnist", root=fashion_mnist)
    assert [x.num_examples for x in (data.train, data.val, data.test)] == [54000, 6000, 10000]
    assert np.bincount(data.val.labels()).tolist() == [600] * 10
    assert data.class_names[9] == "Ankle boot"
    np.testing.assert_allclose(
        [data.transform.mean[0], data.transform.std[0]], [0.286, 0.353], atol=2e-3
    )


def without_checksums(monkeypatch, dataset, lists):
    for name in lists:
        files = [[file, None] for file, _ in getattr(dataset, name)]
        monkeypatch.setattr(dataset, name, files)


@pytest.mark.parametrize(
    ("name", "key"), [("cifar10", "label_names"), ("cifar100", "fine_label_names")]
)
def test_cifar_is_read_as_nhwc(name, key, tmp_path, monkeypatch):
    dataset = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
        name
    ]
    without_checksums(monkeypatch, dataset, ["train_list", "test_list"])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": None})
    folder = tmp_path / dataset.base_folder
    folder.mkdir()
    image = np.zeros((3, 32, 32), np.uint8)
    image[0] = 200  # red
    labels = [i % 10 for i in range(20)]
    entry = {"data": np.repeat(image.reshape(1, -1), 20, axis=0)}
    entry["labels" if name == "cifar10" else "fine_labels"] = labels
    for file, _ in dataset.train_list + dataset.test_list:
        (folder / file).write_bytes(pickle.dumps(entry))
    names = {key: [f"class {i}" for i in range(10)]}
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps(names))
    data = load_data(name, root=tmp_path, image_size=32, batch_size=8)
    images = images_of(data.test)
    assert images.shape == (20, 32, 32, 3)
    assert images[0, 5, 6].tolist() == [200, 0, 0]
    assert data.test.labels().tolist() == labels
    assert data.class_names[3] == "class 3"
    assert data.transform.flip


def test_svhn_is_read_as_nhwc(tmp_path, monkeypatch):
    lists = torchvision.datasets.SVHN.split_list
    plain = {split: [url, file, None] for split, (url, file, _) in lists.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", plain)
    images = np.zeros((32, 32, 3, 20), np.uint8)
    images[:, :, 2] = np.arange(20)
    labels = np.arange(20)[:, None] % 10 + 1  # 10 stands for the digit 0
    for split in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": labels})
    data = load_data("svhn", root=tmp_path, batch_size=4)
    assert images_of(data.test)[7, 1, 2].tolist() == [0, 0, 7]
    assert data.test.labels().tolist() == [*range(1, 10), 0] * 2


def test_stl10_is_read_as_nhwc(tmp_path, monkeypatch):
    without_checksums(monkeypatch, torchvision.datasets.STL10, ["train_list", "test_list"])
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    image = np.zeros((20, 3, 96, 96), np.uint8)
    image[:, 1, 5, :] = 9  # stored by columns: x = 5
    for file in ("train_X.bin", "test_X.bin", "unlabeled_X.bin"):
        image.tofile(folder / file)
    for file in ("train_y.bin", "test_y.bin"):
        (np.arange(20) % 10 + 1).astype(np.uint8).tofile(folder / file)
    data = load_data("stl10", root=tmp_path, batch_size=4)
    assert images_of(data.test)[0, 40, 5].tolist() == [0, 9, 0]
    assert data.test.labels().tolist() == [*range(10)] * 2
    assert len(data.class_names) == 10
