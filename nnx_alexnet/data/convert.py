"""Converts torch tensors, PIL images, pandas columns and other values to NumPy arrays."""

import sys
from collections.abc import Callable
from contextlib import suppress
from numbers import Number
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

CHANNELS = (1, 3, 4)  # grey, colour, and colour with transparency

Report = Callable[[str], None]


def once(report: Report) -> Report:
    """Returns a function that passes on each message once.

    Example:
        >>> from nnx_alexnet.data.convert import once
        >>> report = once(print)
        >>> report("a"), report("a")
        a
        (None, None)
    """
    seen: set[str] = set()

    def report_once(message: str) -> None:
        if message not in seen:
            report(message)
        seen.add(message)

    return report_once


def named(report: Report | None, path: str) -> Report | None:
    """Returns a function that begins each message with the path of a field.

    Example:
        >>> from nnx_alexnet.data.convert import named
        >>> named(print, "views/0")("float64 becomes float32.")
        `views/0`: float64 becomes float32.
    """
    return None if report is None else lambda message: report(f"`{path}`: {message}")


def is_torch(value: object) -> bool:
    """Returns whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: object) -> TypeGuard[Any]:
    """Returns whether a value is a NumPy array, a JAX array, a torch tensor or similar."""
    return isinstance(value, np.ndarray) or (hasattr(value, "__array__") and hasattr(value, "ndim"))


def is_pil(value: object) -> bool:
    """Returns whether a value is a PIL image."""
    return isinstance(getattr(value, "mode", None), str) and hasattr(value, "getbands")


def is_leaf(value: object) -> bool:
    """Returns whether a value becomes one array; other values are pytrees of arrays.

    A list is one array if it contains numbers or lists of them. A list of arrays, such as two views
    of an image, stays a list of arrays.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.convert import is_leaf
        >>> is_leaf([[1, 2], [3, 4]]), is_leaf([np.zeros(2), np.zeros(3)])
        (True, False)
    """
    if is_array(value) or is_pil(value) or isinstance(value, str | bytes | Number):
        return True
    if isinstance(value, list) or type(value) is tuple:
        return not any(map(_is_part, value))
    return False


def _is_part(item: object) -> bool:
    """Returns whether an item of a list makes the list a tree instead of an array."""
    if is_array(item):
        return bool(np.ndim(item))
    return is_pil(item) or not (item is None or is_leaf(item))


def map_leaves(function: Callable[[str, Any], Any], value: Any, name: str) -> Any:
    """Returns a pytree with each leaf replaced by `function(its path, the leaf)`.

    Args:
        function: called with a path such as "views/0".
        value: a pytree, or a single leaf.
        name: the path of `value`.

    Example:
        >>> from nnx_alexnet.data.convert import map_leaves
        >>> map_leaves(lambda path, _: path, {"a": 1, "b": ({"c": [1, 2]}, 3)}, "x")
        {'a': 'x/a', 'b': ({'c': 'x/b/0/c'}, 'x/b/1')}
    """
    if is_leaf(value):
        return function(name, value)

    def call(path: Any, leaf: Any) -> Any:
        suffix = jax.tree_util.keystr(path, simple=True, separator="/")
        return function(f"{name}/{suffix}" if suffix else name, leaf)

    return jax.tree_util.tree_map_with_path(call, value, is_leaf=is_leaf)


def is_in_image(path: str) -> bool:
    """Returns whether the array at a path is the field `image` or a part of it.

    Example:
        >>> from nnx_alexnet.data.convert import is_in_image
        >>> is_in_image("image"), is_in_image("image/0"), is_in_image("images")
        (True, True, False)
    """
    return path == "image" or path.startswith("image/")


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether a torch image of this shape is CHW, which is torch's convention.

    Args:
        shape: the shape of one image. It is HWC only if its last axis, and not its first one, has
            the length of channels.

    Example:
        >>> from nnx_alexnet.data.convert import is_channels_first
        >>> is_channels_first((3, 32, 32)), is_channels_first((32, 32, 3))
        (True, False)
    """
    return len(shape) == 3 and (shape[0] in CHANNELS or shape[-1] not in CHANNELS)


