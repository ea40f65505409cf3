"""DataModule: the splits of a dataset, and the transform of their batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.adapters import known_class_names
from nnx_alexnet.data.batch_images import Split, show_batch
from nnx_alexnet.data.cache_folders import Cache, cache_place
from nnx_alexnet.data.checks import (
    check_arguments,
    check_splits,
    checked_fields,
    transformed_fields,
)
from nnx_alexnet.data.composition import Compose, Transform, as_transform
from nnx_alexnet.data.convert import is_array
from nnx_alexnet.data.descriptions import data_facts, data_record, data_text, label_digest
from nnx_alexnet.data.examples import PAIR
from nnx_alexnet.data.folds import folds
from nnx_alexnet.data.loader import Loader
from nnx_alexnet.data.padding import Padding, PadTo
from nnx_alexnet.data.resident_data import KeepOnDevice, on_device, stays_on_device
from nnx_alexnet.data.sources import OnBadSample
from nnx_alexnet.data.split_loaders import split_loaders
from nnx_alexnet.data.transform import ImageTransform
from nnx_alexnet.support import html_facts


class DataModule:
    """Holds training data, and optionally validation and test data, of any form.

    Each split is one of: a dict of arrays whose first axis is over the examples, or of pytrees of
    such arrays; a tuple of arrays, `(images, labels)`; a map-style dataset, such as torchvision's;
    a torch `DataLoader`; any other iterable of batches; a dataset of Hugging Face, Grain or
    `tf.data`; a pandas `DataFrame`. `train` is shuffled again in each epoch, and the others are
    read in order. A `DataLoader` or iterable keeps its own order.

    A batch is a dict with the keys of the split, and `mask` and `index`. A tuple `(images, labels)`
    has the keys `image` and `label`. Arrays keep their dtype, except that JAX has no 64-bit numbers
    by default.

    In training, the step is compiled once for each size of a batch. No padding enters a loss or a
    statistic. Rows that the `mask` of an iterable's batch excludes are removed before the step.
    Evaluation pads its batches to one size.

    Args:
        train: the examples to learn from.
        val: the examples by which models and hyperparameters are chosen; or a dict of several
            such splits, `{"clean": a, "shifted": b}`, whose metrics are `val/clean/loss`,
            `val/shifted/loss` and so on. See `validation_sets` for how such a dict is told from a
            dict of arrays, which is a single split.
        test: the examples for the final evaluation.
        fields: the keys of the values of a tuple, of arrays, of an example or of a batch (default
            `("image", "label")`).
        pad_to: by field, the lengths to which sequences of different lengths are padded, such as
            `{"tokens": (64, 128)}`. A batch gets the smallest length that holds its sequences, and
            each length is compiled once.
        pad_values: by field, the value that is added (default 0).
        batch_size: rows of a batch (default 64). `DataLoader`s and iterables provide their own
            batches; the examples of a stream of Hugging Face or Grain are put into batches.
        transform: the transform of the batches in the compiled step: an `ImageTransform`, a
            function `(batch, key=None)` or `(batch)` written with jax.numpy, an augmentation such
            as `ColorJitter()`, or a list of these, which are applied in a row. By default, a uint8
            `image` of two or more axes is scaled to 0..1. An `ImageTransform` that moves pixels is
            refused unless it declares the fields that belong to the image, such as masks and boxes.
        drop_last: whether an incomplete last training batch is left out (default True). Applies to
            arrays, map-style datasets and streams that are put into batches. Batches of a
            `DataLoader` or iterable are all used.
        num_workers: processes per split that read map-style datasets (default 0: this process);
            arrays need none.
        on_bad_sample: what happens if an example of a map-style dataset cannot be read. `"raise"`
            (the default) ends the run. With `"skip"`, training replaces it with the next readable
            example, the same in each run; validation and test leave it out, and `predict` raises
            an error. Each such example is reported. If they are more than 1% of a split, the run
            ends with an error.
        keep_on_device: whether the train split stays in the device's memory during `fit`, so that
            only indices are sent. The split must consist of arrays, or have a `cache`. By default
            (`"auto"`), it stays there if it needs at most a quarter of that memory, and its cache
            lacks at most 1% of it when `fit` starts.
        class_names: the name of each class, in the order of the labels (default: those of the
            column `label`, if `train` is a dataset of Hugging Face).
        name: a name for the data.
        cache: whether to keep the examples of map-style datasets on the disk. Each example is then
            read and decoded only once, also by other processes and later runs. True selects the
            user's cache folder, a path another folder. Refused for arrays, iterables, and datasets
            whose examples change from one reading to the next.

    Attributes:
        train: the `Loader` of the train split.
        val_sets: the `Loader` of each validation split by the prefix of its metrics: `{}`,
            `{"val": loader}`, or `{"val/clean": ..., "val/shifted": ...}`.
        test: the `Loader` of the test split; None without one.

    Raises:
        ValueError: a split is empty, has an unknown form, or does not fit the others or the
            transform.
        TypeError: `transform` or another argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data import DataModule
        >>> images, labels = np.zeros((8, 28, 28, 1), np.uint8), np.arange(8) % 2
        >>> data = DataModule((images, labels), batch_size=4)
        >>> data.num_classes, data.image_shape, data.train.num_batches
        (2, (28, 28, 1), 2)
        >>> tokens = np.zeros((8, 16), np.int32)
        >>> text = DataModule({"tokens": tokens, "attention": tokens > 0}, batch_size=4)
        >>> sorted(next(text.train.batches()))
        ['attention', 'index', 'mask', 'tokens']
    """

    def __init__(
        self,
        train: Any,
        val: Any = None,
        test: Any = None,
        *,
        fields: Sequence[str] = PAIR,
        pad_to: PadTo | None = None,
        pad_values: Mapping[str, float] | None = None,
        batch_size: int = 64,
        transform: ImageTransform | Callable[..., Any] | Sequence[Any] | None = None,
        drop_last: bool = True,
        num_workers: int = 0,
        on_bad_sample: OnBadSample = "raise",
        keep_on_device: KeepOnDevice = "auto",
        class_names: tuple[str, ...] | None = None,
        name: str = "data",
        cache: Cache = False,
    ) -> None:
        check_arguments(drop_last, keep_on_device, class_names)
        self.fields = checked_fields(fields)
        self.padding = Padding(pad_to, pad_values)
        self.name = name
        self.keep_on_device = keep_on_device
        self.transform: Transform = as_transform(transform)
        if class_names is None:
            class_names = known_class_names(train)
        self.class_names = None if class_names is None else tuple(map(str, class_names))
        loaders = split_loaders(
            train,
            val,
            test,
            names=self.fields,
            padding=self.padding,
            batch_size=batch_size,
            drop_last=drop_last,
            num_workers=num_workers,
            on_bad_sample=on_bad_sample,
            place=cache_place(cache),
        )
        self.train: Loader = loaders.pop("train")
        self.test: Loader | None = loaders.pop("test", None)
        self.val_sets: dict[str, Loader] = loaders
        if isinstance(self.transform, Compose):
            self.transform = self.transform.with_num_classes(self.num_classes)
        check_splits(self)

    def __repr__(self) -> str:
        return f"<{data_text(self)}>"

    def _repr_html_(self) -> str:
        return html_facts(data_facts(self))

    @property
    def splits(self) -> dict[str, Loader]:
        """The loader of each split by the prefix of its metrics: train, validation sets, test."""
        splits = {"train": self.train, **self.val_sets, "test": self.test}
        return {name: loader for name, loader in splits.items() if loader is not None}

    def check(self, loader: Loader) -> tuple[int, ...] | None:
        """Returns the shape of one image of a split after the transform; None without images.

        Args:
            loader: of the split. The first batch of an iterable is read.

        Raises:
            ValueError: the transform does not accept such examples, or would move the pixels of
                the images but not the fields that belong to them.
        """
        # A split to predict from need not have masks or boxes.
        may_lack_fields = loader is not self.train
        spec = transformed_fields(loader, self.transform, may_lack_fields=may_lack_fields)
        image = spec.get("image")
        return tuple(image.shape) if isinstance(image, jax.ShapeDtypeStruct) else None

    @property
    def val(self) -> Loader | None:
        """The validation split, the first one if there are several; None without one."""
        return next(iter(self.val_sets.values()), None)

    @property
    def batch_size(self) -> int:
        """Rows of a training batch."""
        return self.train.batch_size

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape of one image after the transform, such as (96, 96, 1); None without images."""
        return self.check(self.train)

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None if it is not known, or the labels are not classes."""
        if self.class_names is not None:
            return len(self.class_names)
        known = [loader.labels() for loader in self.splits.values()]
        tops = [int(labels.max()) for labels in known if labels is not None]
        return max(tops) + 1 if tops else None

    def stays_on_device(self) -> bool:
        """Returns whether the train split is kept on the devices; else its batches are sent."""
        return stays_on_device(self.train, self.keep_on_device)

    def on_device(self, sharding: jax.sharding.Sharding) -> dict[str, Any]:
        """Returns the arrays of the train split on the devices, by name; reads them if necessary.

        Args:
            sharding: of the arrays; each device holds all of them.
        """
        return on_device(self.train, sharding)

    def describe(self) -> dict[str, Any]:
        """Returns the description of the data in a checkpoint; see `data_record`."""
        return data_record(self)

    def sample_digests(self) -> dict[str, str | None]:
        """Returns a digest of examples of train and val; None if they differ at each reading."""
        splits = {"train": self.train, **self.val_sets}
        return {name: loader.sample_digest() for name, loader in splits.items()}

    def label_digests(self) -> dict[str, str | None]:
        """Returns a digest of the labels of each split, in their order; None if not known."""
        return {name: label_digest(loader) for name, loader in self.splits.items()}

    def fill_cache(self, progress: Callable[[int], None] | None = None) -> list[Path]:
        """Adds all missing examples to the caches of the splits.

        Args:
            progress: called after each part, with the number of examples in it.

        Returns:
            The folders of the caches.

        Raises:
            ValueError: the data have no cache.
            Exception: an example cannot be read; `on_bad_sample="skip"` reports it instead.
        """
        folders = []
        for loader in self.splits.values():
            if loader.cached is not None:
                folders.append(loader.cached.cache.folder)
            for num in loader.fill_cache():
                if progress is not None:
                    progress(num)
            loader.close()
        if not folders:
            raise ValueError("The data have no cache. Create the DataModule with `cache=True`.")
        return [*dict.fromkeys(folders)]

    def folds(self, num: int, *, seed: int = 0) -> "Iterator[DataModule]":
        """Yields the data of each fold of a cross-validation of the train split.

        The train split is divided into `num` parts, with equal shares of each class if the classes
        are known. Each fold holds out one part as its validation split, and trains on the others.
        The validation split of this object is not used; the test split and the transform stay the
        same, including a mean and standard deviation that were computed over all parts.

        Args:
            num: the number of folds, at least 2.
            seed: determines the parts (default 0).

        Raises:
            ValueError: there are fewer examples than folds, or train is an iterable or has a cache.

        Example:
            >>> import numpy as np
            >>> from nnx_alexnet import DataModule
            >>> data = DataModule((np.zeros((12, 3)), np.arange(12) % 2), batch_size=4)
            >>> [(fold.train.num_examples, fold.val.num_examples) for fold in data.folds(3)]
            [(8, 4), (8, 4), (8, 4)]
        """
        return folds(self, num, seed=seed)

    def show_batch(
        self, split: Split = "train", *, count: int = 16, epoch: int = 0, seed: int = 0
    ) -> Any:
        """Shows images of the first batch of a split as the model receives them, with labels.

        Images of the train split are augmented; none are standardized. They are drawn with
        `matplotlib.pyplot`: a notebook shows them below the cell, and a script calls `plt.show()`
        or `plt.savefig("batch.png")` afterwards.

        Args:
            split: "train" (the default), "val" or "test", or a set such as "val/shifted".
            count: the largest number of images (default 16).
            epoch: the epoch, from 0 (the default), which determines the order and the augmentation
                of the train split.
            seed: the seed of order and augmentation (default 0, as for `Trainer`).

        Returns:
            The `matplotlib.axes.Axes`.

        Raises:
            ValueError: there is no such split, or its examples have no images.
        """
        return show_batch(self, split, count=count, epoch=epoch, seed=seed)

    def close(self) -> None:
        """Ends all workers; using the data again starts new ones."""
        for loader in self.splits.values():
            loader.close()


def as_data_module(data: Any) -> DataModule:
    """Returns data of any accepted form as a `DataModule`.

    Args:
        data: a `DataModule`, or a tuple `(train, val)` or `(train, val, test)`.

    Raises:
        ValueError: the data have another form.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data import as_data_module
        >>> split = np.zeros((64, 8, 8, 1), np.uint8), np.zeros(64, np.int32)
        >>> as_data_module((split, split)).val.num_examples
        64
    """
    if isinstance(data, DataModule):
        return data
    how = "DataModule(train, val, test, batch_size=...) accepts all forms."
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        kind = f"tuple of length {len(data)}" if isinstance(data, tuple) else type(data).__name__
        raise ValueError(
            f"`data` is a {kind}; expected a DataModule, (train, val) or (train, val, test). {how}"
        )
    if any(is_array(split) for split in data):
        shapes = ", ".join(str(np.shape(x)) if is_array(x) else type(x).__name__ for x in data)
        raise ValueError(
            f"`data` is a tuple of arrays ({shapes}), which looks like (images, labels); expected "
            "(train, val), as in ((images, labels), (val_images, val_labels)). For training "
            "data alone pass DataModule((images, labels))."
        )
    return DataModule(*data)
