"""Folders of images as people have them."""

import os

import pytest
from data_helpers import copied, images_of, load_folder, messages, write_images

from nnx_alexnet.data import load_data


def test_classes_that_train_lacks_are_rejected(tmp_path):
    write_images(tmp_path)
    write_images(tmp_path, split="val", classes=("cow",))
    with pytest.raises(ValueError, match=r"classes that train/ does not have: 'cow'"):
        load_data("folder", root=tmp_path, num_workers=0)


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
def test_hidden_files_and_folders_are_ignored(tmp_path, warnings, hidden, name):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=2)
    copied(tmp_path, hidden)
    data = load_folder(tmp_path, name)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels().tolist() == [0, 0, 0, 1, 1, 1]
    assert data.val.labels().tolist() == [0, 0, 1, 1]
    assert not any(image[0, 0, 0] == 200 for image in images_of(data.val))
    assert messages(warnings) == []


@pytest.mark.parametrize("name", ["folder", "imagenet"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_the_validation_folder_has_one_of_three_names(tmp_path, warnings, validation, name):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split=validation, num=2)
    data = load_folder(tmp_path, name)
    assert (data.train.num_examples, data.val.num_examples) == (6, 4)
    assert data.val.argument == "val"
    assert messages(warnings) == []


@pytest.mark.parametrize("names", [("val", "valid"), ("valid", "validation")])
def test_two_validation_folders_are_rejected(tmp_path, names):
    for split in ("train", *names):
        write_images(tmp_path, split=split, num=3)
    with pytest.raises(ValueError, match=rf"the folders '{names[0]}', '{names[1]}', but only one"):
        load_folder(tmp_path)


def test_unused_folders_are_reported_once(tmp_path, warnings):
    for split in ("train", "val", "extra", "unlabelled"):
        write_images(tmp_path, split=split, num=3)
    assert load_folder(tmp_path).train.num_examples == 6
    (reported,) = messages(warnings)
    assert (
        "the folders 'extra', 'unlabelled' are not used; splits are train/, val/, test/" in reported
    )


def test_the_test_folder_of_imagenet_is_reported_as_unused(tmp_path, warnings):
    for split in ("train", "val", "test"):
        write_images(tmp_path, split=split, num=3)
    assert load_folder(tmp_path, "imagenet").test is None
    (reported,) = messages(warnings)
    assert "the folders 'test' are not used; splits are train/, val/" in reported


def test_images_outside_of_class_folders_are_reported(tmp_path, warnings):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    copied(tmp_path, "train/loose.png", "train/other.jpg")
    (tmp_path / "train/labels.csv").touch()
    assert load_folder(tmp_path).train.num_examples == 6
    (reported,) = messages(warnings)
    assert "train/ has 2 images outside of class folders ('loose.png', 'other.jpg')" in reported


def test_unused_files_are_counted_by_suffix(tmp_path, warnings):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    for name in ("cat/a.HEIC", "cat/b.heic", "dog/notes.txt", "dog/deep/README"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).touch()
    assert load_folder(tmp_path).train.num_examples == 6
    (reported,) = messages(warnings)
    assert (
        "train/ has 4 files of other kinds, left out: .heic (2), .txt (1), no suffix (1)"
        in reported
    )


def test_empty_classes_are_rejected_in_train_and_reported_in_val(tmp_path, warnings):
    write_images(tmp_path, classes=("cat", "cow", "dog"), num=3)
    write_images(tmp_path, split="val", classes=("dog",), num=3)
    (tmp_path / "val/cow").mkdir()
    assert load_folder(tmp_path).val.labels().tolist() == [2, 2, 2]
    (reported,) = messages(warnings)
    assert "val/ contains no images of the classes 'cat', 'cow'" in reported
    (tmp_path / "train/bee").mkdir()
    (tmp_path / "train/bee/1.heic").touch()
    with pytest.raises(ValueError, match=r"train/ contains no images of the classes 'bee'.*Remove"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["folder", "imagenet"])
@pytest.mark.parametrize(
    ("split", "files", "message"),
    [
        ("train", [], "train/ contains nothing, but no class folders. .*train/<class>/<image>.jpg"),
        ("train", ["1.png"], "train/ contains 1 image, but no class folders"),
        ("val", [], "val/ contains nothing, but no class folders.*10% of train/ are held out"),
        ("val", ["1.png", "2.png"], "val/ contains 2 images, but no class folders"),
        ("val", ["cat/1.heic"], "val/ contains no images. Images end in .jpg"),
        ("val", ["Cat/1.png"], "val/ has classes that train/ does not have: 'Cat'"),
    ],
)
def test_splits_without_classes_or_images_are_rejected(tmp_path, name, split, files, message):
    write_images(tmp_path, split="train" if split == "val" else "val", num=3)
    (tmp_path / split).mkdir()
    copied(tmp_path / split, *files)
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path, name)


@pytest.mark.parametrize("files", [[], ["1.png", "2.png"], ["test/1.png", "test/2.png"]])
def test_test_images_without_classes_are_reported(tmp_path, warnings, files):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    (tmp_path / "test").mkdir()
    copied(tmp_path / "test", *files)
    assert load_folder(tmp_path).test is None
    (reported,) = messages(warnings)
    assert f"test/ contains {len(files)} images outside of class folders" in reported
    assert ("nnx-alexnet predict RUN FOLDER" in reported) == bool(files)


def test_a_test_split_of_other_classes_is_rejected(tmp_path):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="test", classes=("cat", "cow"), num=3)
    with pytest.raises(ValueError, match="test/ has classes that train/ does not have: 'cow'"):
        load_folder(tmp_path)


def test_names_are_shown_without_control_sequences(tmp_path, warnings):
    write_images(tmp_path, num=3)
    copied(tmp_path, "\x1b[31mred/1.png", "train/\x1b[2J.png", "train/cat/a.\x1b]0;x")
    load_folder(tmp_path)
    assert len(messages(warnings)) == 3
    assert not any("\x1b" in text for text in messages(warnings))
    (tmp_path / "val/new\nline\x1b").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"does not have: 'new\\nline\\x1b'"):
        load_folder(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_searched_is_rejected(tmp_path):
    write_images(tmp_path, num=3)
    (tmp_path / "train/cat").chmod(0)
    try:
        with pytest.raises(PermissionError):
            load_folder(tmp_path)
    finally:
        (tmp_path / "train/cat").chmod(0o700)
