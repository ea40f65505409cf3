"""What holds the examples of one split: arrays, a map-style dataset, or an iterable of batches."""

import sys
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from nnx_alexnet import errors
from nnx_alexnet.data.convert import (
    as_labels,
    check_label_axes,
    example_image,
    is_array,
    to_numpy,
    unpack,
)
from nnx_alexnet.data.iterable import IterableSource
from nnx_alexnet.data.randomness import restored_generators, seed_example
from nnx_alexnet.data.rows import ElementSpec, Rows, as_rows
from nnx_alexnet.log import logger

OnBadSample = Literal["raise", "skip"]

_MOST_TRIED = 100  # examples in a row that cannot be read: then something else is wrong


class ArraySource:
    """Images and labels in memory.

    Args:
        images: `[N, ...]` of rank 2 or more; uint8, float32, or float64, which is converted.
            A torch tensor `[N, C, H, W]` is turned to NHWC.
        labels: `[N]` integers, or floats of any trailing shape.
        argument: what the user calls the split, for errors.

    Attributes:
        rows: all of them.

    Raises:
        ValueError: images and labels do not belong together, or there are none.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.sources import ArraySource
        >>> source = ArraySource(np.zeros((5, 8, 8, 1), np.uint8), np.arange(5))
        >>> source.take(np.array([4, 0]), seed=0, epoch=0).label
        array([4, 0], dtype=int32)
    """

    def __init__(self, images: Any, labels: Any, *, argument: str = "data") -> None:
        self.rows = as_rows(images, labels, None, argument, logger.info)
        if not len(self):
            raise ValueError(f"`{argument}` is empty: it holds no examples.")
        some = self.rows.image[:256]
        if some.dtype == np.float32 and some.ndim == 4 and some.min() >= 0 and some.max() > 100:
            logger.warning(
                "`%s` has floating-point images from %g to %g, which are taken as they are; as "
                "uint8 they are divided by 255.",
                argument, some.min(), some.max(),
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows.image)

    def element_spec(self) -> ElementSpec:
        """Returns the shape and dtype of one image and one label."""
        return self.rows.element_spec()

    def labels(self) -> np.ndarray | None:
        """Returns all labels, if they are classes."""
        labels = self.rows.label
        return labels if labels.dtype == np.int32 and labels.ndim == 1 else None

    def take(self, indices: np.ndarray, *, seed: int, epoch: int) -> Rows:
        """Returns the examples at `indices`."""
        return Rows(self.rows.image[indices], self.rows.label[indices])


class MapSource:
    """A map-style dataset: `dataset[i]` is `(image, label)`, or a mapping with these two keys.

    Images may be PIL images (L, RGB), torch CHW tensors or arrays; each becomes an HWC array. All
    must have one shape. While example `i` is read, `random`, `numpy.random` and torch are seeded
    by (seed, epoch, i): a dataset's own random transforms neither depend on the number of
    workers nor on where a run was resumed.

    Args:
        dataset: has `__len__` and `__getitem__`. Its `targets` or `labels`, if it has them, are
            the classes without decoding an image.
        argument: what the user calls the split, for errors.
        on_bad_sample: whether an example that cannot be read is an error (`"raise"`), or the
            next one that can be read stands in for it (`"skip"`).

    Raises:
        ValueError: the dataset is empty, or its first example is not usable.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.sources import MapSource
        >>> source = MapSource([(np.zeros((8, 8, 1), np.uint8), 3)])
        >>> source.take(np.array([0]), seed=0, epoch=0).image.shape
        (1, 8, 8, 1)
    """

    def __init__(
        self, dataset: Any, *, argument: str = "data", on_bad_sample: OnBadSample = "raise"
    ) -> None:
        if on_bad_sample not in ("raise", "skip"):
            raise errors.unknown("on_bad_sample", on_bad_sample, ("raise", "skip"))
        self.dataset = dataset
        self._argument = argument
        self._skips = on_bad_sample == "skip"
        if not len(self):
            raise ValueError(f"`{argument}` is empty: it holds no examples.")
        with restored_generators():
            seed_example(0, 0, 0)
            (image, label), _ = self._example_or_next(0)
        if image.ndim == 0:
            raise ValueError(
                f"`{argument}`[0] has an image of shape (); it needs at least one axis."
            )
        check_label_axes(label[None], f"{argument}[0]")
        self._spec = Rows(image[None], label[None]).element_spec()

    def __len__(self) -> int:
        return len(self.dataset)

    def _example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        name = f"{self._argument}[{index}]"
        image, label, _ = unpack(self.dataset[index], name)
        return example_image(image, name), as_labels(to_numpy(label, name), name)

    def _example_or_next(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray], str | None]:
        """Returns an example, or the next one that can be read, and then why."""
        why: str | None = None
        for position in range(index, index + _MOST_TRIED):
            try:
                return self._example(position % len(self)), why
            except Exception as error:  # decoders raise all kinds
                if not self._skips:
                    raise
                why = why or f"{type(error).__name__}: {error}"
        raise ValueError(
            f"`{self._argument}`[{index}] and the {_MOST_TRIED - 1} examples after it cannot be "
            f"read; the first says {why}"
        )

    def element_spec(self) -> ElementSpec:
        """Returns the shape and dtype of one image and one label."""
        return dict(self._spec)

    def labels(self) -> np.ndarray | None:
        """Returns all labels, if they are classes and the dataset knows them without decoding."""
        return _known_labels(self.dataset)

    def take(self, indices: np.ndarray, *, seed: int, epoch: int) -> Rows:
        """Returns the examples at `indices`, read one after another.

        Raises:
            ValueError: an example differs in shape or dtype from the first one of the dataset.
        """
        examples = []
        bad: dict[int, str] = {}
        with restored_generators():
            for index in indices.tolist():
                seed_example(seed, epoch, index)
                example, why = self._example_or_next(index)
                if why is not None:
                    bad[index] = why
                for (key, (shape, dtype)), value in zip(self._spec.items(), example, strict=True):
                    if value.shape != shape or value.dtype != dtype:
                        raise ValueError(
                            f"`{self._argument}`[{index}] has {key} of shape {value.shape} and "
                            f"dtype {value.dtype}, `{self._argument}`[0] has shape {shape} and "
                            f"dtype {dtype}; all must be alike. Resize or crop in the dataset."
                        )
                examples.append(example)
        images, labels = zip(*examples, strict=True)
        return Rows(np.stack(images), np.stack(labels), bad=bad)


