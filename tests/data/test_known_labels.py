import numpy as np
import pytest
import torch
from data_helpers import CLASSES, dataset_with, pair
from torch.utils.data import Subset

from nnx_alexnet.data.known_labels import known_labels
from nnx_alexnet.data.sources import MapSource


def test_subsets_have_the_labels_of_the_whole_in_their_order():
    dataset = dataset_with(targets=CLASSES)
    part = Subset(Subset(dataset, range(100, 200)), [3, 1, 4, 1])
    assert MapSource(part).labels().tolist() == [3, 1, 4, 1]
    negative = Subset(dataset, [-1, 0])
    assert MapSource(negative).labels().tolist() == [4, 0]


class Mixed(torch.utils.data.ConcatDataset):
    targets = CLASSES  # of its first part alone


class Fails:
    """A dataset whose attribute cannot be read."""

    def __len__(self):
        return 200

    def __getitem__(self, index):
        return pair(index)

    @property
    def targets(self):
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    "dataset",
    [
        dataset_with(targets=list("abcde") * 40),
        dataset_with(targets=[float(x) for x in CLASSES]),
        dataset_with(targets=CLASSES[:-1]),
        dataset_with(targets=[[x] for x in CLASSES]),
        dataset_with(targets=lambda: CLASSES),
        dataset_with(targets=[[1], [1, 2]]),
        dataset_with(targets=CLASSES, target_transform=lambda label: label),
        dataset_with(targets={"a": 1}),
        Mixed([dataset_with(), dataset_with(lambda i: (np.zeros((2, 2, 1)), 9))]),
        Subset(dataset_with(labels=None), [1, 2]),
        Fails(),
    ],
)
def test_attributes_without_one_class_per_example_are_ignored(dataset):
    assert MapSource(dataset).labels() is None


@pytest.mark.parametrize("name", ["targets", "labels"])
def test_classes_of_an_attribute_become_int32(name):
    labels = known_labels(dataset_with(num=3, **{name: np.array([2, 0, 1], np.uint8)}))
    assert labels.dtype == np.int32
    assert labels.tolist() == [2, 0, 1]
