"""The examples that every source of a split returns, stacked along a first axis."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data.convert import (
    Report,
    canonical,
    is_array,
    is_channels_first,
    is_in_image,
    is_leaf,
    is_pil,
    is_torch,
    map_leaves,
    named,
    to_numpy,
)

Fields = dict[str, Any]
"""Pytrees of NumPy arrays by the names that the user gave them."""

ElementSpec = dict[str, Any]
"""Pytrees of `jax.ShapeDtypeStruct` of one example, by name."""

RESERVED = ("mask", "index")
"""The names that a loader adds to a batch."""

PAIR = ("image", "label")
"""The names of the values of a tuple, by default."""


class Rows(NamedTuple):
    """Examples, stacked along a first axis.

    Attributes:
        fields: pytrees of arrays `[N, ...]`, by name.
        mask: bool `[N]`, False for rows that do not count; None if all count.
        bad: which examples could not be read, and why; others stand in for them.
    """

    fields: Fields
    mask: np.ndarray | None = None
    bad: Mapping[int, str] = MappingProxyType({})

    @property
    def num(self) -> int:
        """The number of rows."""
        return len(jax.tree.leaves(self.fields)[0])

    def element_spec(self) -> ElementSpec:
        """Returns the shape (without the batch) and dtype of each array."""
        spec: ElementSpec = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), self.fields
        )
        return spec


def spec_text(spec: Any) -> str:
    """Returns the shapes and dtypes of a field as text.

    Example:
        >>> import jax
        >>> from nnx_alexnet.data.examples import spec_text
        >>> spec_text([jax.ShapeDtypeStruct((3, 2), "int32"), jax.ShapeDtypeStruct((), "bool")])
        'int32[3, 2], bool[]'
    """
    return ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(spec))


def named_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays of nested fields by their paths.

    Example:
        >>> from nnx_alexnet.data.examples import named_fields
        >>> named_fields({"views": [1, 2], "label": 3})
        {'label': 3, 'views/0': 1, 'views/1': 2}
    """
    leaves = jax.tree_util.tree_leaves_with_path(dict(fields))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def difference(spec: ElementSpec, other: ElementSpec) -> str | None:
    """Returns the first difference between two specs as text; None if they are equal.

    Args:
        spec: of the examples that are checked.
        other: of the examples that they should equal.

    Example:
        >>> import jax
        >>> from nnx_alexnet.data.examples import difference
        >>> one, two = ({"x": jax.ShapeDtypeStruct(shape, "int8")} for shape in ((3,), (4,)))
        >>> difference(one, two)
        '`x` is int8[3] instead of int8[4]'
    """
    if spec.keys() != other.keys():
        return f"the keys are {listed(spec)} instead of {listed(other)}"
    for name, wanted in other.items():
        if spec[name] != wanted:
            return f"`{name}` is {spec_text(spec[name])} instead of {spec_text(wanted)}"
    return None


def listed(names: Iterable[str]) -> str:
    """Returns names as text for a message.

    Example:
        >>> from nnx_alexnet.data.examples import listed
        >>> listed(["image", "label"])
        "'image', 'label'"
    """
    return ", ".join(map(repr, names))


