"""Reads the examples of a map-style dataset one by one, by index."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from nnx_alexnet.data.convert import (
    Report,
    canonical,
    example_array,
    is_in_image,
    map_leaves,
    named,
)
from nnx_alexnet.data.examples import (
    PAIR,
    ElementSpec,
    Fields,
    Rows,
    check_names,
    difference,
    unpack,
)
from nnx_alexnet.data.hugging_face import HuggingFaceRows
from nnx_alexnet.data.padding import Padding
from nnx_alexnet.data.probe import Probe
from nnx_alexnet.data.seeding import restored_generators, seed_example
from nnx_alexnet.data.torch_loader import set_epoch
from nnx_alexnet.support import is_of_machine, logger, unknown

OnBadSample = Literal["raise", "skip"]

_MAX_TRIED = 100  # examples in a row that cannot be read: then something else is wrong


class MapSource:
    """Reads a map-style dataset: `dataset[i]` is a dict, or a tuple of values.

    Values may be PIL images (L, RGB), which become HWC arrays, torch tensors, arrays or numbers,
    and pytrees of them; torch CHW tensors called `image` become HWC. All examples must have the
    same shapes, except for the lengths of padded sequences.

    While example `i` is read, `random`, `numpy.random` and torch are seeded with (seed, epoch, i):
    a dataset's own random transforms depend neither on the number of workers nor on where a run was
    resumed. If a dataset has a method `set_epoch`, it is called before examples
    of another epoch are read.

    Args:
        dataset: has `__len__` and `__getitem__`. If it has `targets` or `labels` that agree with
            the labels of a sample of examples, these are the classes, so that no other example has
            to be read to know them.
        names: of the values of a tuple (default `("image", "label")`).
        padding: the lengths to which sequences are padded (default: all have one length).
        argument: what the user calls the split, for errors.
        on_bad_sample: whether an example that cannot be read is an error (`"raise"`), or is
            replaced by the next readable one (`"skip"`).
        is_trusted: whether the dataset is known to return the same example at each reading, with
            the label in `targets` (default False: both are checked on a sample).
        report: receives messages about converted dtypes (default: the log).

    Attributes:
        dataset: as given.
        options: `names`, `argument`, `on_bad_sample` and `is_trusted` as given.

    Raises:
        ValueError: the dataset is empty, or its first example is not usable.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.sources import MapSource
        >>> source = MapSource([(np.zeros((8, 8, 1), np.uint8), 3)])
        >>> source.take(np.array([0]), seed=0, epoch=0).fields["image"].shape
        (1, 8, 8, 1)
    """

    def __init__(
        self,
        dataset: Any,
        *,
        names: Sequence[str] = PAIR,
        padding: Padding | None = None,
        argument: str = "data",
        on_bad_sample: OnBadSample = "raise",
        is_trusted: bool = False,
        report: Report = logger.info,
    ) -> None:
        if on_bad_sample not in ("raise", "skip"):
            raise unknown("on_bad_sample", on_bad_sample, ("raise", "skip"))
        self.dataset = dataset
        self._names = tuple(names)
        self._padding = Padding() if padding is None else padding
        self._argument = argument
        self._skips = on_bad_sample == "skip"
        self.options: dict[str, Any] = {
            "names": self._names, "argument": argument, "on_bad_sample": on_bad_sample,
            "is_trusted": is_trusted,
        }  # fmt: skip
        self._epoch: int | None = None  # the newest that `set_epoch` was called with
        if not len(self):
            raise ValueError(f"`{argument}` is empty: it has no examples.")
        with restored_generators():
            self._set_epoch(0, 0)
            seed_example(0, 0, 0)
            self._report: Report | None = report
            first, _ = self._example_or_next(0)
            self._report = None  # once is enough
        check_names(first, f"{argument}[0]")
        self._padding = self._padding.of(first, argument)
        # The dataset may reuse one buffer.
        self._first: Fields = jax.tree.map(lambda array: array[None].copy(), first)
        self._spec = self._padding.spec(Rows(self._first).element_spec())
        size = sum(array.nbytes for array in jax.tree.leaves(self._first))
        self._probe = Probe(dataset, example_bytes=size, argument=argument, is_trusted=is_trusted)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def has_lengths(self) -> bool:
        """Whether sequences of different lengths are padded."""
        return bool(self._padding)

    def begin_pass(self) -> None:
        """Makes the next `take` call `set_epoch` again, because splits may share the dataset."""
        self._epoch = None

    def _set_epoch(self, seed: int, epoch: int) -> None:
        if epoch != self._epoch:
            seed_example(seed, epoch, len(self))
            set_epoch(self.dataset, epoch)
        self._epoch = epoch

    def _example(self, index: int) -> Fields:
        argument = f"{self._argument}[{index}]"

        def convert(path: str, value: Any) -> np.ndarray:
            name, report = f"{argument}[{path!r}]", named(self._report, path)
            return example_array(value, name, is_image=is_in_image(path), report=report)

        fields = unpack(self.dataset[index], self._names, argument)
        return {name: map_leaves(convert, value, name) for name, value in fields.items()}

    def _example_or_next(self, index: int) -> tuple[Fields, str | None]:
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
        """Returns the shape and dtype of each array of one example."""
        return dict(self._spec)

    def some_images(self) -> np.ndarray | None:
        """Returns the first image, `[1, ...]`, if examples have one array called `image`."""
        images = self._first.get("image")
        return images if isinstance(images, np.ndarray) else None

    def take(self, indices: np.ndarray, *, seed: int, epoch: int) -> Rows:
        """Returns the examples at `indices`, read one after another.

        Raises:
            ValueError: an example differs in keys, shape or dtype from the first one.
        """
        together = self._read_together(indices)
        if together is not None:
            return Rows(together, bad={})  # a worker cannot send the default value
        num = len(indices)
        spec = {name: leaf for name, leaf in self._spec.items() if name not in self._padding}
        fields: Fields = jax.tree.map(lambda s: np.empty((num, *s.shape), s.dtype), spec)
        sequences: dict[str, list[np.ndarray]] = {}
        arrays: list[np.ndarray]
        structure: Any
        arrays, structure = jax.tree.flatten(fields)
        forms = [(array.shape[1:], array.dtype) for array in arrays]
        bad: dict[int, str] = {}
        with restored_generators():
            self._set_epoch(seed, epoch)
            for row, index in enumerate(indices.tolist()):
                seed_example(seed, epoch, index)
                example, why = self._example_or_next(index)
                if why is not None:
                    bad[index] = why
                fixed = example
                if self._padding:
                    fixed = {k: value for k, value in example.items() if k not in self._padding}
                    for name in self._padding.names:
                        if name not in example:
                            raise self._unlike(index, example)
                        sequences.setdefault(name, []).append(example[name].copy())
                values, found = jax.tree.flatten(fixed)
                if found != structure or [(v.shape, v.dtype) for v in values] != forms:
                    raise self._unlike(index, example)
                # Copied at once: a dataset may reuse one buffer.
                for array, value in zip(arrays, values, strict=True):
                    array[row] = value
        padded = {
            name: self._padding.stacked(name, found, self._argument, like=self._first[name][0])
            for name, found in sequences.items()
        }
        return Rows({**fields, **padded}, bad=bad)

    def _read_together(self, indices: np.ndarray) -> Fields | None:
        """Returns examples that the dataset can read together, which takes less time.

        Returns:
            None if it cannot, or if they are not usable; reading them one by one then shows which
            one is not.
        """

        def convert(path: str, array: np.ndarray) -> np.ndarray:
            return canonical(array, f"{self._argument}[{path!r}]")

        if self._padding or not isinstance(self.dataset, HuggingFaceRows):
            return None
        try:
            columns = self.dataset.columns(indices)
            fields = {name: map_leaves(convert, value, name) for name, value in columns.items()}
        except Exception:  # decoders raise all types
            return None
        return fields if Rows(fields).element_spec() == self._spec else None

    def _unlike(self, index: int, example: Fields) -> ValueError:
        stacked = jax.tree.map(lambda array: array[None], example)
        how = difference(self._padding.spec(Rows(stacked).element_spec()), self._spec)
        return ValueError(
            f"`{self._argument}`[{index}] differs from `{self._argument}`[0]: {how}. All examples "
            "must have the same keys, shapes and dtypes: resize or crop images in the dataset, and "
            "pad sequences with `pad_to`."
        )

    def labels(self) -> np.ndarray | None:
        """Returns all labels if an attribute of the dataset has them and they are classes."""
        return self._probe.labels(self._read)

    def digest(self) -> str | None:
        """Returns a SHA-256 of 16 evenly spaced examples (8 if they are large).

        Returns:
            None if they cannot be read, or differ at a second reading.
        """
        return self._probe.digest(self._read)

    def _read(self, indices: Iterable[int]) -> dict[int, Fields]:
        """Reads examples of epoch 0 outside of any epoch, except those that cannot be read."""
        found = {}
        with restored_generators():
            self._set_epoch(0, 0)
            for index in indices:
                seed_example(0, 0, index)
                try:
                    example = self._example(index)
                except Exception:  # a later read of the example raises the error
                    continue
                found[index] = jax.tree.map(np.array, example)
        return found
