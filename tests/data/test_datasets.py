import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets.folder import make_dataset

from nnx_alexnet.data import DATASETS, load_data
from nnx_alexnet.data.dataset_splits import channel_statistics, held_out
from nnx_alexnet.data.image_decoding import decode
from nnx_alexnet.data.image_files import IMAGE_SUFFIXES, find_files

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def images_of(loader):
    return np.concatenate([batch["image"][batch["mask"]] for batch in loader.batches()])


@given(
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_a_tenth_of_each_class_is_held_out(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    kept, held = held_out(labels, seed=seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    num = max(round(0.1 * len(labels)), len(counts))
    assert len(held) == num
    for label, count in enumerate(counts):
        share = np.sum(labels[held] == label)
        assert abs(share - count * num / len(labels)) <= 1
        assert share < count


def test_another_seed_holds_out_others():
    labels = np.arange(200) % 4
    assert np.array_equal(held_out(labels, seed=1)[1], held_out(labels, seed=1)[1])
    assert not np.array_equal(held_out(labels, seed=1)[1], held_out(labels, seed=2)[1])


def test_a_class_of_one_example_cannot_be_held_out():
    with pytest.raises(ValueError, match="Class 1 has a single training example"):
        held_out(np.array([0, 0, 1]), seed=0)


def test_channel_statistics_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (9, 7, 5, 3)).astype(np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)))


def test_digits_are_split_as_promised():
    data = load_data(image_size=32)
    sizes = [data.train.num_examples, data.val.num_examples, data.test.num_examples]
    assert sizes == [1293, 144, 360]
    assert data.class_names == tuple("0123456789")
    images = np.concatenate([images_of(loader) for loader in (data.train, data.val, data.test)])
    assert (images.dtype, images.min(), images.max()) == (np.uint8, 0, 255)
    for loader in (data.val, data.test):
        counts = np.bincount(loader.labels(), minlength=10)
        assert counts.max() - counts.min() <= 3


def test_both_held_out_splits_of_the_digits_are_fixed():
    first, second = load_data(seed=0), load_data(seed=1)
    np.testing.assert_array_equal(images_of(first.test), images_of(second.test))
    np.testing.assert_array_equal(images_of(first.val), images_of(second.val))


def test_the_transform_standardises_the_train_split():
    data = load_data(image_size=8, drop_last=False)
    values = np.asarray(data.transform(images_of(data.train)))
    assert abs(values.mean()) < 1e-4
    assert abs(values.std() - 1) < 1e-4


def test_without_augmentation_nothing_is_moved_or_mirrored():
    augmented, plain = load_data().transform, load_data(augment=False).transform
    assert augmented.translate > 0
    assert (plain.translate, plain.flip, plain.mean) == (0, False, augmented.mean)


