"""DataModule: the splits of a dataset, and what happens to their images."""

import hashlib
import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from nnx_alexnet.data.checks import check_distinct, check_images, warn_of_scales
from nnx_alexnet.data.convert import is_array
from nnx_alexnet.data.function_transform import FunctionTransform, as_transform
from nnx_alexnet.data.loader import Loader
from nnx_alexnet.data.sources import ArraySource, OnBadSample, as_source
from nnx_alexnet.data.transform import ImageTransform
from nnx_alexnet.devices import placed

KeepOnDevice = bool | Literal["auto"]

_SHARE_OF_MEMORY = 0.25  # that the train split may take of the device's by itself


def device_memory() -> int:
    """Returns the bytes of memory of the first device that a program can have; 0: not known."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if jax.default_backend() == "cpu":  # a CPU's is the machine's
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


class DataModule:
    """Training data, and optionally validation and test data, of any form.

    Each split is one of: `(images, labels)`, two arrays; a map-style dataset, such as
    torchvision's; a torch `DataLoader`; any other iterable of batches. `train` is shuffled anew
    in each epoch, the others are read in order; a `DataLoader` or iterable keeps its own order.

    In training, a batch of another size than the first one is a step of its own size, compiled
    once per size; no padding enters a loss or a statistic. Rows that the `mask` of an iterable's
    batch leaves out are removed before the step. Evaluation pads its batches to one size.

    Args:
        train: the examples to learn from.
        val: the examples to choose by.
        test: the examples for the last measurement.
        batch_size: rows of a batch (default 64). `DataLoader`s and iterables bring their own.
        transform: what the compiled step does to the images: an `ImageTransform`, or a function
            `(image, *, key=None, index=None)` or `(image)` of a batch, written with jax.numpy.
            By default uint8 becomes 0..1. It does not change labels, so one that moves pixels is
            refused where labels have two or more axes, as masks and boxes do.
        drop_last: whether a last training batch that is not full is left out (default True), of
            arrays and map-style datasets. Batches of a `DataLoader` or iterable are all used.
        num_workers: processes per split that read map-style datasets (default 0: this process);
            arrays need none.
        on_bad_sample: what an example of a map-style dataset that cannot be read does: `"raise"`
            (the default) ends the run; with `"skip"` the next one that can be read stands in for
            it in training, the same in each run. Validation and test leave it out, and `predict`
            raises. It is reported, and more than 1% of a split are an error.
        keep_on_device: whether the train split stays in the device's memory for the whole of a
            `fit`, so that only indices are sent. Only arrays can; by default (`"auto"`) those do
            that take at most a quarter of that memory.
        class_names: the name of each class, in the order of the labels.
        name: what to call the data.

    Raises:
        ValueError: a split is empty, of an unknown form, or does not fit to the others or to the
            transform.
        TypeError: `transform` is no transform, or another argument is of another type.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data import DataModule
        >>> images, labels = np.zeros((8, 28, 28, 1), np.uint8), np.arange(8) % 2
        >>> data = DataModule((images, labels), batch_size=4)
        >>> data.num_classes, data.image_shape, data.train.num_batches
        (2, (28, 28, 1), 2)
    """

    def __init__(
        self,
        train: Any,
        val: Any = None,
        test: Any = None,
        *,
        batch_size: int = 64,
        transform: ImageTransform | Callable[..., Any] | None = None,
        drop_last: bool = True,
        num_workers: int = 0,
        on_bad_sample: OnBadSample = "raise",
        keep_on_device: KeepOnDevice = "auto",
        class_names: tuple[str, ...] | None = None,
        name: str = "data",
    ) -> None:
        if keep_on_device not in (True, False, "auto"):
            raise ValueError(f'`keep_on_device` (={keep_on_device!r}) must be a bool or "auto".')
        if not isinstance(drop_last, bool | np.bool_):
            raise TypeError(f"`drop_last` (={drop_last!r}) must be True or False.")
        if isinstance(class_names, str):
            raise TypeError(
                f"`class_names` (={class_names!r}) must be one name for each class, such as "
                "('cat', 'dog')."
            )
        self.name = name
        self.keep_on_device = keep_on_device
        self.transform: ImageTransform | FunctionTransform = as_transform(transform)
        self.class_names = None if class_names is None else tuple(map(str, class_names))

        def loader(split: Any, argument: str, is_train: bool = False) -> Loader:
            return Loader(
                as_source(split, argument=argument, on_bad_sample=on_bad_sample),
                batch_size=batch_size,
                shuffle=is_train,
                drop_last=is_train and drop_last,
                num_workers=num_workers,
                argument=argument,
            )

        check_distinct(train=train, val=val, test=test)
        self.train: Loader = loader(train, "train", is_train=True)
        self.val: Loader | None = None if val is None else loader(val, "val")
        self.test: Loader | None = None if test is None else loader(test, "test")
        self._check()
        if keep_on_device is True and self.train.arrays() is None:
            raise ValueError(
                "`keep_on_device` (=True) needs a train split of arrays, (images, labels); this "
                'one is read while it is used. keep_on_device="auto" sends its batches.'
            )

    def _splits(self) -> dict[str, Loader]:
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: loader for name, loader in splits.items() if loader is not None}

    def _check(self) -> None:
        """Checks what can be known without asking an iterable for its first batch."""
        shapes = {
            name: (self.check(loader), loader.element_spec()["image"][0])
            for name, loader in self._splits().items()
            if loader.indexable
        }
        for name, (shape, original) in shapes.items():
            first, (first_shape, first_original) = next(iter(shapes.items()))
            if shape != first_shape:
                raise ValueError(
                    f"`{name}` has images of shape {original}, `{first}` of {first_original}; "
                    f"after the transform these are {shape} and {first_shape}, which must be "
                    "equal. ImageTransform(image_size=...) resizes."
                )
        for name in shapes:
            if name != "train" and "train" in shapes:
                warn_of_scales(self.train, self._splits()[name])
        if self.class_names is None:
            return
        for name, loader in self._splits().items():
            labels = loader.labels()
            if labels is not None and labels.max() >= len(self.class_names):
                raise ValueError(
                    f"`class_names` has {len(self.class_names)} names, but the label "
                    f"{labels.max()} occurs in `{name}`; give a name for each class from 0."
                )

    def check(self, loader: Loader) -> tuple[int, ...]:
        """Returns the shape of one image of a split after the transform.

        Args:
            loader: of the split. An iterable is asked for its first batch.

        Raises:
            ValueError: the transform does not take such images, or would move their pixels and
                not the labels that belong to them.
        """
        (shape, dtype), (label_shape, _) = loader.element_spec().values()
        transformed = self.transform.check(shape, dtype)
        # A mask, boxes, keypoints, an image as the target: each has two axes or more.
        if len(shape) == 3 and len(label_shape) >= 2:
            moving = self.transform.moving(shape, dtype)
            if moving is not None:
                raise ValueError(
                    f"`{loader.argument}` has labels of shape {label_shape} for images of shape "
                    f"{shape}, and `transform` would move the pixels of the images ({moving}) but "
                    "not the labels with them. Use a transform that leaves pixels where they are, "
                    "such as ImageTransform(mean=..., std=...), and resize, crop and augment image "
                    "and label together in the dataset's __getitem__. If the axes of the label are "
                    "not those of the image, flatten the label to one axis."
                )
        return transformed

    @property
    def batch_size(self) -> int:
        """Rows of a training batch."""
        return self.train.batch_size

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image after the transform, for example (96, 96, 1)."""
        return self.check(self.train)

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None if it is not known, or the labels are not classes."""
        if self.class_names is not None:
            return len(self.class_names)
        known = [loader.labels() for loader in self._splits().values()]
        tops = [int(labels.max()) for labels in known if labels is not None]
        return max(tops) + 1 if tops else None

    def on_device(self, sharding: jax.sharding.Sharding) -> dict[str, jax.Array] | None:
        """Returns the train split's `image` and `label` on the devices; None: send its batches.

        Args:
            sharding: of the arrays, which each device holds whole.
        """
        arrays = self.train.arrays()
        if arrays is None or self.keep_on_device is False:
            return None
        size = sum(array.nbytes for array in arrays.values())
        if self.keep_on_device == "auto" and size > _SHARE_OF_MEMORY * device_memory():
            return None
        return {name: placed(array, sharding) for name, array in arrays.items()}

    def unlabelled(self, images: Any) -> Loader:
        """Returns a loader of images alone, to predict with; its labels are zeros.

        Args:
            images: one array, uint8 or float32 `[N, ...]`, which the transform brings to
                `image_shape`.

        Raises:
            TypeError: `images` is no array.
            ValueError: there are none, or the transform makes another shape of them.
        """
        image_shape = self.image_shape
        (shape, _), (label_shape, label_dtype) = self.train.element_spec().values()
        check_images(images, shape)
        labels = np.zeros((len(images), *label_shape), label_dtype)
        source = ArraySource(images, labels, argument="images")
        loader = Loader(source, batch_size=self.batch_size, argument="images")
        if self.train.indexable:
            warn_of_scales(self.train, loader)
        if self.check(loader) != image_shape:
            raise ValueError(
                f"`images` has images of shape {loader.element_spec()['image'][0]}, after the "
                f"transform {self.check(loader)}; the model was trained on {image_shape}."
            )
        return loader

    def describe(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of the data, as plain JSON values.

        Returns:
            `name`, `batch_size`, `examples` (of each split) and `labels` (a digest of those of
            train, in their order) tell whether a resumed run finds the same data; `image` (the
            shape of one image before the transform), `transform` (the arguments of the
            `ImageTransform`, or the name of the function), `num_classes` and `class_names` are
            what a trained model needs to be used without it.
        """
        return {
            "name": self.name,
            "batch_size": self.batch_size,
            "drop_last": self.train.drop_last,
            "examples": {name: loader.num_examples for name, loader in self._splits().items()},
            "labels": _label_digest(self.train),
            "image": list(self.train.element_spec()["image"][0]),
            "transform": self.transform.describe(),
            "num_classes": self.num_classes,
            "class_names": None if self.class_names is None else list(self.class_names),
        }

    def sample_digests(self) -> dict[str, str | None]:
        """Returns a digest of examples of train and val; None: they cannot be read twice alike."""
        splits = {"train": self.train, "val": self.val}
        return {name: each.sample_digest() for name, each in splits.items() if each is not None}

    def label_digests(self) -> dict[str, str | None]:
        """Returns a digest of the labels of each split, in their order; None: not known."""
        return {name: _label_digest(loader) for name, loader in self._splits().items()}

    def close(self) -> None:
        """Ends all workers; the data can be used again, which starts new ones."""
        for loader in self._splits().values():
            loader.close()


def _label_digest(loader: Loader) -> str | None:
    labels = loader.labels()
    return None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()


def as_data_module(data: Any) -> DataModule:
    """Returns data of any accepted form as a `DataModule`.

    Args:
        data: a `DataModule`, or a tuple `(train, val)` or `(train, val, test)`.

    Raises:
        ValueError: the form is another one.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data import as_data_module
        >>> split = np.zeros((64, 8, 8, 1), np.uint8), np.zeros(64, np.int32)
        >>> as_data_module((split, split)).val.num_examples
        64
    """
    if isinstance(data, DataModule):
        return data
    how = "DataModule(train, val, test, batch_size=...) takes all forms."
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
