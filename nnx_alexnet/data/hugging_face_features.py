"""Checks the columns of Hugging Face datasets, and converts examples to NumPy arrays.

The library is not imported here: a program that passes one of its objects has imported it.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnx_alexnet.data.convert import is_pil
from nnx_alexnet.data.image_decoding import is_grey, pixels


def is_kind(value: object, *names: str) -> bool:
    """Returns whether a value is of one of the classes of `datasets`, without importing it.

    Example:
        >>> from nnx_alexnet.data.hugging_face_features import is_kind
        >>> is_kind([1, 2], "Dataset", "IterableDataset")
        False
    """
    library = sys.modules.get("datasets")
    if not hasattr(library, "load_from_disk"):  # not imported, or a module of the user
        return False
    return isinstance(value, tuple(getattr(library, name) for name in names))


def class_names(features: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the names of the classes in the column `label`; None if it has no names."""
    label: Any = features.get("label")
    return tuple(label.names) if is_kind(label, "ClassLabel") else None


def unusable_columns(features: Mapping[str, Any]) -> dict[str, str]:
    """Returns the columns that contain neither numbers nor images, with what they contain."""
    kinds = {name: _unusable(feature) for name, feature in features.items()}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _unusable(feature: Any) -> str | None:
    """Returns what a feature contains if it is neither numbers nor an image."""
    if isinstance(feature, dict):
        return next(filter(None, map(_unusable, feature.values())), None)
    if isinstance(feature, list):
        return _unusable(feature[0])
    if is_kind(feature, "List", "LargeList", "Sequence"):
        inner = feature.feature
        return "Image in a list" if is_kind(inner, "Image") else _unusable(inner)
    if is_kind(feature, "Image", "ClassLabel", "Array2D", "Array3D", "Array4D", "Array5D"):
        return None
    if is_kind(feature, "Value"):
        is_number = feature.dtype.startswith(("int", "uint", "float", "bool"))
        return None if is_number else str(feature.dtype)
    return type(feature).__name__


def check_columns(features: Mapping[str, Any], argument: str, remedy: str = "") -> None:
    """Raises a `ValueError` for columns that contain neither numbers nor images.

    Args:
        features: the feature of each column.
        argument: what the user calls the split.
        remedy: replaces the default remedy, to remove the columns.
    """
    unusable = unusable_columns(features)
    if unusable:
        shown = ", ".join(f"{name!r} ({kind})" for name, kind in unusable.items())
        raise ValueError(
            f"`{argument}` has columns that are neither numbers nor images: {shown}. Leave them "
            f"out, {remedy or f'dataset.remove_columns({list(unusable)})'}, or convert them with "
            "dataset.map(...), for example texts with a tokenizer."
        )


def plain_example(example: Mapping[str, Any], features: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Converts lists to arrays and PIL images to pixels; other values remain as they are.

    Args:
        example: the values by column.
        features: the features of the columns, if they are known; they determine dtypes.

    Example:
        >>> from PIL import Image
        >>> from nnx_alexnet.data.hugging_face_features import plain_example
        >>> example = plain_example({"x": [1, 2], "image": Image.new("RGBA", (3, 2))})
        >>> example["x"], example["image"].shape
        (array([1, 2]), (2, 3, 3))
    """
    return {name: _plain(value, features.get(name), name) for name, value in example.items()}


def check_mode(image: Any, column: str) -> None:
    """Raises a `ValueError` if 8 bits would change the values of an image that may be no picture.

    Indices of a palette, single bits, and numbers of 16 or 32 bits would become 8 bits of grey or
    colour. In a column not called `image`, they may be classes, as in a segmentation, or depths.

    Args:
        image: a PIL image.
        column: the name of its column.
    """
    if column != "image" and image.mode[0] in "1PIF":
        raise ValueError(
            f"The column {column!r} has an image of mode {image.mode!r}. If it is a picture, "
            "rename the column to 'image'. If its values are classes or measurements, make an "
            "array of it: dataset.set_transform(lambda rows: {**rows, "
            f"{column!r}: [np.asarray(each) for each in rows[{column!r}]]}})."
        )


def _plain(value: Any, feature: Any, column: str) -> Any:
    if is_pil(value):
        check_mode(value, column)
        return pixels(value, "L" if is_grey(value) else "RGB")
    if isinstance(value, dict):
        inner = feature if isinstance(feature, dict) else {}
        return plain_example(value, inner)
    if isinstance(value, list) and value and is_pil(value[0]):
        for image in value:
            check_mode(image, column)
        mode = "L" if all(map(is_grey, value)) else "RGB"
        return _stacked([pixels(image, mode) for image in value])
    if isinstance(value, list | int | float):
        try:
            return np.asarray(value, _leaf_dtype(feature))
        except ValueError:  # lists of different lengths, which the checks of the split report
            return value
    return value


def _stacked(images: list[np.ndarray]) -> np.ndarray:
    sizes = sorted({image.shape for image in images})
    if len(sizes) > 1:
        raise ValueError(
            f"The images of a batch have the shapes {sizes[0]} and {sizes[-1]}; all must "
            "have the same one. Resize or crop them with dataset.map(...)."
        )
    return np.stack(images)


def _leaf_dtype(feature: Any) -> Any:
    """Returns the dtype of the numbers in a feature; None if it is not known."""
    while is_kind(feature, "List", "LargeList", "Sequence"):
        feature = feature.feature
    if is_kind(feature, "ClassLabel"):
        return np.dtype(np.int32)
    return None if feature is None or isinstance(feature, dict) else np.dtype(feature.dtype)