def to_numpy(value: Any, argument: str) -> np.ndarray:
    """Converts any array-like value to a NumPy array with the same axes.

    Raises:
        ValueError: NumPy has no such dtype, the value is ragged, or a mask hides a part of it.
    """
    if is_torch(value):
        return _torch_to_numpy(value, argument)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"`{argument}` is a masked array, whose mask would be lost. Leave out the masked "
            "examples, or fill them with values of your choice: masked.filled(0)."
        )
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:  # a ragged list, an object that is no array
        raise ValueError(
            f"`{argument}` is a {type(value).__name__} that cannot be converted to one array: "
            f"{error}. All items must have the same shape; np.stack then makes one array of them."
        ) from None


def _torch_to_numpy(value: Any, argument: str) -> np.ndarray:
    torch = sys.modules["torch"]
    if value.layout != torch.strided:
        raise ValueError(
            f"`{argument}` has the layout {value.layout}, which NumPy does not have: pass its "
            ".to_dense()."
        )
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:  # torch refuses to convert it; the bits are the same
        array: np.ndarray = value.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
        return array
    try:
        array = value.numpy()
    except TypeError as error:
        raise ValueError(
            f"`{argument}` has dtype {value.dtype}, which NumPy does not have: .float() keeps "
            "every value."
        ) from error
    return array


def canonical_dtype(dtype: np.dtype[Any], argument: str, example: Any = None) -> np.dtype[Any]:
    """Returns the dtype that JAX uses: int64 becomes int32 and float64 float32, unless x64 is on.

    The result has the byte order of the machine.

    Args:
        dtype: of NumPy or ml_dtypes.
        argument: what the user calls the array, for the error.
        example: the array, for the remedy.

    Raises:
        ValueError: JAX has no such dtype: strings, objects, dates, long doubles.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.convert import canonical_dtype
        >>> canonical_dtype(np.dtype("int64"), "x"), canonical_dtype(np.dtype("uint16"), "x")
        (dtype('int32'), dtype('uint16'))
    """
    is_number = jnp.issubdtype(dtype, np.number) or dtype == np.bool_
    if not is_number or dtype.hasobject:
        what = "" if example is None else _remedy(example)
        raise ValueError(f"`{argument}` has dtype {dtype}; expected an array of numbers.{what}")
    if dtype.char in "gG":  # longdouble
        raise ValueError(
            f"`{argument}` has dtype {dtype}, which JAX does not have: "
            f"array.astype(np.{'complex128' if dtype.kind == 'c' else 'float64'}) converts it."
        )
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype)).newbyteorder("=")


def canonical(array: np.ndarray, argument: str, report: Report | None = None) -> np.ndarray:
    """Returns an array in the dtype that JAX uses; see `canonical_dtype`.

    Args:
        array: of any dtype.
        argument: what the user calls it, for messages.
        report: receives the two dtypes as a message if values may be rounded. Integers never
            are: those that do not fit are refused.

    Raises:
        ValueError: JAX has no such dtype, or a value does not fit into the smaller one.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.convert import canonical
        >>> canonical(np.array([1.0, 2.0]), "x", print).dtype
        float64 becomes float32, as everywhere in JAX without jax_enable_x64.
        dtype('float32')
    """
    dtype = canonical_dtype(array.dtype, argument, array)
    if dtype == array.dtype:
        return array
    if dtype.itemsize == array.dtype.itemsize:
        return array.astype(dtype)  # only the order of the bytes changes
    if array.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = array.min(), array.max()
        if low < limits.min or high > limits.max:
            wrong = low if low < limits.min else high
            raise ValueError(
                f"`{argument}` has the value {wrong}, which does not fit into {dtype}. JAX has "
                '64-bit integers after jax.config.update("jax_enable_x64", True).'
            )
        return array.astype(dtype)
    if report is not None:
        report(f"{array.dtype} becomes {dtype}, as everywhere in JAX without jax_enable_x64.")
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype)
    except FloatingPointError:
        raise ValueError(
            f"`{argument}` has values beyond {np.finfo(dtype).max:g}, the largest {dtype}. "
            "Scale them."
        ) from None