def test_an_unknown_name_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'fashion_mnist'"):
        load_data("fashion-mnist")


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"digits"}))
def test_missing_files_are_an_error_that_says_where_and_how(name, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_data(name, root=tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "download=True" in message or name == "folder"
    assert list(tmp_path.iterdir()) == []


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") as file:
        file.write(header + array.tobytes())


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


@pytest.mark.parametrize("damage", [lambda all_: all_[:-9], lambda all_: b"x" + all_])
def test_a_damaged_packed_file_is_named_and_leaves_nothing(damage, tmp_path):
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    write_idx(path, np.zeros((2, 28, 28), np.uint8))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged: .*Replace"):
        load_data("mnist", root=tmp_path)
    assert [*path.parent.iterdir()] == [path]


def test_the_real_fashion_mnist_is_read(tmp_path):
    if not FASHION_MNIST.is_dir():
        pytest.skip(f"{FASHION_MNIST} is not on this machine")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FASHION_MNIST.glob("*.gz"):
        (raw / file.name).symlink_to(file)
    data = load_data("fashion_mnist", root=tmp_path)
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


def write_images(root, *, split="train", classes=("cat", "dog"), num=10, suffix="png", mode="RGB"):
    for label, name in enumerate(classes):
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(num):
            color = (100 + label, number, 7) if mode == "RGB" else number
            Image.new(mode, (60, 40), color).save(folder / f"{number}.{suffix}")


def test_a_folder_without_validation_data_holds_some_out(tmp_path):
    write_images(tmp_path)
    data = load_data("folder", root=tmp_path, image_size=20, batch_size=4, num_workers=0)
    assert (data.train.num_examples, data.val.num_examples, data.test) == (18, 2, None)
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (20, 20, 3)
    assert data.train.element_spec()["image"][0] == (23, 23, 3)  # 20 * 256 / 227
    assert sorted(data.val.labels().tolist()) == [0, 1]
    seen = {tuple(image[0, 0]) for image in [*images_of(data.train), *images_of(data.val)]}
    assert seen <= {(100 + label, number, 7) for label in range(2) for number in range(10)}
    plain = load_data(
        "folder", root=tmp_path, image_size=20, batch_size=4, augment=False, num_workers=0
    )
    assert plain.train.element_spec()["image"][0] == (20, 20, 3)
    assert plain.transform.crop == 1


def test_a_folders_own_splits_are_used_with_the_labels_of_train(tmp_path):
    write_images(tmp_path)
    write_images(tmp_path, split="val", classes=("dog",), num=3, mode="L", suffix="jpg")
    write_images(tmp_path, split="test", num=2)
    data = load_data("folder", root=tmp_path, image_size=20, batch_size=4, num_workers=0)
    assert [x.num_examples for x in (data.train, data.val, data.test)] == [20, 3, 4]
    assert data.val.labels().tolist() == [1, 1, 1]
    assert images_of(data.val).shape == (3, 23, 23, 3)


def test_a_class_that_training_has_not_is_an_error(tmp_path):
    write_images(tmp_path)
    write_images(tmp_path, split="val", classes=("cow",))
    with pytest.raises(ValueError, match=r"classes that train/ does not have: 'cow'"):
        load_data("folder", root=tmp_path, num_workers=0)


# ---- Folders as people have them -----------------------------------------------------------------


def load_folder(root, name="folder", **options):
    return load_data(
        name, root=root, **{"image_size": 20, "batch_size": 2, "num_workers": 0, **options}
    )


def reports(warnings):
    return [r.getMessage() for r in warnings.records if r.levelname == "WARNING"]


def copied(root, *names):
    """Copies images below `root`: each name is a path, of which the folders are made."""
    for name in names:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (200, 7, 7)).save(target, format="PNG")


@pytest.mark.parametrize("name", ["folder", "imagenet"])
@pytest.mark.parametrize(
    "hidden",
    [
        "train/.ipynb_checkpoints/1.png", "train/cat/.ipynb_checkpoints/1.png", "train/cat/._1.png",
        "train/.hidden.png", "train/__pycache__/1.png", "train/$RECYCLE.BIN/1.png",
        "train/lost+found/1.png", "train/__MACOSX/cat/1.png", "train/cat/deep/.cache/er/1.png",
        "val/.ipynb_checkpoints/1.png", "val/dog/.1.png", ".git/1.png", "__MACOSX/train/1.png",
        "train/cat/Thumbs.db", "train/cat/.DS_Store", "train/cat/@eaDir/1.png",
    ],
)  # fmt: skip
def test_what_is_hidden_is_neither_a_class_nor_an_image(tmp_path, warnings, hidden, name):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=2)
    copied(tmp_path, hidden)
    data = load_folder(tmp_path, name)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels().tolist() == [0, 0, 0, 1, 1, 1]
    assert data.val.labels().tolist() == [0, 0, 1, 1]
    assert not any(image[0, 0, 0] == 200 for image in images_of(data.val))
    assert reports(warnings) == []


