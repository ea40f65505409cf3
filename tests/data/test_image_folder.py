import os
import shutil

import numpy as np
import pytest
import torch
from data_helpers import images_of, load_folder, messages, same, write_images
from PIL import Image

from nnx_alexnet.data import load_data
from nnx_alexnet.data.image_reader import ImageReader


def test_a_folder_without_validation_data_holds_some_out(tmp_path):
    write_images(tmp_path)
    data = load_data("folder", root=tmp_path, image_size=20, batch_size=4, num_workers=0)
    assert (data.train.num_examples, data.val.num_examples, data.test) == (18, 2, None)
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (20, 20, 3)
    assert data.train.element_spec()["image"].shape == (23, 23, 3)  # 20 * 256 / 227
    assert sorted(data.val.labels().tolist()) == [0, 1]
    seen = {tuple(image[0, 0]) for image in [*images_of(data.train), *images_of(data.val)]}
    assert seen <= {(100 + label, number, 7) for label in range(2) for number in range(10)}
    plain = load_data(
        "folder", root=tmp_path, image_size=20, batch_size=4, augment=False, num_workers=0
    )
    assert plain.train.element_spec()["image"].shape == (20, 20, 3)
    assert plain.transform.crop == 1


def test_splits_of_a_folder_share_the_classes_of_train(tmp_path):
    write_images(tmp_path)
    write_images(tmp_path, split="val", classes=("dog",), num=3, mode="L", suffix="jpg")
    write_images(tmp_path, split="test", num=2)
    data = load_data("folder", root=tmp_path, image_size=20, batch_size=4, num_workers=0)
    assert [x.num_examples for x in (data.train, data.val, data.test)] == [20, 3, 4]
    assert data.val.labels().tolist() == [1, 1, 1]
    assert images_of(data.val).shape == (3, 23, 23, 3)


def test_a_root_without_train_lists_its_folders(tmp_path):
    write_images(tmp_path, split="Train", num=3)
    write_images(tmp_path, split="Test", num=3)
    with pytest.raises(FileNotFoundError, match=r"no folder train/. It has the folders 'Test', "):
        load_folder(tmp_path)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_images_are_rejected_by_name(tmp_path, num_workers):
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


def test_imagenet_uses_its_published_statistics_and_names(tmp_path):
    write_images(tmp_path, classes=("n01440764", "n01443537"), num=3)
    write_images(tmp_path, split="val", classes=("n01440764", "n01443537"), num=1)
    data = load_data("imagenet", root=tmp_path, image_size=227, batch_size=2, num_workers=0)
    assert data.class_names == ("n01440764", "n01443537")
    assert data.transform.mean == (0.485, 0.456, 0.406)
    assert data.train.element_spec()["image"].shape == (256, 256, 3)
    assert data.transform.crop == 227 / 256
    torch.save(({"n01440764": ("tench", "Tinca tinca")}, []), tmp_path / "meta.bin")
    named = load_data("imagenet", root=tmp_path, batch_size=2, num_workers=0)
    assert named.class_names == ("tench, Tinca tinca", "n01443537")


@pytest.fixture
def photos(tmp_path):
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch):
    """Records the names of the files that are decoded."""
    names, read = [], ImageReader.__call__

    def note(reader, path):
        names.append("/".join(path.split("/")[-3:]))
        return read(reader, path)

    monkeypatch.setattr(ImageReader, "__call__", note)
    return names


def splits_of(data):
    return [loader for loader in (data.train, data.val, data.test) if loader is not None]


def read_all(data):
    return [list(loader.in_order().batches()) for loader in splits_of(data)]


