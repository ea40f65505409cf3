"""What holds the examples of one split: arrays, a map-style dataset, or an iterable of batches."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
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
from nnx_alexnet.data.iterable import IterableSource, is_torch_iterable, set_epoch
from nnx_alexnet.data.known_labels import known_labels
from nnx_alexnet.data.randomness import (
    restored_generators,
    restored_generators_of,
    seed_example,
)
from nnx_alexnet.data.rows import ElementSpec, Rows, as_rows
from nnx_alexnet.log import logger

OnBadSample = Literal["raise", "skip"]

_MOST_TRIED = 100  # examples in a row that cannot be read: then something else is wrong
_WHOLE_BYTES = 64 * 2**20  # arrays up to this size are digested whole
_SAMPLED_ROWS = 256  # of larger arrays
_SAMPLED_EXAMPLES = 16  # of a map-style dataset, which may have to decode files
_SAMPLED_CLASSES = 16  # of which one example each is read to check the labels' attribute


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
        some = self.some_images()
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

    def some_images(self) -> np.ndarray:
        """Returns evenly spaced images."""
        some: np.ndarray = self.rows.image[evenly_spaced(len(self), _SAMPLED_ROWS)]
        return some

    def labels(self) -> np.ndarray | None:
        """Returns all labels, if they are classes."""
        labels = self.rows.label
        return labels if labels.dtype == np.int32 and labels.ndim == 1 else None

    def take(self, indices: np.ndarray, *, seed: int, epoch: int) -> Rows:
        """Returns the examples at `indices`."""
        return Rows(self.rows.image[indices], self.rows.label[indices])

    def digest(self) -> str | None:
        """Returns a SHA-256 of the examples: of all bytes, or of evenly spaced rows of many."""
        digest = hashlib.sha256()
        for array in (self.rows.image, self.rows.label):
            digest.update(f"{array.dtype}{array.shape}".encode())
            part = array
            if array.nbytes > _WHOLE_BYTES:
                part = array[evenly_spaced(len(array), _SAMPLED_ROWS)]
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


class MapSource:
    """A map-style dataset: `dataset[i]` is `(image, label)`, or a mapping with these two keys.

    Images may be PIL images (L, RGB), torch CHW tensors or arrays; each becomes an HWC array. All
    must have one shape. While example `i` is read, `random`, `numpy.random` and torch are seeded
    by (seed, epoch, i): a dataset's own random transforms depend neither on the number of
    workers nor on where a run was resumed. A dataset with a method `set_epoch` is told the epoch
    before its examples are read.

    Args:
        dataset: has `__len__` and `__getitem__`. Its `targets` or `labels`, if it has them and
            they agree with the labels of a sample of examples, are the classes, so that no image
            has to be decoded to know them.
        argument: what the user calls the split, for errors.
        on_bad_sample: whether an example that cannot be read is an error (`"raise"`), or the
            next one that can be read stands in for it (`"skip"`).
        is_trusted: whether the dataset is known to return the same example at each reading, with
            the label that `targets` has (default False: both are checked on a sample).

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
        self,
        dataset: Any,
        *,
        argument: str = "data",
        on_bad_sample: OnBadSample = "raise",
        is_trusted: bool = False,
    ) -> None:
        if on_bad_sample not in ("raise", "skip"):
            raise errors.unknown("on_bad_sample", on_bad_sample, ("raise", "skip"))
        self.dataset = dataset
        self._argument = argument
        self._skips = on_bad_sample == "skip"
        self._is_trusted = is_trusted
        self._epoch: int | None = None  # that the dataset was told last
        if not len(self):
            raise ValueError(f"`{argument}` is empty: it holds no examples.")
        with restored_generators():
            self._tell_epoch(0, 0)
            seed_example(0, 0, 0)
            (image, label), _ = self._example_or_next(0)
        if image.ndim == 0:
            raise ValueError(
                f"`{argument}`[0] has an image of shape (); it needs at least one axis."
            )
        check_label_axes(label[None], f"{argument}[0]")
        self._spec = Rows(image[None], label[None]).element_spec()
        self._first_image = image.copy()

    def __len__(self) -> int:
        return len(self.dataset)

    def begin_pass(self) -> None:
        """Makes the next `take` tell the dataset its epoch: another split may share the dataset."""
        self._epoch = None

    def _tell_epoch(self, seed: int, epoch: int) -> None:
        if epoch != self._epoch:
            seed_example(seed, epoch, len(self))
            set_epoch(self.dataset, epoch)
        self._epoch = epoch

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

    def some_images(self) -> np.ndarray:
        """Returns the first image."""
        return self._first_image[None]

    def take(self, indices: np.ndarray, *, seed: int, epoch: int) -> Rows:
        """Returns the examples at `indices`, read one after another.

        Raises:
            ValueError: an example differs in shape or dtype from the first one of the dataset.
        """
        images, labels = (np.empty((len(indices), *s), d) for s, d in self._spec.values())
        bad: dict[int, str] = {}
        with restored_generators():
            self._tell_epoch(seed, epoch)
            for row, index in enumerate(indices.tolist()):
                seed_example(seed, epoch, index)
                example, why = self._example_or_next(index)
                if why is not None:
                    bad[index] = why
                self._check_example(index, example)
                # At once: a dataset may fill one buffer again and again.
                images[row], labels[row] = example
        return Rows(images, labels, bad=bad)

    def _check_example(self, index: int, example: tuple[np.ndarray, np.ndarray]) -> None:
        for (key, (shape, dtype)), value in zip(self._spec.items(), example, strict=True):
            if value.shape != shape or value.dtype != dtype:
                raise ValueError(
                    f"`{self._argument}`[{index}] has {key} of shape {value.shape} and "
                    f"dtype {value.dtype}, `{self._argument}`[0] has shape {shape} and "
                    f"dtype {dtype}; all must be alike. Resize or crop in the dataset."
                )

    # ---- What is known of all examples by reading a few -----------------------------------------

    def labels(self) -> np.ndarray | None:
        """Returns all labels, if they are classes and an attribute of the dataset has them."""
        return self._labels

    def digest(self) -> str | None:
        """Returns a SHA-256 of evenly spaced examples; None if they differ at each reading."""
        first = self._sample
        if len(first) < len(self._sampled_indices) or not self._is_repeatable:
            return None
        digest = hashlib.sha256(f"{len(self)}{self._spec}".encode())
        for index, (bits, _) in sorted(first.items()):
            digest.update(f"{index}".encode() + bits)
        return digest.hexdigest()

    @property
    def _sampled_indices(self) -> list[int]:
        return [int(index) for index in evenly_spaced(len(self), _SAMPLED_EXAMPLES)]

    @cached_property
    def _sample(self) -> dict[int, tuple[bytes, np.ndarray]]:
        return self._read(self._sampled_indices)

    @cached_property
    def _is_repeatable(self) -> bool:
        if self._is_trusted:
            return True
        again = self._read(self._sampled_indices)
        return {i: bits for i, (bits, _) in again.items()} == {
            i: bits for i, (bits, _) in self._sample.items()
        }

    @cached_property
    def _labels(self) -> np.ndarray | None:
        claimed = known_labels(self.dataset)
        if claimed is None or self._is_trusted:
            return claimed
        firsts = np.unique(claimed, return_index=True)[1]
        firsts = firsts[evenly_spaced(len(firsts), _SAMPLED_CLASSES)]
        read = self._sample | self._read([i for i in firsts.tolist() if i not in self._sample])
        for index, (_, label) in sorted(read.items()):
            if label.dtype != np.int32 or label.ndim or label != claimed[index]:
                logger.info(
                    "`%s`: the dataset's `targets` or `labels` has %d for example %d, where the "
                    "example itself has %s; only the examples count.",
                    self._argument, claimed[index], index, label.tolist() if label.size < 9 else
                    f"a label of shape {label.shape}",
                )  # fmt: skip
                return None
        return claimed if read else None

    def _read(self, indices: Iterable[int]) -> dict[int, tuple[bytes, np.ndarray]]:
        """Returns a digest and the label of examples, without those that cannot be read."""
        found = {}
        with restored_generators(), restored_generators_of(self.dataset):
            self._tell_epoch(0, 0)
            for index in indices:
                seed_example(0, 0, index)
                try:
                    image, label = self._example(index)
                except Exception:  # whoever needs the example will say so
                    continue
                digest = hashlib.sha256()
                for array in (image, label):
                    digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
                found[index] = digest.digest(), np.array(label)
        return found


