"""From what users hold (PIL images, torch tensors, arrays) to NumPy images and labels."""

import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

_CHANNELS = (1, 3, 4)


def is_torch(value: object) -> bool:
    """Returns whether `value` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: object) -> TypeGuard[Any]:
    """Returns whether `value` is a NumPy array, a JAX array or a torch tensor."""
    return isinstance(value, np.ndarray) or (hasattr(value, "__array__") and hasattr(value, "ndim"))


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether a torch image of this shape is CHW, as is torch's custom.

    Args:
        shape: the shape of one image. It is HWC only if its last axis alone looks like channels.

    Example:
        >>> from nnx_alexnet.data.convert import is_channels_first
        >>> is_channels_first((3, 32, 32)), is_channels_first((32, 32, 3))
        (True, False)
    """
    return len(shape) == 3 and (shape[0] in _CHANNELS or shape[-1] not in _CHANNELS)


def to_numpy(value: Any, argument: str) -> np.ndarray:
    """Returns any array-like value as a NumPy array; the axes stay where they are."""
    if not is_torch(value):
        return np.asarray(value)
    try:
        array: np.ndarray = value.detach().cpu().numpy()
    except TypeError:  # bfloat16 and its like, which NumPy has not
        raise _wrong_dtype(argument, value.dtype) from None
    return array


def as_images(array: np.ndarray, argument: str) -> np.ndarray:
    """Returns images as uint8 or float32; float64 is converted.

    Args:
        array: images of any shape.
        argument: what the user calls them, for the error.

    Raises:
        ValueError: the dtype is another one.
    """
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype not in (np.uint8, np.float32):
        raise _wrong_dtype(argument, array.dtype)
    return array


def _wrong_dtype(argument: str, dtype: object) -> ValueError:
    return ValueError(
        f"`{argument}` has dtype {dtype}; images are uint8 (0..255) or float32. "
        "Convert them, for example with images.astype(np.uint8)."
    )


def as_labels(array: np.ndarray, argument: str) -> np.ndarray:
    """Returns labels as int32, or, if they are floating point, as float32.

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
            "floats (soft labels, regression targets)."
        )
    if array.dtype.itemsize >= 4 and array.size:
        limits = np.iinfo(np.int32)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            wrong = low if low < limits.min else high
            raise ValueError(f"`{argument}` has the label {wrong}, which does not fit into int32.")
    return array.astype(np.int32, copy=False)


def check_label_axes(labels: np.ndarray, argument: str) -> None:
    """Raises a `ValueError` for integer classes with a second axis of one, as Keras has them."""
    if labels.dtype == np.int32 and labels.ndim == 2 and labels.shape[1] == 1:
        raise ValueError(
            f"`{argument}` has integer labels of shape {labels.shape}; one class an example has "
            f"shape {labels.shape[:1]}. Pass labels[:, 0]."
        )


def unpack(item: Any, argument: str) -> tuple[Any, Any, Any]:
    """Returns `(image, label, mask or None)` of an example or of a batch.

    Args:
        item: `(image, label)`, or a mapping with the keys `image`, `label` and perhaps `mask`.
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
    """Returns one image as NumPy: PIL L to HW1, PIL RGB to HWC, a torch CHW tensor to HWC.

    Args:
        value: a PIL image, a torch tensor, or an array, which stays as it is.
        argument: what the user calls it, for the error.

    Raises:
        ValueError: a PIL image of another mode, or a dtype that images cannot have.
    """
    mode = getattr(value, "mode", None)
    if isinstance(mode, str) and hasattr(value, "getbands"):  # a PIL image
        if mode not in ("L", "RGB"):
            raise ValueError(
                f"`{argument}` is a PIL image of mode {mode!r}; 'L' and 'RGB' work. Convert it "
                "in the dataset with image.convert('RGB')."
            )
        array = np.array(value)
        return array[..., None] if mode == "L" else array
    array = as_images(to_numpy(value, argument), argument)
    if is_torch(value) and is_channels_first(array.shape):
        return np.ascontiguousarray(array.transpose(1, 2, 0))
    return array