@pytest.mark.parametrize("name", ["folder", "imagenet"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_a_validation_split_has_one_of_three_names(tmp_path, warnings, validation, name):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split=validation, num=2)
    data = load_folder(tmp_path, name)
    assert (data.train.num_examples, data.val.num_examples) == (6, 4)
    assert data.val.argument == "val"
    assert reports(warnings) == []


@pytest.mark.parametrize("names", [("val", "valid"), ("valid", "validation")])
def test_two_validation_splits_are_refused_by_name(tmp_path, names):
    for split in ("train", *names):
        write_images(tmp_path, split=split, num=3)
    with pytest.raises(ValueError, match=rf"the folders '{names[0]}', '{names[1]}', but only one"):
        load_folder(tmp_path)


def test_other_folders_beside_train_are_reported_once(tmp_path, warnings):
    for split in ("train", "val", "extra", "unlabelled"):
        write_images(tmp_path, split=split, num=3)
    assert load_folder(tmp_path).train.num_examples == 6
    (said,) = reports(warnings)
    assert "the folders 'extra', 'unlabelled' are not used; splits are train/, val/, test/" in said


def test_the_test_folder_of_imagenet_is_reported_as_not_used(tmp_path, warnings):
    for split in ("train", "val", "test"):
        write_images(tmp_path, split=split, num=3)
    assert load_folder(tmp_path, "imagenet").test is None
    (said,) = reports(warnings)
    assert "the folders 'test' are not used; splits are train/, val/" in said


def test_images_outside_of_class_folders_are_reported(tmp_path, warnings):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    copied(tmp_path, "train/loose.png", "train/other.jpg")
    (tmp_path / "train/labels.csv").touch()
    assert load_folder(tmp_path).train.num_examples == 6
    (said,) = reports(warnings)
    assert "train/ has 2 images outside of class folders ('loose.png', 'other.jpg')" in said


def test_files_that_are_left_out_are_counted_by_their_suffix(tmp_path, warnings):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    for name in ("cat/a.HEIC", "cat/b.heic", "dog/notes.txt", "dog/deep/README"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).touch()
    assert load_folder(tmp_path).train.num_examples == 6
    (said,) = reports(warnings)
    assert "train/ has 4 files of other kinds, left out: .heic (2), .txt (1), no suffix (1)" in said


@pytest.mark.parametrize("suffix", [s for s in IMAGE_SUFFIXES if s not in (".avif", ".gif")])
def test_every_suffix_that_predict_takes_is_trained_on(tmp_path, warnings, suffix):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    copied(tmp_path, f"train/cat/more{suffix}", f"train/dog/MORE{suffix.upper()}")
    data = load_folder(tmp_path, augment=False)
    assert data.train.num_examples == 8
    assert sum(image[0, 0, 0] == 200 for image in images_of(data.train)) == 2
    assert reports(warnings) == []


def test_a_class_without_images_is_refused_in_train_and_reported_in_val(tmp_path, warnings):
    write_images(tmp_path, classes=("cat", "cow", "dog"), num=3)
    write_images(tmp_path, split="val", classes=("dog",), num=3)
    (tmp_path / "val/cow").mkdir()
    assert load_folder(tmp_path).val.labels().tolist() == [2, 2, 2]
    (said,) = reports(warnings)
    assert "val/ holds no images of the classes 'cat', 'cow'" in said
    (tmp_path / "train/bee").mkdir()
    (tmp_path / "train/bee/1.heic").touch()
    with pytest.raises(ValueError, match=r"train/ holds no images of the classes 'bee'.*Remove"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["folder", "imagenet"])
@pytest.mark.parametrize(
    ("split", "files", "message"),
    [
        ("train", [], "train/ holds nothing, but no class folders. .*train/<class>/<image>.jpg"),
        ("train", ["1.png"], "train/ holds 1 image, but no class folders"),
        ("val", [], "val/ holds nothing, but no class folders.*10% of train/ are held out"),
        ("val", ["1.png", "2.png"], "val/ holds 2 images, but no class folders"),
        ("val", ["cat/1.heic"], "val/ holds no images. Images end in .jpg"),
        ("val", ["Cat/1.png"], "val/ has classes that train/ does not have: 'Cat'"),
    ],
)
def test_a_split_without_classes_or_images_is_refused(tmp_path, name, split, files, message):
    write_images(tmp_path, split="train" if split == "val" else "val", num=3)
    (tmp_path / split).mkdir()
    copied(tmp_path / split, *files)
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path, name)


@pytest.mark.parametrize("files", [[], ["1.png", "2.png"], ["test/1.png", "test/2.png"]])
def test_test_images_without_classes_are_reported_and_no_split(tmp_path, warnings, files):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    (tmp_path / "test").mkdir()
    copied(tmp_path / "test", *files)
    assert load_folder(tmp_path).test is None
    (said,) = reports(warnings)
    assert f"test/ holds {len(files)} images outside of class folders" in said
    assert ("nnx-alexnet predict RUN FOLDER" in said) == bool(files)


def test_a_test_split_of_other_classes_is_refused(tmp_path):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="test", classes=("cat", "cow"), num=3)
    with pytest.raises(ValueError, match="test/ has classes that train/ does not have: 'cow'"):
        load_folder(tmp_path)


def test_a_root_without_train_says_what_is_there(tmp_path):
    write_images(tmp_path, split="Train", num=3)
    write_images(tmp_path, split="Test", num=3)
    with pytest.raises(FileNotFoundError, match=r"no folder train/. It has the folders 'Test', "):
        load_folder(tmp_path)


@pytest.mark.timeout(20)
def test_links_are_followed_and_those_that_lead_back_end(tmp_path, warnings):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    copied(tmp_path / "elsewhere", "1.png", "2.png")
    (tmp_path / "train/cat/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/dog/one.png").symlink_to(tmp_path / "elsewhere/1.png")
    for number, target in enumerate((".", "..", "../..", "/")):  # of them all are above
        (tmp_path / f"train/cat/back{number}").symlink_to(target)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "train/cat")
    data = load_folder(tmp_path)
    assert np.bincount(data.train.labels()).tolist() == [5, 4]
    assert len(reports(warnings)) == 1  # of elsewhere/


