import os

import numpy as np
import pytest
from data_helpers import copied, images_of, load_folder, messages, write_images
from torchvision.datasets.folder import make_dataset

from nnx_alexnet.data.image_files import IMAGE_SUFFIXES, find_files, find_images


@pytest.mark.parametrize("suffix", [s for s in IMAGE_SUFFIXES if s not in (".avif", ".gif")])
def test_every_suffix_of_an_image_is_found(tmp_path, warnings, suffix):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    copied(tmp_path, f"train/cat/more{suffix}", f"train/dog/MORE{suffix.upper()}")
    data = load_folder(tmp_path, augment=False)
    assert data.train.num_examples == 8
    assert sum(image[0, 0, 0] == 200 for image in images_of(data.train)) == 2
    assert messages(warnings) == []


@pytest.mark.timeout(20)
def test_links_are_followed_without_cycles(tmp_path, warnings):
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
    assert len(messages(warnings)) == 1  # of elsewhere/


@pytest.mark.timeout(20)
def test_a_pipe_named_like_an_image_is_left_out(tmp_path, warnings):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    os.mkfifo(tmp_path / "train/cat/pipe.png")
    (tmp_path / "train/cat/link.png").symlink_to(tmp_path / "train/cat/pipe.png")
    assert load_folder(tmp_path).train.num_examples == 6
    (reported,) = messages(warnings)
    assert "2 files of other kinds, left out: .png (2)" in reported


def test_a_broken_link_is_an_image_that_cannot_be_read(tmp_path):
    write_images(tmp_path, num=3)
    write_images(tmp_path, split="val", num=3)
    (tmp_path / "val/cat/gone.png").symlink_to("nowhere.png")
    data = load_folder(tmp_path)
    assert data.val.num_examples == 7
    with pytest.raises(FileNotFoundError, match=r"val/cat/gone\.png"):
        list(data.val.batches())


def test_files_are_sorted_by_folder_and_name(tmp_path):
    names = ("b.png", "a/z.png", "a/c.png", "a-b/1.png", "10.png", "9.png", "a/b/0.png")
    copied(tmp_path, *names)
    found = [os.path.relpath(path, tmp_path) for path in find_files(tmp_path).images]
    assert found == ["10.png", "9.png", "b.png", "a/c.png", "a/z.png", "a-b/1.png", "a/b/0.png"]
    expected = make_dataset(str(tmp_path.parent), {tmp_path.name: 0}, (".png",))
    assert [str(tmp_path / name) for name in found] == [path for path, _ in expected]


def test_errors_while_searching_are_raised_or_noted(tmp_path):
    copied(tmp_path, "1.png")
    with pytest.raises(FileNotFoundError):
        find_files(tmp_path / "gone")
    noted = []
    assert find_files(tmp_path / "gone", note=noted.append).images == []
    assert noted[0].filename == str(tmp_path / "gone")


def test_folders_are_searched_recursively_in_sorted_order(tmp_path):
    for name in ("b/2.PNG", "b/10.jpeg", "a/deep/er/x.tiff", "b/notes.txt", "z.webp", "plain"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    last = str(tmp_path / "plain")
    files, problems = find_images([last, str(tmp_path), last])
    names = [os.path.relpath(file, tmp_path) for file in files]
    assert names == ["plain", "a/deep/er/x.tiff", "b/10.jpeg", "b/2.PNG", "z.webp", "plain"]
    assert problems == []
    assert find_images(tmp_path) == find_images(str(tmp_path)) == (files[1:-1], [])


def test_linked_folders_are_searched_without_cycles(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.png").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "images")
    files, _ = find_images([str(tmp_path / "images")])
    assert files == [str(tmp_path / "images/linked/1.png")]