def _known_labels(dataset: Any) -> np.ndarray | None:
    """Returns a dataset's integer labels from its attributes, as torchvision names them."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # torch.utils.data.Subset
        labels = _known_labels(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices)]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    targets = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if targets is None or callable(targets):
        return None
    labels = to_numpy(targets, "targets")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(dataset):
        return None
    return as_labels(labels, "targets")


Source = ArraySource | MapSource | IterableSource


def as_source(value: Any, *, argument: str, on_bad_sample: OnBadSample = "raise") -> Source:
    """Returns the source for any form in which a user may hold a split.

    Args:
        value: `(images, labels)`, a map-style dataset, a torch `DataLoader` or another iterable
            of batches, or a source.
        argument: what the user calls the split: "train", "val" or "test".
        on_bad_sample: see `MapSource`.

    Raises:
        ValueError: the form is none of these.
    """
    if isinstance(value, Source):
        return value
    if is_array(value):
        raise ValueError(
            f"`{argument}` is one array of shape {tuple(value.shape)}; a split of arrays is the "
            "tuple (images, labels), as in DataModule((images, labels), (val_images, val_labels))."
        )
    if isinstance(value, tuple):
        if len(value) == 2 and is_array(value[0]):
            return ArraySource(*value, argument=argument)
        raise ValueError(
            f"`{argument}` is a tuple of ({', '.join(type(x).__name__ for x in value)}); a tuple "
            "is (images, labels), two arrays. Give batches as a list, and further splits as "
            "arguments of their own: DataModule(train, val, test)."
        )
    is_map = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if is_map and not isinstance(value, Mapping | str) and not _is_torch_iterable(value):
        is_batches = isinstance(value, list) and value and _is_batch(value[0], argument)
        if is_batches:
            return IterableSource(value, argument=argument)
        return MapSource(value, argument=argument, on_bad_sample=on_bad_sample)
    if hasattr(value, "__iter__") and not isinstance(value, Mapping | str):
        return IterableSource(value, argument=argument)
    raise ValueError(
        f"`{argument}` is a {type(value).__name__}; expected (images, labels) arrays, a dataset "
        "with __len__ and __getitem__, a torch DataLoader or another iterable of batches."
    )


def _is_batch(item: Any, argument: str) -> bool:
    """Returns whether an element of a list is a batch, rather than one example."""
    image, label, _ = unpack(item, argument)
    return np.ndim(label) > 0 and is_array(image) and len(image) == len(label)


def _is_torch_iterable(value: object) -> bool:
    """Returns whether this is an `IterableDataset`, which inherits a `__getitem__` it has not."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.utils.data.IterableDataset)
