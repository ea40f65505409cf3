"""Pads sequences of different lengths to a few lengths."""

import copy
import operator
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.data.examples import ElementSpec, Fields, listed

PadTo = Mapping[str, int | Sequence[int]]


class Padding:
    """Pads the sequences of some fields to a few lengths.

    The sequences are padded at their end, to the smallest of the lengths that holds all sequences
    of a batch. The compiled steps accept one shape, so each length is compiled once.

    Args:
        pad_to: by field, the lengths of the first axis of an example.
        pad_values: by field, the value that is added (default 0).

    Raises:
        TypeError: an argument is not a dict, a length not a whole number, or a value not a number.
        ValueError: a length is less than 1, or a value belongs to a field without lengths.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.padding import Padding
        >>> padding = Padding({"tokens": (4, 8)}, {"tokens": -1})
        >>> padding.stacked("tokens", [np.array([5]), np.array([6, 7])], "train").tolist()
        [[5, -1, -1, -1], [6, 7, -1, -1]]
    """

    def __init__(
        self, pad_to: PadTo | None = None, pad_values: Mapping[str, float] | None = None
    ) -> None:
        for argument, given in (("pad_to", pad_to), ("pad_values", pad_values)):
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(
                    f"`{argument}` (={given!r}) must be a dict with the names of fields, such as "
                    "{'tokens': 128}."
                )
        self._lengths = {name: _sorted(name, given) for name, given in (pad_to or {}).items()}
        self._values = dict(pad_values or {})
        for name, value in self._values.items():
            if not isinstance(value, Number | np.bool_):
                raise TypeError(f"`pad_values` has {value!r} for {name!r}; it must be a number.")
        self._may_lack_fields = False
        if others := [name for name in self._values if name not in self._lengths]:
            raise ValueError(
                f"`pad_values` has the field {others[0]!r}, for which `pad_to` has no lengths; it "
                f"has {listed(self._lengths) or 'no fields'}."
            )

    def __contains__(self, name: object) -> bool:
        return name in self._lengths

    def __bool__(self) -> bool:
        return bool(self._lengths)

    @property
    def has_choice(self) -> bool:
        """Whether a field has more than one length, so that the shapes of batches differ."""
        return any(len(lengths) > 1 for lengths in self._lengths.values())

    def optional(self) -> "Padding":
        """Returns the same padding for data that may lack fields, such as those to predict."""
        made = copy.copy(self)
        made._may_lack_fields = True
        return made

    def of(self, fields: Mapping[str, Any], argument: str) -> "Padding":
        """Returns the padding of the fields that exist.

        Args:
            fields: the arrays of one example, by name.
            argument: what the user calls the split.

        Raises:
            ValueError: a field to pad is missing, is no array of sequences, or cannot hold the
                value that is added.
        """
        made = copy.copy(self)
        if self._may_lack_fields:
            made._lengths = {name: self._lengths[name] for name in self._lengths if name in fields}
        for name in made._lengths:
            if name not in fields:
                raise ValueError(
                    f"`pad_to` has the field {name!r}, but `{argument}` has {listed(fields)}."
                )
            field = fields[name]
            if not isinstance(field, np.ndarray) or not field.ndim:
                raise ValueError(
                    f"`pad_to` has the field {name!r}, but that of `{argument}` is no sequence: it "
                    "must be one array with a first axis over its items."
                )
            self._check_value(name, field.dtype)
        return made

    def _check_value(self, name: str, dtype: np.dtype[Any]) -> None:
        value = self._values.get(name, 0)
        try:
            with np.errstate(all="ignore"):
                held = np.asarray(value).astype(dtype)
            is_same = bool(jnp.issubdtype(dtype, jnp.inexact)) or bool(held == value)
        except (TypeError, ValueError, OverflowError):
            is_same = False
        if not is_same:
            raise ValueError(
                f"`pad_values` has {value!r} for {name!r}, which is not a value of {dtype}, the "
                "dtype of the field. Choose one that is, or convert the field with .astype(...)."
            )

    def spec(self, spec: ElementSpec, *, shortest: bool = False) -> ElementSpec:
        """Returns the spec of one example with its sequences padded.

        Args:
            spec: of an example; the lengths of its sequences do not matter.
            shortest: whether to pad to the shortest lengths (default: to the longest ones).
        """

        def padded(name: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            length = self._lengths[name][0 if shortest else -1]
            return jax.ShapeDtypeStruct((length, *leaf.shape[1:]), leaf.dtype)

        return {
            name: padded(name, leaf) if name in self._lengths else leaf
            for name, leaf in spec.items()
        }

    def stacked(
        self,
        name: str,
        sequences: Sequence[np.ndarray],
        argument: str,
        *,
        like: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns sequences as one array `[N, length, ...]`.

        Args:
            name: of the field.
            sequences: of equal dtype and trailing axes, except empty lists.
            argument: what the user calls the split.
            like: a sequence whose dtype and trailing axes the others must have (default: the first
                one that is not an empty list).

        Raises:
            ValueError: a sequence is longer than the largest length, or differs in more than its
                length.
        """
        first = like
        if first is None:
            first = next((each for each in sequences if each.shape != (0,)), sequences[0])
        for each in sequences:
            is_alike = (each.dtype, each.shape[1:]) == (first.dtype, first.shape[1:])
            if not is_alike and each.shape != (0,):
                raise ValueError(
                    f"`{argument}` has a `{name}` {each.dtype}{list(each.shape)} and another one "
                    f"{first.dtype}{list(first.shape)}, which differ in more than their length. If "
                    "one of them is an empty list, make it an array: np.array([], np.int32)."
                )
        length = self._fitting(name, max(map(len, sequences)), argument)
        shape = (len(sequences), length, *first.shape[1:])
        made = np.full(shape, self._values.get(name, 0), first.dtype)
        for row, sequence in zip(made, sequences, strict=True):
            row[: len(sequence)] = sequence
        return made

    def padded(self, fields: Fields, argument: str) -> Fields:
        """Returns the fields of a batch with the sequences `[B, any length, ...]` padded."""
        return {
            name: self._extended(name, value, argument) if name in self._lengths else value
            for name, value in fields.items()
        }

    def _extended(self, name: str, array: np.ndarray, argument: str) -> np.ndarray:
        extra = self._fitting(name, array.shape[1], argument) - array.shape[1]
        widths = [(0, 0), (0, extra), *[(0, 0)] * (array.ndim - 2)]
        return np.pad(array, widths, constant_values=self._values.get(name, 0))

    def _fitting(self, name: str, longest: int, argument: str) -> int:
        for length in self._lengths[name]:
            if longest <= length:
                return length
        raise ValueError(
            f"`{argument}` has a `{name}` of length {longest}; the largest length in `pad_to` is "
            f"{self._lengths[name][-1]}. Add a larger one, or shorten the sequences."
        )

    def lengths(self, fields: Mapping[str, Any]) -> tuple[int, ...]:
        """Returns the lengths of the padded fields of a batch, in the order of `pad_to`."""
        return tuple(fields[name].shape[1] for name in self._lengths if name in fields)

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that are padded."""
        return tuple(self._lengths)

    def describe(self) -> dict[str, Any]:
        """Returns the lengths and the value of each field, as plain values."""
        values = {name: self._values.get(name, 0) for name in self._lengths}
        return {
            name: {"lengths": list(lengths), "value": _text(values[name])}
            for name, lengths in self._lengths.items()
        }


def _sorted(name: str, given: int | Sequence[int]) -> tuple[int, ...]:
    try:
        lengths = sorted({operator.index(length) for length in np.atleast_1d(given).tolist()})
    except TypeError:
        raise TypeError(
            f"`pad_to` has the lengths {given!r} for {name!r}; lengths are whole numbers, such as "
            "(64, 128)."
        ) from None
    if not lengths or lengths[0] < 1:
        raise ValueError(f"`pad_to` has the lengths {given!r} for {name!r}; lengths start at 1.")
    return tuple(lengths)


def _text(value: Any) -> str:
    """Returns a number as text, the same for 0 and 0.0; NaN is equal to itself as text."""
    return str(value if isinstance(value, complex) else float(value))