def evenly_spaced(num: int, most: int) -> np.ndarray:
    """Returns at most `most` indices below `num`, including the first and the last.

    Example:
        >>> from nnx_alexnet.data.examples import evenly_spaced
        >>> evenly_spaced(9, 3).tolist(), evenly_spaced(2, 3).tolist()
        ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, num - 1, most).round().astype(int))


def unpack(item: Any, names: Sequence[str], argument: str) -> Fields:
    """Returns the values of an example, of a batch or of a whole split by name.

    Args:
        item: a mapping, a dataclass, a named tuple, or a tuple of values, which get the first
            names. A single array gets the first name, and so does any value if there is only one
            name.
        names: of the values of a tuple.
        argument: what the user calls the item, for the error.

    Raises:
        ValueError: the item has another form, or no values.

    Example:
        >>> from nnx_alexnet.data.examples import unpack
        >>> unpack((1, 2), ("image", "label"), "train")
        {'image': 1, 'label': 2}
        >>> unpack({"tokens": 1, "attention": 2}, ("image", "label"), "train")
        {'tokens': 1, 'attention': 2}
    """
    if type(item) is tuple and len(item) == len(names):  # most examples
        return dict(zip(names, item, strict=True))
    named = _named(item)
    if named is not None:
        strange = [key for key in named if not isinstance(key, str)]
        if strange or not named:
            what = f"the key {strange[0]!r}" if strange else "no keys"
            raise ValueError(f"`{argument}` is a mapping with {what}; its keys must be names.")
        return named
    if isinstance(item, tuple | list) and 0 < len(item) <= len(names):
        return dict(zip(names, item, strict=False))
    if is_array(item) or is_pil(item) or (len(names) == 1 and is_leaf(item)):
        return {names[0]: item}
    what = f"a {type(item).__name__}"
    if isinstance(item, tuple | list):
        what += f" of length {len(item)}"
    raise ValueError(
        f"`{argument}` gave {what}; expected a dict of arrays, or a tuple ({', '.join(names)}). "
        'Other tuples need names: DataModule(..., fields=("image", "depth", "label")).'
    )


def _named(item: Any) -> Fields | None:
    """Returns the values of an item that has names for them."""
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, tuple) and hasattr(item, "_asdict"):
        fields: Fields = item._asdict()
        return fields
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return None


def check_names(fields: Mapping[str, Any], argument: str) -> None:
    """Raises a `ValueError` if a field has a name that the loader uses."""
    for name in RESERVED:
        if name in fields:
            remedy = {
                "mask": "Give masks of images another name, such as `masks`. To leave examples "
                "out, select the others: dataset[mask].",
                "index": "Give it another name, such as `id`.",
            }[name]
            raise ValueError(
                f"`{argument}` has the key `{name}`, which the loader adds to each batch. {remedy}"
            )


def as_arrays(
    fields: Mapping[str, Any],
    argument: str,
    report: Report | None = None,
    *,
    keeps_mapped: bool = False,
) -> tuple[Fields, int]:
    """Converts and checks fields that have a first axis over examples.

    Args:
        fields: pytrees of array-like values, by name.
        argument: what the user calls them, for errors.
        report: receives a message if a dtype changes or axes are transposed.
        keeps_mapped: whether memory-mapped arrays are not read, so that they keep their dtype
            (default False).

    Returns:
        The fields as NumPy arrays, and the length of the first axis.

    Raises:
        ValueError: a value is not an array of numbers, or the first axes differ.
    """

    def convert(path: str, value: Any) -> np.ndarray:
        name = f"{argument}[{path!r}]"
        if keeps_mapped and isinstance(value, np.memmap):
            return value
        array = canonical(to_numpy(value, name), name, named(report, path))
        if is_in_image(path) and is_torch(value) and is_channels_first(array.shape[1:]):
            if report is not None:
                report(f"`{path}`: torch images {list(array.shape)} are NCHW, transposed to NHWC.")
            array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        return array

    made = {name: map_leaves(convert, value, name) for name, value in fields.items()}
    lengths = {}
    for name, array in named_fields(made).items():
        if not array.ndim:
            raise ValueError(
                f"`{argument}` has a `{name}` of shape (); every array needs a first axis over "
                "examples. torch.utils.data.DataLoader(dataset, batch_size=...) puts single "
                "examples into batches."
            )
        lengths[name] = len(array)
    if len({*lengths.values()}) != 1:
        shown = [f"{length} of `{name}`" for name, length in lengths.items()]
        sizes = ", ".join([*shown[:8], "..."] if len(shown) > 8 else shown)
        lists = [name for name, value in fields.items() if isinstance(value, list | tuple)]
        stacked = f" If `{lists[0]}` lists examples, pass np.stack of it." if lists else ""
        raise ValueError(
            f"`{argument}` has {sizes or 'no arrays'}; every array must have one row per example. "
            "Each split is one tuple or dict: ((train_images, train_labels), (val_images, "
            f"val_labels)).{stacked}"
        )
    return made, next(iter(lengths.values()))


def as_rows(item: Any, names: Sequence[str], argument: str, report: Report | None = None) -> Rows:
    """Converts and checks a batch that an iterable returned.

    Args:
        item: see `unpack`. A mapping may have a `mask`, bool `[B]`: which rows count.
        names: of the values of a tuple.
        argument: what the user calls the split, for errors.
        report: see `as_arrays`.

    Raises:
        ValueError: the batch is not usable.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.examples import as_rows
        >>> as_rows({"tokens": [[1, 2], [3, 4]], "mask": [1, 0]}, (), "train").mask
        array([ True, False])
    """
    fields = unpack(item, names, argument)
    mask = fields.pop("mask", None)
    check_names(fields, argument)
    arrays, num = as_arrays(fields, argument, report)
    if mask is not None:
        mask = to_numpy(mask, argument)
        if mask.shape != (num,):
            raise ValueError(
                f"`{argument}` has a `mask` of shape {mask.shape}; expected {(num,)}, one value "
                "per row: whether it counts. Give masks of images another name, such as `masks`."
            )
        mask = mask.astype(bool)
    return Rows(arrays, mask)