@pytest.mark.timeout(20)
def test_a_pipe_with_the_name_of_an_image_is_left_out(tmp_path, warnings):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    os.mkfifo(tmp_path / "train/cat/pipe.png")
    (tmp_path / "train/cat/link.png").symlink_to(tmp_path / "train/cat/pipe.png")
    assert load_folder(tmp_path).train.num_examples == 6
    (said,) = reports(warnings)
    assert "2 files of other kinds, left out: .png (2)" in said


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(tmp_path):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    (tmp_path / "val/cat/gone.png").symlink_to("nowhere.png")
    data = load_folder(tmp_path)
    assert data.val.num_examples == 7
    with pytest.raises(FileNotFoundError, match=r"val/cat/gone\.png"):
        list(data.val.batches())


def test_names_are_shown_without_what_a_terminal_obeys(tmp_path, warnings):
    write_images(tmp_path, num=3)
    copied(tmp_path, "\x1b[31mred/1.png", "train/\x1b[2J.png", "train/cat/a.\x1b]0;x")
    load_folder(tmp_path)
    assert len(reports(warnings)) == 3
    assert not any("\x1b" in said for said in reports(warnings))
    (tmp_path / "val/new\nline\x1b").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"does not have: 'new\\nline\\x1b'"):
        load_folder(tmp_path)


def test_files_come_in_the_order_of_their_folders_and_names(tmp_path):
    names = ("b.png", "a/z.png", "a/c.png", "a-b/1.png", "10.png", "9.png", "a/b/0.png")
    copied(tmp_path, *names)
    found = [os.path.relpath(path, tmp_path) for path in find_files(tmp_path).images]
    assert found == ["10.png", "9.png", "b.png", "a/c.png", "a/z.png", "a-b/1.png", "a/b/0.png"]
    expected = make_dataset(str(tmp_path.parent), {tmp_path.name: 0}, (".png",))
    assert [str(tmp_path / name) for name in found] == [path for path, _ in expected]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_searched_is_an_error(tmp_path):
    write_images(tmp_path, num=3)
    (tmp_path / "train/cat").chmod(0)
    try:
        with pytest.raises(PermissionError):
            load_folder(tmp_path)
    finally:
        (tmp_path / "train/cat").chmod(0o700)


def test_an_error_while_searching_is_raised_or_noted(tmp_path):
    copied(tmp_path, "1.png")
    with pytest.raises(FileNotFoundError):
        find_files(tmp_path / "gone")
    noted = []
    assert find_files(tmp_path / "gone", note=noted.append).images == []
    assert noted[0].filename == str(tmp_path / "gone")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_an_error_that_names_the_file(tmp_path, num_workers):
    write_images(tmp_path, num=20)
    write_images(tmp_path, split="val", num=2)
    damaged = tmp_path / "val" / "dog" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    data = load_data("folder", root=tmp_path, image_size=20, batch_size=4, num_workers=num_workers)
    try:
        with pytest.raises(ValueError, match=r"^Cannot decode the image file .*val/dog/1\.png"):
            list(data.val.batches())
    finally:
        data.close()


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (48, 48), (20, 31)])
def test_decoding_resizes_the_shorter_side_and_cuts_out_the_middle(tmp_path, size):
    width, height = size
    ramp = np.add.outer(np.arange(height) * 2, np.arange(width)).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp] * 3, axis=-1))
    image.save(tmp_path / "ramp.png")
    got = decode(str(tmp_path / "ramp.png"), resize=24, size=20)
    scale = 24 / min(size)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = ((length - 20) // 2 for length in resized.size)
    want = np.array(resized.crop((left, top, left + 20, top + 20)))
    assert np.abs(got.astype(int) - want).max() <= 3


def test_imagenet_uses_its_published_statistics_and_names(tmp_path):
    write_images(tmp_path, classes=("n01440764", "n01443537"), num=3)
    write_images(tmp_path, split="val", classes=("n01440764", "n01443537"), num=1)
    data = load_data("imagenet", root=tmp_path, image_size=227, batch_size=2, num_workers=0)
    assert data.class_names == ("n01440764", "n01443537")
    assert data.transform.mean == (0.485, 0.456, 0.406)
    assert data.train.element_spec()["image"][0] == (256, 256, 3)
    assert data.transform.crop == 227 / 256
    torch.save(({"n01440764": ("tench", "Tinca tinca")}, []), tmp_path / "meta.bin")
    named = load_data("imagenet", root=tmp_path, batch_size=2, num_workers=0)
    assert named.class_names == ("tench, Tinca tinca", "n01443537")