def evenly_spaced(num: int, most: int) -> np.ndarray:
    """Returns at most `most` indices below `num`, the first and the last among them.

    Example:
        >>> from nnx_alexnet.data.sources import evenly_spaced
        >>> evenly_spaced(9, 3).tolist(), evenly_spaced(2, 3).tolist()
        ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, num - 1, most).round().astype(int))


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
    if isinstance(value, tuple):
        if len(value) == 2 and is_array(value[0]) and is_array(value[1]):
            return ArraySource(*value, argument=argument)
        raise _not_a_pair(value, argument)
    if is_array(value):
        raise ValueError(
            f"`{argument}` is one array of shape {tuple(value.shape)} ({_kind(value)}); a split of "
            "arrays is the tuple (images, labels), as in DataModule((images, labels), "
            "(val_images, val_labels))."
        )
    is_map = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    is_other = isinstance(value, Mapping | str | bytes | Path | type)
    if is_map and not is_other and not is_torch_iterable(value):
        if isinstance(value, list) and value and _is_batch(value, argument):
            return IterableSource(value, argument=argument)
        return MapSource(value, argument=argument, on_bad_sample=on_bad_sample)
    if hasattr(value, "__iter__") and not is_other:
        return IterableSource(value, argument=argument)
    raise ValueError(
        f"`{argument}` is a {_kind(value)}; expected (images, labels) arrays, a dataset "
        "with __len__ and __getitem__, a torch DataLoader or another iterable of batches."
        f"{_form_remedy(value)}"
    )


def _kind(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _not_a_pair(value: tuple[Any, ...], argument: str) -> ValueError:
    kinds = ", ".join(map(_kind, value))
    is_of_lists = len(value) == 2 and all(is_array(x) or isinstance(x, list) for x in value)
    remedy = " np.asarray makes an array of a list." if is_of_lists else ""
    return ValueError(
        f"`{argument}` is a tuple of ({kinds}); a tuple is (images, labels), two arrays.{remedy} "
        "Give batches as a list, and further splits as arguments of their own: "
        "DataModule(train, val, test)."
    )


def _form_remedy(value: object) -> str:
    if isinstance(value, Mapping):
        keys = sorted(map(str, value))
        shown = ", ".join(map(repr, keys[:8])) + (", ..." if len(keys) > 8 else "")
        return f" Of a mapping with the keys {shown} pass the two arrays: (images, labels)."
    if isinstance(value, str | bytes | Path):
        return ' load_data("folder", root=...) reads a folder of image files.'
    if isinstance(value, type):
        return " Pass an instance of the class."
    return ""


def _is_batch(value: list[Any], argument: str) -> bool:
    """Returns whether the elements of a list are batches, rather than examples."""
    if len(value) == 2 and all(is_array(item) and np.ndim(item) for item in value):
        images, labels = value
        if len(images) == len(labels):
            raise ValueError(
                f"`{argument}` is a list of two arrays; images and labels are given as a tuple: "
                "(images, labels)."
            )
    image, label, _ = unpack(value[0], argument)
    return np.ndim(label) > 0 and is_array(image) and len(image) == len(label)
