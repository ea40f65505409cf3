import os
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_helpers import Examples, ExamplesOfEpochs, dataset_with, same, write_images
from torchvision import datasets
from torchvision.transforms import v2

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.dataset_cache import ExampleKeys


def stripe(index):
    return np.full((4, 4, 1), index, np.uint8), index % 3


def count(folder, dataset):
    """Returns the number of examples that an epoch reads from the dataset after the start."""
    data = DataModule(dataset, batch_size=4, cache=folder, drop_last=False)
    before, batches = dataset.reads, list(data.train.batches())
    reads = dataset.reads - before
    assert same(batches, DataModule(dataset, batch_size=4, drop_last=False).train.batches())
    return reads


def with_noise(draw):
    def noisy(index):
        image, label = stripe(index)
        draw()
        return image, label

    return Examples(noisy, 40)


@pytest.mark.parametrize(
    "draw",
    [random.random, np.random.rand, lambda: torch.rand(1), np.random.default_rng().random],
    ids=["random", "numpy", "torch", "own"],
)
def test_datasets_that_draw_random_numbers_are_refused(tmp_path, draw):
    dataset = with_noise(draw)
    dataset.generator = getattr(draw, "__self__", None)
    with pytest.raises(ValueError, match=r"^`cache` is for examples that are the same at each rea"):
        DataModule(dataset, batch_size=4, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_datasets_whose_examples_differ_are_refused(tmp_path):
    counted = Examples(lambda index: (np.zeros((2, 2, 1)), counted.reads), 40)
    for dataset in (counted, ExamplesOfEpochs()):
        with pytest.raises(ValueError, match=r"but `val` changes them at random or from epoch to"):
            DataModule(Examples(stripe), dataset, batch_size=4, cache=tmp_path)


def test_splits_that_are_not_read_by_index_are_refused(tmp_path):
    arrays = np.zeros((8, 2, 2, 1), np.uint8), np.zeros(8, np.int32)
    stream = torch.utils.data.DataLoader(Examples(stripe), batch_size=2)
    for split in (arrays, stream):
        with pytest.raises(ValueError, match=r"`cache` is for map-style .* `test` is not one"):
            DataModule(Examples(stripe), test=split, batch_size=4, cache=tmp_path)
    words = [{"tokens": [5, 2]}, {"tokens": [7]}]
    with pytest.raises(ValueError, match=r"`pad_to` gives those of `train` several lengths"):
        DataModule(words, batch_size=1, pad_to={"tokens": 4}, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_all_splits_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 60 - 1))
    splits = Examples(stripe, 40), Examples(lambda index: stripe(index + 1), 20)
    with pytest.raises(ValueError, match=r"0 of 60 examples; the others need 1\.2 KB, but only"):
        DataModule(*splits, batch_size=4, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_equal_dataset_finds_its_examples_and_another_one_does_not(tmp_path):
    assert count(tmp_path, Examples(stripe, 40)) == 39  # and the first one at the start
    assert count(tmp_path, Examples(stripe, 40)) == 0
    assert count(tmp_path, Examples(stripe, 41)) == 40
    assert count(tmp_path, Examples(lambda index: stripe(index + 1), 40)) == 39
    assert len(list(tmp_path.iterdir())) == 3


def test_labels_of_the_dataset_are_checked_as_without_a_cache(tmp_path):
    labels = [index % 3 for index in range(40)]
    right = DataModule(dataset_with(stripe, 40, targets=labels), batch_size=4, cache=tmp_path)
    wrong = DataModule(dataset_with(stripe, 40, targets=labels[::-1]), batch_size=4, cache=tmp_path)
    assert (right.num_classes, wrong.num_classes) == (3, None)
    plain = DataModule(Examples(stripe, 40), batch_size=4)
    assert right.sample_digests() == plain.sample_digests()


def test_a_changed_file_of_a_torchvision_folder_is_read_again(tmp_path):
    write_images(tmp_path, num=30)
    form = v2.Compose([v2.Resize((4, 4)), v2.PILToTensor()])

    def images(indices=range(60)):
        dataset = datasets.ImageFolder(tmp_path / "train", form)
        dataset = torch.utils.data.Subset(dataset, indices)
        data = DataModule(dataset, batch_size=4, cache=tmp_path / "cache", drop_last=False)
        return np.concatenate([batch["image"] for batch in data.train.in_order().batches()])

    first = images()
    path, other = (tmp_path / "train" / name for name in ("cat/10.png", "dog/20.png"))
    shutil.copyfile(other, path)
    os.utime(path, ns=(7, 7))
    names = sorted(str(number) for number in range(30))
    place = names.index("10")
    changed = images()
    assert not np.array_equal(changed[place], first[place])
    first[place] = changed[place]
    assert np.array_equal(changed, first)
    part = ExampleKeys(torch.utils.data.Subset(datasets.ImageFolder(tmp_path / "train"), [5, 9]))
    whole = ExampleKeys(datasets.ImageFolder(tmp_path / "train"))
    assert part(1) != part(0)
    assert whole(5) != whole(9)
    assert part._samples == [whole._samples[5], whole._samples[9]]


@pytest.mark.parametrize("has_files", [True, False])
def test_a_corrected_label_is_not_read_from_the_cache(tmp_path, has_files):
    write_images(tmp_path, num=32, classes=("cat",))

    class Pictures:
        """Has the labels next to the files, or as `targets`."""

        def __init__(self, labels):
            files = sorted((tmp_path / "train/cat").iterdir())
            self.pairs = list(zip(map(str, files), labels, strict=True))
            if has_files:
                self.samples = self.pairs
            else:
                self.targets = labels

        def __len__(self):
            return len(self.pairs)

        def __getitem__(self, index):
            return np.full((2, 2, 1), index, np.uint8), self.pairs[index][1]

    def labels(given):
        data = DataModule(Pictures(given), batch_size=8, cache=tmp_path / "cache")
        return np.concatenate([batch["label"] for batch in data.train.in_order().batches()])

    given = [0, 1] * 16
    assert labels(given).tolist() == given
    given[7] = 0  # not among the sampled examples
    assert labels(given).tolist() == given
