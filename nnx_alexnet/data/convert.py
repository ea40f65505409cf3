"""Converts PIL images, torch tensors and other arrays to NumPy images and labels."""

import sys
from collections.abc import Mapping
from numbers import Number
from typing import Any, TypeGuard

import numpy as np

CHANNELS = (1, 3, 4)  # grey, colour, and colour with transparency


def is_torch(value: object) -> bool:
    """Returns whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: object) -> TypeGuard[Any]:
    """Returns whether a value is a NumPy array, a JAX array, a torch tensor or similar."""
    return isinstance(value, np.ndarray) or (hasattr(value, "__array__") and hasattr(value, "ndim"))


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
        try:
            array: np.ndarray = value.detach().cpu().numpy()
        except TypeError as error:
            # bfloat16 and other dtypes that NumPy lacks; or a sparse tensor.
            is_dense = value.layout == sys.modules["torch"].strided
            remedy = ".float() keeps every value" if is_dense else "give its .to_dense()"
            raise ValueError(
                f"`{argument}` has dtype {value.dtype} and layout {value.layout}, which NumPy "
                f"does not have: {remedy}."
            ) from error
        return array
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


def as_images(array: np.ndarray, argument: str) -> np.ndarray:
    """Returns uint8 or float32 images; float64 is converted.

    Args:
        array: images of any shape.
        argument: what the user calls them, for the error.

    Raises:
        ValueError: they have another dtype.
    """
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"`{argument}` has dtype {array.dtype}; images are uint8 (0..255) or float32. "
            f"{_image_remedy(array)}"
        )
    return array


# By the kind of the dtype.
_REMEDIES = {
    "f": "images.astype(np.float32) keeps every value.",
    "b": "images.astype(np.float32) converts them to 0 and 1.",
    "i": (
        "Scale pixels to 0..1 as floats: if white is 255, use images.astype(np.float32) / 255. "
        "For tokens and other numbers up to 16,777,216, array.astype(np.float32) keeps every "
        "value."
    ),
    "c": "np.stack([images.real, images.imag], axis=-1) splits them into two channels.",
}


def _image_remedy(array: np.ndarray) -> str:
    """Explains how images of another dtype become uint8 or float32 without losing values."""
    kind = array.dtype.kind
    if kind == "u":
        white = np.iinfo(array.dtype).max
        return f"images.astype(np.float32) / {white} scales them to 0..1."
    if kind in "USO":
        other = next((item for item in array.flat if not isinstance(item, Number)), array)
        return (
            f"It contains {_shown(other)}. Pass images in memory as one array [N, ...]: np.stack "
            "makes it from images of the same shape. Read image files in a dataset's __getitem__, "
            'or with load_data("folder", root=...).'
        )
    if "float" in array.dtype.name:  # NumPy knows no kind for ml_dtypes' bfloat16
        kind = "f"
    return _REMEDIES.get(kind, "Convert them to an array of numbers.")


def as_labels(array: np.ndarray, argument: str) -> np.ndarray:
    """Returns labels as int32, or as float32 if they are floating point.

    Args:
        array: class indices, soft labels or regression targets, of any shape.
        argument: what the user calls them, for the error.

    Raises:
        ValueError: the labels are neither integers nor floats, or do not fit into int32.
    """
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind not in "biu":
        raise ValueError(
            f"`{argument}` has labels of dtype {array.dtype}; labels are integers (classes) or "
            f"floats (soft labels, regression targets). {_label_remedy(array)}"
        )
    if array.dtype.itemsize >= 4 and array.size:
        limits = np.iinfo(np.int32)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            wrong = low if low < limits.min else high
            raise ValueError(f"`{argument}` has the label {wrong}, which does not fit into int32.")
    return array.astype(np.int32, copy=False)


def _label_remedy(array: np.ndarray) -> str:
    """Explains how labels of another dtype become integers or floats."""
    if "float" in array.dtype.name:
        return "labels.astype(np.float32) keeps every value."
    if array.dtype.kind == "c":
        return "np.stack([labels.real, labels.imag], axis=-1) splits them into two targets."
    texts = [isinstance(item, str | bytes) for item in array.flat]
    if texts and all(texts):
        return (
            "Number the classes from 0: names, labels = np.unique(labels, return_inverse=True); "
            "class_names=tuple(names) keeps their names."
        )
    for position, item in enumerate(array.flat):
        if isinstance(item, str | bytes) or not isinstance(item, Number):
            where = f" at position {position}" if array.ndim else ""
            return (
                f"It contains {_shown(item)}{where}. Give each example a number, or an array of "
                "numbers of one shape."
            )
    return "np.asarray(labels, np.float32) makes an array of numbers."


def _shown(item: object) -> str:
    text = repr(item)
    return text if len(text) <= 40 else f"a {type(item).__name__}"


def check_label_axes(labels: np.ndarray, argument: str) -> None:
    """Raises a `ValueError` for integer classes of shape `[N, 1]`, as in Keras's datasets."""
    if labels.dtype == np.int32 and labels.ndim == 2 and labels.shape[1] == 1:
        raise ValueError(
            f"`{argument}` has integer labels of shape {labels.shape}; one class per example has "
            f"shape {labels.shape[:1]}. Pass labels[:, 0]."
        )


def unpack(item: Any, argument: str) -> tuple[Any, Any, Any]:
    """Returns `(image, label, mask or None)` of an example or of a batch.

    Args:
        item: `(image, label)`, or a mapping with the keys `image`, `label` and optionally `mask`.
        argument: what the user calls it, for the error.

    Raises:
        ValueError: the item has another form.
    """
    if isinstance(item, Mapping):
        if "image" in item and "label" in item:
            return item["image"], item["label"], item.get("mask")
        got = f"a mapping with the keys {sorted(map(str, item))}"
    elif isinstance(item, (tuple, list)):
        if len(item) == 2:
            return item[0], item[1], None
        got = f"a {type(item).__name__} of length {len(item)}"
    else:
        got = f"a {type(item).__name__}"
    raise ValueError(
        f"`{argument}` gave {got}; expected (image, label), or a mapping with the keys "
        "'image' and 'label'."
    )


def example_image(value: Any, argument: str) -> np.ndarray:
    """Converts one image to NumPy: PIL L to HW1, PIL RGB to HWC, a torch CHW tensor to HWC.

    Args:
        value: a PIL image, a torch tensor, or an array, which keeps its axes.
        argument: what the user calls it, for the error.

    Raises:
        ValueError: a PIL image has another mode, or the dtype is not one of images.
    """
    mode = getattr(value, "mode", None)
    if isinstance(mode, str) and hasattr(value, "getbands"):  # a PIL image
        if mode not in ("L", "RGB"):
            raise ValueError(
                f"`{argument}` is a PIL image of mode {mode!r}; 'L' and 'RGB' work. "
                f"{_mode_remedy(mode)}"
            )
        array = np.array(value)
        return array[..., None] if mode == "L" else array
    array = as_images(to_numpy(value, argument), argument)
    if is_torch(value) and is_channels_first(array.shape):
        return np.ascontiguousarray(array.transpose(1, 2, 0))
    return array


def _mode_remedy(mode: str) -> str:
    if mode.startswith(("I", "F")):  # convert() would clip values above 255
        array = "np.asarray(image, np.float32)"
        return f"Return its values from the dataset as an array: {array}[..., None], scaled."
    return f"Convert it in the dataset with image.convert({'L' if mode == '1' else 'RGB'!r})."
