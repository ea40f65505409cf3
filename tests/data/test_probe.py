import itertools
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import CLASSES, Examples, dataset_with, digest_of, pair
from helpers import tiny_arrays
from torch.utils.data import Subset
from worker_datasets import Noisy

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.sources import MapSource


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, torch.tensor, pd.Series, lambda x: np.array(x, np.uint8)]
)
def test_an_attribute_that_agrees_with_a_sample_has_the_labels(name, kind):
    dataset = dataset_with(**{name: kind(CLASSES)})
    source = MapSource(dataset)
    labels = source.labels()
    assert labels.dtype == np.int32
    assert labels.tolist() == CLASSES
    assert dataset.reads <= 1 + 2 * 16 + 5
    reads = dataset.reads
    assert source.labels() is labels
    assert dataset.reads == reads  # once is enough


class Wrapper(torch.utils.data.Dataset):
    """Passes on every attribute of a dataset, and changes its labels."""

    def __init__(self, dataset, change):
        self.dataset, self.change = dataset, change

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, label = self.dataset[index]
        return image, self.change(label)


@pytest.mark.parametrize(
    "change",
    [
        lambda label: label + 1,
        lambda label: int(label == 3),
        lambda label: 7 if label == 4 else label,  # one class of five
        float,
        lambda label: np.eye(5, dtype=np.float32)[label] * 0.9 + 0.02,
        lambda label: np.full(3, label),
    ],
)
@pytest.mark.parametrize("part", [False, True])
def test_an_attribute_that_disagrees_with_the_examples_is_ignored(change, part):
    dataset = Wrapper(dataset_with(targets=np.array(CLASSES)), change)
    dataset = Subset(dataset, range(50, 150)) if part else dataset
    source = MapSource(dataset)
    assert source.labels() is None
    rows = source.take(np.array([4]), seed=0, epoch=0)
    assert rows.fields["label"].tolist() == [
        np.asarray(change(4)).tolist()
    ]  # 4 and 54 are of one class


def test_a_rare_class_that_is_renamed_is_found():
    labels = [9 if index == 150 else index % 2 for index in range(1000)]

    def make(index):
        return np.zeros((2, 2, 1)), min(labels[index], 2)

    assert MapSource(dataset_with(make, 1000, targets=labels)).labels() is None


def test_unreadable_examples_do_not_contradict_the_labels():
    def make(index):
        if index % 3 == 1:
            raise OSError("damaged")
        return pair(index)

    source = MapSource(dataset_with(make, targets=CLASSES), on_bad_sample="skip")
    assert source.labels().tolist() == CLASSES
    assert source.digest() is None


def noisy(index):
    return np.full((2, 2, 1), np.random.rand() + torch.rand(()).item() + random.random()), index


def test_digests_do_not_depend_on_the_global_generators():
    first = digest_of(Examples(noisy, 40))
    np.random.rand(3), torch.rand(3), random.random()
    assert digest_of(Examples(noisy, 40)) == first
    assert digest_of(Examples(noisy, 40), num_workers=2) == first
    assert digest_of(Examples(noisy, 41)) != first
    assert digest_of(Examples(lambda i: (noisy(i)[0], i + (i == 39)), 40)) != first


def test_digests_are_equal_in_another_process():
    program = (
        "import numpy as np; from worker_datasets import Noisy\n"
        "from nnx_alexnet.data import DataModule\n"
        "np.random.rand(7)\n"
        "print(DataModule(Noisy(), batch_size=4).train.sample_digest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [DataModule(Noisy(), batch_size=4).train.sample_digest()]


def test_examples_that_differ_at_each_reading_have_no_digest():
    counter = itertools.count()
    assert digest_of(Examples(lambda i: (np.full((2, 2, 1), 1.0 * next(counter)), i))) is None
    generator = np.random.default_rng(0)
    dataset = Examples(lambda i: (np.full((2, 2, 1), generator.random()), i % 2))
    dataset.generator, dataset.targets = generator, [0, 1, 0, 1]  # which is restored
    data = DataModule(dataset, batch_size=1)
    assert data.train.labels() is not None
    assert data.train.sample_digest() is None
    assert digest_of(iter([tiny_arrays(num=4)])) is None
