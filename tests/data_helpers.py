"""Datasets, loaders and folders of images that several tests of `nnx_alexnet.data` share."""

import gzip
import struct

import numpy as np
import torch
from helpers import tiny_arrays
from PIL import Image

from nnx_alexnet.data import DataModule, Loader, load_data
from nnx_alexnet.data.sources import ArraySource


def first_example(source):
    return source.take(np.array([0]), seed=0, epoch=0)


class Examples(torch.utils.data.Dataset):
    """A map-style dataset of whatever `make` returns."""

    def __init__(self, make, num=4):
        self.make, self.num, self.reads = make, num, 0

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        self.reads += 1
        return self.make(index)


def pair(index):
    return np.zeros((2, 2, 1)), index % 5


def dataset_with(make=pair, num=200, **attributes):
    dataset = Examples(make, num)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


CLASSES = [index % 5 for index in range(200)]


def digest_of(split, **options):
    return DataModule(split, batch_size=1, **options).train.sample_digest()


def array_loader(num, batch_size, **options):
    images = np.arange(num, dtype=np.float32)[:, None]
    source = ArraySource({"image": images, "label": np.arange(num)})
    return Loader(source, batch_size=batch_size, **options)


def same(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        x.keys() == y.keys() and all(np.array_equal(x[key], y[key]) for key in x)
        for x, y in zip(first, second, strict=True)
    )


def batches_of(sizes):
    images, labels = tiny_arrays(num=sum(sizes))
    cuts = np.cumsum(sizes)[:-1]
    return list(zip(np.split(images, cuts), np.split(labels, cuts), strict=True))


def sizes_of(batches):
    return [len(batch["mask"]) for batch in batches]


def labels_of(loader, epoch):
    return np.concatenate([batch["label"] for batch in loader.batches(epoch=epoch)]).tolist()


class Epochs:
    """Notes the epochs that it is told, and gives another order in each."""

    def __init__(self, num=6):
        self.num, self.told = num, []

    def set_epoch(self, epoch):
        self.told.append(epoch)

    def __len__(self):
        return self.num

    def __iter__(self):
        return iter(np.roll(np.arange(self.num), self.told[-1]).tolist())


class IndexedExamples(torch.utils.data.Dataset):
    """An example's image is its index; with `set_epoch`, 100 times the epoch more."""

    epoch = 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return np.full((2, 2, 1), index + 100 * self.epoch, np.float32), index


class ExamplesOfEpochs(IndexedExamples):
    def __init__(self):
        self.told = []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.told.append(epoch)


def images_of(loader):
    return np.concatenate([batch["image"][batch["mask"]] for batch in loader.batches()])


def write_images(root, *, split="train", classes=("cat", "dog"), num=10, suffix="png", mode="RGB"):
    for label, name in enumerate(classes):
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(num):
            color = (100 + label, number, 7) if mode == "RGB" else number
            Image.new(mode, (60, 40), color).save(folder / f"{number}.{suffix}")


def copied(root, *names):
    """Copies images below `root`: each name is a path, of which the folders are made."""
    for name in names:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (200, 7, 7)).save(target, format="PNG")


def load_folder(root, name="folder", **options):
    return load_data(
        name, root=root, **{"image_size": 20, "batch_size": 2, "num_workers": 0, **options}
    )


def messages(warnings):
    return [r.getMessage() for r in warnings.records if r.levelname == "WARNING"]


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") as file:
        file.write(header + array.tobytes())


def torch_loader_with(where, sampler):
    if where == "sampler":
        return torch.utils.data.DataLoader(IndexedExamples(), batch_size=4, sampler=sampler)
    batches = torch.utils.data.BatchSampler(sampler, 4, drop_last=False)
    return torch.utils.data.DataLoader(IndexedExamples(), batch_sampler=batches)
