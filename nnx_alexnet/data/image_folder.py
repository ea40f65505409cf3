"""Datasets of image files with one folder per class, such as ImageNet."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.cache_folders import cached_records, check_room
from nnx_alexnet.data.cached_source import CachedSource
from nnx_alexnet.data.class_folders import (
    class_folders,
    find_splits,
    is_unlabelled,
    list_images,
)
from nnx_alexnet.data.dataset_splits import DatasetRequest, Splits, channel_statistics, held_out
from nnx_alexnet.data.decoded_cache import KEY_BYTES
from nnx_alexnet.data.image_decoding import decoder_versions, default_workers, resized_side
from nnx_alexnet.data.image_reader import ImageReader
from nnx_alexnet.data.sources import MapSource

_STATISTICS_FILES = 256


class ImageFiles:
    """A map-style dataset of image files, each decoded to a square of one size.

    Args:
        root: the folder that the paths are relative to.
        paths: the files.
        targets: the class of each file, int32[N].
        read: returns the pixels of a file.

    Attributes:
        targets: as given.
        read: as given.
    """

    def __init__(
        self, root: Path, paths: list[str], targets: np.ndarray, read: ImageReader
    ) -> None:
        self.targets = targets
        self.read = read
        self._root = os.fspath(root)
        self._split = root.name
        # One array of bytes: a million Python strings would be slow to send to the workers.
        self._paths = np.array([os.fsencode(path) for path in paths])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path = f"{self._root}/{os.fsdecode(bytes(self._paths[index]))}"
        return self.read(path), int(self.targets[index])

    def key_of(self, index: int) -> bytes:
        """Returns a digest of the name, size and modification time of a file, 16 bytes."""
        path = os.fsdecode(bytes(self._paths[index]))
        try:
            about = os.stat(f"{self._root}/{path}")  # noqa: PTH116  # a million `Path`s are slow
            state = f"{about.st_size} {about.st_mtime_ns}"
        except OSError:  # reading it raises the error
            state = "missing"
        name = f"{self._split}/{path}".encode(errors="surrogateescape")
        return hashlib.blake2b(state.encode() + b" " + name, digest_size=KEY_BYTES).digest()

    def keys(self) -> np.ndarray:
        """Returns the digests of all files, uint8 `[N, 16]`."""
        digests = b"".join(self.key_of(index) for index in range(len(self)))
        return np.frombuffer(digests, np.uint8).reshape(-1, KEY_BYTES)

    def subset(self, indices: np.ndarray) -> "ImageFiles":
        """Returns the dataset of some of the files."""
        part = object.__new__(ImageFiles)
        part.__dict__.update(self.__dict__)
        part.targets, part._paths = self.targets[indices], self._paths[indices]
        return part


def image_folder(request: DatasetRequest) -> Splits:
    """Returns `root`/train, and `root`/val and `root`/test if they exist, by class folders."""
    root = request.root
    folders = find_splits(root, ("train", "val", "test"))
    if "train" not in folders:
        raise FileNotFoundError(_needs_train(root))
    classes = class_folders(root, folders["train"])
    train = _files(request, folders["train"], classes)
    if "val" in folders:
        val = _files(request, folders["val"], classes)
    else:
        kept, held = held_out(train.targets, seed=request.seed)
        train, val = train.subset(kept), train.subset(held)
    splits = {"train": train, "val": val}
    if "test" in folders and not is_unlabelled(root, folders["test"], classes):
        splits["test"] = _files(request, "test", classes)
    sources = _sources(request, splits)
    sample = np.unique(np.linspace(0, len(train) - 1, _STATISTICS_FILES).astype(int))
    mean, std = channel_statistics(sources["train"].take(sample, seed=0, epoch=0).fields["image"])
    return Splits(
        train=sources["train"],
        val=sources["val"],
        test=sources.get("test"),
        class_names=classes,
        mean=mean,
        std=std,
        translate=0.08,
        flip=True,
        crop=request.image_size / _stored_size(request),
        num_workers=default_workers(),
    )


def imagenet(request: DatasetRequest) -> Splits:
    """Returns ILSVRC 2012 in torchvision's layout; the published validation data are `val`.

    `root` contains train/ and val/ with one folder per class (n01440764, ...), and meta.bin, which
    names the classes. With `download=True`, torchvision makes all three from the archives.
    """
    from torchvision import datasets

    if request.download:
        for split in ("train", "val"):
            try:
                datasets.ImageNet(request.root, split)
            except (RuntimeError, OSError) as error:
                raise FileNotFoundError(_needs_imagenet(request, str(error))) from error
    folders = find_splits(request.root, ("train", "val"))
    for split in ("train", "val"):
        if split not in folders:
            raise FileNotFoundError(_needs_imagenet(request, f"There is no {split}/"))
    classes = class_folders(request.root, folders["train"])
    splits = ("train", "val")
    sources = _sources(request, {name: _files(request, folders[name], classes) for name in splits})
    names = classes
    if (request.root / "meta.bin").is_file():
        words = datasets.imagenet.load_meta_file(request.root)[0]
        names = tuple(", ".join(words.get(name, (name,))) for name in names)
    return Splits(
        train=sources["train"],
        val=sources["val"],
        test=None,
        class_names=names,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        translate=0.0,  # random patches already translate
        flip=True,
        crop=request.image_size / _stored_size(request),
        num_workers=default_workers(),
    )


def _needs_imagenet(request: DatasetRequest, problem: str) -> str:
    return (
        f"{problem} in `root` (={str(request.root)!r}). ImageNet cannot be downloaded without an "
        "account: get ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar from image-net.org, put them there, and pass download=True once "
        "to have them unpacked into train/, val/ and meta.bin."
    )


def _stored_size(request: DatasetRequest) -> int:
    """Returns the side of a decoded image, with a margin for random patches if they are used."""
    return resized_side(request.image_size) if request.augment else request.image_size


def _needs_train(root: Path) -> str:
    there = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    found = f" It has the folders {', '.join(map(repr, sorted(there)[:8]))}." if there else ""
    return (
        f"`root` (={str(root)!r}) has no folder train/.{found} Put one folder per class there, "
        f"with the images of the class: {root}/train/<class>/<image>.jpg. The folders val/ (or "
        "valid/, validation/) and test/ are optional and have the same structure."
    )


def _sources(request: DatasetRequest, splits: Mapping[str, ImageFiles]) -> dict[str, MapSource]:
    """Returns the sources of the splits, which share a cache if `request.cache` is set."""
    options: dict[str, Any] = {"on_bad_sample": request.on_bad_sample, "is_trusted": True}
    if request.cache is None:
        return {name: MapSource(files, argument=name, **options) for name, files in splits.items()}
    read = splits["train"].read
    about = {
        "data": request.name,
        "root": str(request.root.resolve()),
        "reader": {"resize": read.resize, "size": read.size, **decoder_versions()},
    }
    record = {"image": jax.ShapeDtypeStruct((read.size, read.size, read.channels), np.uint8)}
    keys = [files.keys() for files in splits.values()]
    found = cached_records(request.cache, about, record, keys)
    check_room(found, request.cache)
    return {
        name: CachedSource(
            files,
            records=records,
            record=record,
            known={"label": files.targets},
            key_of=files.key_of,
            argument=name,
            **options,
        )
        for (name, files), records in zip(splits.items(), found, strict=True)
    }


def _files(request: DatasetRequest, split: str, classes: tuple[str, ...]) -> ImageFiles:
    """Returns the files of a split, with the classes of the training split."""
    paths, targets = list_images(request.root, split, classes)
    read = ImageReader(resized_side(request.image_size), _stored_size(request), channels=3)
    return ImageFiles(request.root / split, paths, targets, read)