def _remedy(array: np.ndarray) -> str:
    """Explains how an array of another dtype becomes an array of numbers."""
    if array.dtype.kind in "mM":
        return " array.astype(np.int64) converts it to a number of units of time."
    if array.dtype.names is not None:
        return " Pass each field of the structured array by its name, in a dict."
    items = array.reshape(-1)[:1000]
    if len(items) and all(isinstance(item, str | bytes) for item in items):
        return (
            f" It contains {_shown(items[0])}. Leave strings out, or number them from 0: names, "
            "numbers = np.unique(strings, return_inverse=True); class_names=tuple(names) keeps "
            "the names of labels."
        )
    for position, item in enumerate(items):
        if isinstance(item, str | bytes) or not isinstance(item, Number):
            where = f" at position {position}" if array.ndim else ""
            return (
                f" It contains {_shown(item)}{where}. Each example must be a number, or an "
                "array of numbers of the same shape; np.stack joins such arrays."
            )
    return " np.asarray(values, np.float32) makes an array of numbers."


def _shown(item: object) -> str:
    text = repr(item.item() if isinstance(item, np.generic) else item)
    return text if len(text) <= 40 else f"a {type(item).__name__}"


def example_array(
    value: Any, argument: str, *, is_image: bool, report: Report | None = None
) -> np.ndarray:
    """Converts one value of one example to NumPy.

    PIL images that are called `image` become HWC arrays; grey ones have one channel. `np.asarray`
    converts other PIL images, such as segmentation masks, which become class indices `[H, W]`.

    Args:
        value: a PIL image, a torch tensor, an array or a number.
        argument: what the user calls it, for the error.
        is_image: whether it is called `image`, so that a torch CHW tensor becomes HWC; other
            values keep their axes.
        report: receives the two dtypes as a message if values of an array may be rounded.

    Raises:
        ValueError: a PIL image has another mode, or the value is no array of numbers.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from nnx_alexnet.data.convert import example_array
        >>> example_array(Image.new("L", (4, 3)), "image", is_image=True).shape
        (3, 4, 1)
    """
    if is_image and is_pil(value):
        if value.mode not in ("L", "RGB"):
            raise ValueError(
                f"`{argument}` is a PIL image of mode {value.mode!r}; expected 'L' or 'RGB'. "
                f"{_mode_remedy(value.mode)}"
            )
        # For small images, faster than np.asarray(value).
        return np.frombuffer(value.tobytes(), np.uint8).reshape(
            value.height, value.width, len(value.getbands())
        )
    if type(value) is int:  # most labels, which need no other check
        with suppress(OverflowError):
            return np.array(value, jax.dtypes.canonicalize_dtype(np.int64))
    report = report if is_array(value) else None  # Python's own numbers have no dtype to keep
    array = canonical(to_numpy(value, argument), argument, report)
    if is_image and is_torch(value) and is_channels_first(array.shape):
        return np.ascontiguousarray(array.transpose(1, 2, 0))
    return array


def _mode_remedy(mode: str) -> str:
    if mode.startswith(("I", "F")):  # convert() would clip values above 255
        array = "np.asarray(image, np.float32)"
        return f"Return its values from the dataset as an array: {array}[..., None], scaled."
    if mode == "P":
        return (
            "Convert colours in the dataset with image.convert('RGB'); class indices, as in a "
            "segmentation mask, are np.asarray(image)."
        )
    return f"Convert it in the dataset with image.convert({'L' if mode == '1' else 'RGB'!r})."
