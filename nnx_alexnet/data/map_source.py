"""A source of examples that are read one by one, by index."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from nnx_alexnet.data.convert import as_labels, check_label_axes, example_image, to_numpy, unpack
from nnx_alexnet.data.examples import ElementSpec, Rows
from nnx_alexnet.data.probe import Probe
from nnx_alexnet.data.seeding import restored_generators, seed_example
from nnx_alexnet.data.torch_loader import set_epoch
from nnx_alexnet.support import is_of_machine, unknown

OnBadSample = Literal["raise", "skip"]

_MAX_TRIED = 100  # examples in a row that cannot be read: then something else is wrong


class MapSource:
    """Reads a map-style dataset: `dataset[i]` is `(image, label)`, or a mapping with these keys.

    Images may be PIL images (L, RGB), torch CHW tensors or arrays; each becomes an HWC array. All
    must have one shape. While example `i` is read, `random`, `numpy.random` and torch are seeded
    with (seed, epoch, i): a dataset's own random transforms depend neither on the number of
    workers nor on where a run was resumed. If a dataset has a method `set_epoch`, it is called
    before examples of another epoch are read.

    Args:
        dataset: has `__len__` and `__getitem__`. If it has `targets` or `labels` that agree with
            the labels of a sample of examples, these are the classes, so that no image has to be
            decoded to know them.
        argument: what the user calls the split, for errors.
        on_bad_sample: whether an example that cannot be read is an error (`"raise"`), or the
            next one that can be read stands in for it (`"skip"`).
        is_trusted: whether the dataset is known to return the same example at each reading, with
            the label in `targets` (default False: both are checked on a sample).

    Attributes:
        dataset: as given.

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
            raise unknown("on_bad_sample", on_bad_sample, ("raise", "skip"))
        self.dataset = dataset
        self._argument = argument
        self._skips = on_bad_sample == "skip"
        self._epoch: int | None = None  # the newest that `set_epoch` was called with
        if not len(self):
            raise ValueError(f"`{argument}` is empty: it has no examples.")
        with restored_generators():
            self._set_epoch(0, 0)
            seed_example(0, 0, 0)
            (image, label), _ = self._example_or_next(0)
        if image.ndim == 0:
            raise ValueError(
                f"`{argument}`[0] has an image of shape (); it needs at least one axis."
            )
        check_label_axes(label[None], f"{argument}[0]")
        self._spec = Rows(image[None], label[None]).element_spec()
        self._first_image = image.copy()
        self._probe = Probe(
            dataset, image_bytes=image.nbytes, argument=argument, is_trusted=is_trusted
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def begin_pass(self) -> None:
        """Makes the next `take` call `set_epoch` again: another split may share the dataset."""
        self._epoch = None

    def _set_epoch(self, seed: int, epoch: int) -> None:
        if epoch != self._epoch:
            seed_example(seed, epoch, len(self))
            set_epoch(self.dataset, epoch)
        self._epoch = epoch

    def _example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        name = f"{self._argument}[{index}]"
        image, label, _ = unpack(self.dataset[index], name)
        return example_image(image, name), as_labels(to_numpy(label, name), name)

    def _example_or_next(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray], str | None]:
        """Returns an example, or the next one that can be read and why the first one cannot."""
        why: str | None = None
        for position in range(index, index + _MAX_TRIED):
            try:
                return self._example(position % len(self)), why
            except Exception as error:  # decoders raise all types
                if not self._skips or is_of_machine(error):
                    # The dataset's own error names neither the split nor the index.
                    if self._argument not in str(error):
                        example = f"`{self._argument}`[{position % len(self)}]"
                        error.add_note(f"Raised while {example} was read.")
                    raise
                why = why or f"{type(error).__name__}: {error}"
        raise ValueError(
            f"`{self._argument}`[{index}] and the {_MAX_TRIED - 1} examples after it cannot be "
            f"read. The first error: {why}"
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
            self._set_epoch(seed, epoch)
            for row, index in enumerate(indices.tolist()):
                seed_example(seed, epoch, index)
                example, why = self._example_or_next(index)
                if why is not None:
                    bad[index] = why
                self._check_example(index, example)
                # Copied at once: a dataset may reuse one buffer.
                images[row], labels[row] = example
        return Rows(images, labels, bad=bad)

    def _check_example(self, index: int, example: tuple[np.ndarray, np.ndarray]) -> None:
        for (key, (shape, dtype)), value in zip(self._spec.items(), example, strict=True):
            if value.shape != shape or value.dtype != dtype:
                raise ValueError(
                    f"`{self._argument}`[{index}] has {key} of shape {value.shape} and dtype "
                    f"{value.dtype}, `{self._argument}`[0] has shape {shape} and dtype {dtype}; "
                    "all examples must be alike. Resize or crop in the dataset."
                )

    def labels(self) -> np.ndarray | None:
        """Returns all labels if they are classes and known from an attribute of the dataset."""
        return self._probe.labels(self._read)

    def digest(self) -> str | None:
        """Returns a SHA-256 of evenly spaced examples; None if they differ at each reading."""
        return self._probe.digest(self._read)

    def _read(self, indices: Iterable[int]) -> dict[int, Rows]:
        """Reads examples of epoch 0 outside of any epoch, except those that cannot be read."""
        found = {}
        with restored_generators():
            self._set_epoch(0, 0)
            for index in indices:
                seed_example(0, 0, index)
                try:
                    image, label = self._example(index)
                except Exception:  # a later read of the example raises the error
                    continue
                found[index] = Rows(np.array(image), np.array(label))
        return found