def test_cached_files_are_decoded_once_for_all_splits_and_runs(tmp_path, photos, decoded):
    write_images(photos, num=6)
    write_images(photos, split="valid", num=3)
    write_images(photos, split="test", num=2)
    plain = load_folder(photos)
    expected = read_all(plain)
    epochs = [list(plain.train.batches(epoch=epoch)) for epoch in range(2)]
    known = plain.describe(), plain.sample_digests(), plain.transform.mean, plain.transform.std
    decoded.clear()
    for _ in range(2):
        data = load_folder(photos, cache=tmp_path / "cache")
        assert all(map(same, read_all(data), expected))
        assert all(same(data.train.batches(epoch=epoch), epochs[epoch]) for epoch in range(2))
        found = data.describe(), data.sample_digests(), data.transform.mean, data.transform.std
        assert found == known
    assert len(decoded) == len(set(decoded)) == 22
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_changed_and_new_files_are_decoded_again_and_nothing_else(tmp_path, photos, decoded):
    write_images(photos, num=6)
    write_images(photos, split="val", num=2)

    def newly_decoded():
        decoded.clear()
        data = load_folder(photos, cache=tmp_path / "cache")
        found = read_all(data)
        names = sorted(decoded)
        assert all(map(same, found, read_all(load_folder(photos))))
        return names

    assert len(newly_decoded()) == 16
    assert newly_decoded() == []
    train = photos / "train"
    os.utime(train / "cat" / "1.png", ns=(7, 7))  # another time
    about = (train / "cat" / "2.png").stat()
    Image.new("RGB", (90, 90), (1, 2, 3)).save(train / "cat" / "2.png")  # another size
    os.utime(train / "cat" / "2.png", ns=(about.st_atime_ns, about.st_mtime_ns))
    shutil.copy2(train / "dog" / "3.png", train / "dog" / "30.png")  # a new file
    (train / "dog" / "4.png").rename(train / "cat" / "40.png")  # another name and class
    (train / "dog" / "5.png").unlink()
    expected = ["train/cat/1.png", "train/cat/2.png", "train/cat/40.png", "train/dog/30.png"]
    assert newly_decoded() == expected
    assert newly_decoded() == []


def test_other_sizes_and_decoders_have_separate_records(tmp_path, photos, decoded, monkeypatch):
    write_images(photos, num=3)
    cache = {"cache": tmp_path / "cache"}
    read_all(load_folder(photos, **cache))
    decoded.clear()
    read_all(load_folder(photos, **cache, seed=1, num_workers=1))  # other validation files
    assert decoded == []
    read_all(load_folder(photos, **cache, image_size=30))
    read_all(load_folder(photos, **cache, augment=False))
    monkeypatch.setattr("PIL.__version__", "0.0")
    read_all(load_folder(photos, **cache))
    assert len(decoded) == 18
    assert len(list((tmp_path / "cache").iterdir())) == 4


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_file_stays_bad_in_each_run_with_a_cache(tmp_path, photos, warnings, num_workers):
    write_images(photos, num=3)
    write_images(photos, split="val", num=3)
    (photos / "val" / "dog" / "1.png").write_bytes(b"no image")
    options = {"cache": tmp_path / "cache", "num_workers": num_workers}
    expected = list(load_folder(photos, on_bad_sample="skip").val.batches())
    for _ in range(2):
        warnings.clear()
        data = load_folder(photos, on_bad_sample="skip", **options)
        assert same(data.val.batches(), expected)
        assert data.val.bad_samples.keys() == {4}
        assert "`val`[4] cannot be read, it is left out" in messages(warnings)[0]
        data.close()
        data = load_folder(photos, **options)
        with pytest.raises(ValueError, match=r"^Cannot decode the image file .*val/dog/1\.png"):
            list(data.val.batches())
        data.close()


def test_imagenet_is_cached_like_a_folder(tmp_path, photos, decoded):
    write_images(photos, num=3)
    write_images(photos, split="val", num=1)
    for _ in range(2):
        data = load_folder(photos, "imagenet", cache=tmp_path / "cache")
        found = read_all(data)
    assert len(decoded) == 8
    assert np.concatenate([batch["label"] for batch in found[0]]).tolist() == [0, 0, 0, 1, 1, 1]
