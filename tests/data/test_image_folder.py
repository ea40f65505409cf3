import pytest
import torch
from data_helpers import images_of, load_folder, write_images

from nnx_alexnet.data import load_data


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
