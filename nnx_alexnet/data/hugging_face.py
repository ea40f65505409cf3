"""Splits that are datasets of the library Hugging Face `datasets`.

The library is not imported here: a user who passes one of its objects has imported it.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nnx_alexnet.data.arrow_columns import column_values
from nnx_alexnet.data.examples import evenly_spaced
from nnx_alexnet.data.image_decoding import is_grey, pixels

_NUM_SAMPLED = 16  # images that tell whether a column of images is grey


class ImageSizesDifferError(ValueError):
    """Images that are to be stacked have different sizes."""


Fit = Callable[[Any, str], np.ndarray]
"""Converts a PIL image to pixels `[H, W, C]`, given the mode, L or RGB."""


def is_kind(value: object, *names: str) -> bool:
    """Returns whether a value is of one of the classes of `datasets`, without importing it.

    Example:
        >>> from nnx_alexnet.data.hugging_face import is_kind
        >>> is_kind([1, 2], "Dataset", "IterableDataset")
        False
    """
    library = sys.modules.get("datasets")
    if not hasattr(library, "load_from_disk"):  # not imported, or a module of the user
        return False
    return isinstance(value, tuple(getattr(library, name) for name in names))


class HuggingFaceRows:
    """A map-style dataset of the rows of a `datasets.Dataset`, each a dict of NumPy arrays.

    Numbers keep the dtype of their column, and class labels become int32. Lists of one length
    become arrays. Images become uint8 `[H, W, 1]` if all of the column are grey, else
    `[H, W, 3]`. The columns that the dataset's format selects are read; the format itself, such
    as "torch", makes no difference. A transform set by `set_transform` is applied.

    Args:
        dataset: a `datasets.Dataset`.
        argument: what the user calls the split, for errors.
        fit: what brings all images to one shape; by default they keep their sizes.
        modes: the mode of each column of images, L or RGB; by default a sample decides.

    Attributes:
        class_names: the names of the classes in the column `label`, or None.
        modes: see above.

    Raises:
        ValueError: a column does not contain numbers or images.
    """

    def __init__(
        self,
        dataset: Any,
        argument: str = "data",
        *,
        fit: Fit = pixels,
        modes: Mapping[str, str] | None = None,
    ) -> None:
        self._argument = argument
        self._fit = fit
        self._features = {name: dataset.features[name] for name in dataset.format["columns"]}
        self.class_names: tuple[str, ...] | None = class_names(self._features)
        self._is_transformed = dataset.format["type"] == "custom"
        self.modes: dict[str, str] = {}
        if self._is_transformed:
            self._rows = dataset
            return
        check_columns(self._features, argument)
        self._rows = dataset.with_format("arrow", columns=list(self._features))
        for name, feature in self._features.items():
            if is_kind(feature, "Image"):
                self._features[name] = dataclasses.replace(feature, decode=True)
                self.modes[name] = modes[name] if modes else self._mode(name)

    def _mode(self, name: str) -> str:
        """Returns L if a sample of a column's images is grey, else RGB."""
        sample = evenly_spaced(len(self), _NUM_SAMPLED).tolist() if len(self) else []
        column = self._rows.select_columns([name])
        images = (self._image(name, column[index][name][0], index) for index in sample)
        return "L" if all(map(is_grey, images)) else "RGB"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._is_transformed:
            return plain_example(self._rows[index])
        table = self._rows[index]
        return {name: self._value(name, table[name], index) for name in self._features}

    def _value(self, name: str, column: Any, index: int) -> Any:
        if name in self.modes:
            return self._pixels(name, column[0], index)
        return _first(self._numbers(name, column, f"`{self._argument}`[{index}]"))

    def _pixels(self, name: str, encoded: Any, index: int) -> np.ndarray:
        image, mode = self._image(name, encoded, index), self.modes[name]
        if mode == "L" and not is_grey(image):
            raise ValueError(
                f"`{self._argument}`[{index}] has a colour image in the column {name!r}, where "
                "others are grey. To read all in colour, use "
                f'dataset.cast_column({name!r}, datasets.Image(mode="RGB")).'
            )
        return self._fit(image, mode)

    def _numbers(self, name: str, column: Any, owner: str) -> Any:
        values = column_values(column, f"{owner}, column {name!r},")
        # Classes are few; JAX has no int64 by default.
        is_class = is_kind(self._features[name], "ClassLabel")
        return values.astype(np.int32) if is_class else values

    def _image(self, name: str, encoded: Any, index: int) -> Any:
        value = encoded.as_py()
        if value is None:
            raise ValueError(f"`{self._argument}`[{index}] has no image in the column {name!r}.")
        return self._features[name].decode_example(value)

    @property
    def targets(self) -> np.ndarray | None:
        """The classes in the column `label`, read without the other columns; None without any."""
        label: Any = self._features.get("label")
        if self._is_transformed or not is_kind(label, "ClassLabel", "Value"):
            return None
        column = self._rows.select_columns(["label"])[:]["label"]
        labels = np.asarray(self._numbers("label", column, f"`{self._argument}`"))
        return labels if labels.dtype.kind in "iu" else None

    def columns(self, indices: np.ndarray | None = None) -> dict[str, Any]:
        """Returns rows as arrays with the rows along the first axis, read together.

        Args:
            indices: of the rows; None (the default) is all of them.

        Raises:
            ImageSizesDifferError: the images differ in size.
            ValueError: lists differ in length, values are missing, or the dataset has a transform.
        """
        if self._is_transformed:
            raise ValueError("Rows are transformed one by one.")
        table = self._rows[:] if indices is None else self._rows[indices]
        where = range(len(self)) if indices is None else indices.tolist()
        return {
            name: self._images(name, table[name], where)
            if name in self.modes
            else self._numbers(name, table[name], f"`{self._argument}`")
            for name in self._features
        }

    def _images(self, name: str, column: Any, where: Sequence[int]) -> np.ndarray:
        first = self._pixels(name, column[0], where[0])
        images = np.empty((len(where), *first.shape), first.dtype)
        images[0] = first
        for position, index in enumerate(where[1:], start=1):
            image = self._pixels(name, column[position], index)
            if image.shape != first.shape:
                raise ImageSizesDifferError(
                    f"`{self._argument}`[{index}] has an image of shape {image.shape} in the "
                    f"column {name!r}, others have {first.shape}."
                )
            images[position] = image
        return images


class StreamedRows:
    """Yields the examples of a `datasets.IterableDataset` as dicts of NumPy arrays.

    Its methods `set_epoch`, `state_dict` and `load_state_dict` are those of the dataset.

    Args:
        dataset: a `datasets.IterableDataset`.
        argument: what the user calls the split, for errors.

    Raises:
        ValueError: a column is known not to contain numbers or images.
    """

    def __init__(self, dataset: Any, argument: str = "data") -> None:
        self._dataset = dataset
        self._features = dict(dataset.features or {})
        self.class_names = class_names(self._features)
        check_columns(self._features, argument)
        self.set_epoch = dataset.set_epoch
        self.state_dict = dataset.state_dict
        self.load_state_dict = dataset.load_state_dict

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for example in self._dataset:
            yield plain_example(example, self._features)


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
        remedy: another one than to remove the columns.
    """
    unusable = unusable_columns(features)
    if unusable:
        shown = ", ".join(f"{name!r} ({kind})" for name, kind in unusable.items())
        raise ValueError(
            f"`{argument}` has columns that are neither numbers nor images: {shown}. Leave them "
            f"out, {remedy or f'dataset.remove_columns({list(unusable)})'}, or convert them with "
            "dataset.map(...), for example texts with a tokenizer."
        )


def _first(values: Any) -> Any:
    """Returns the only row of arrays of one row."""
    if isinstance(values, dict):
        return {name: _first(value) for name, value in values.items()}
    return values[0]


def plain_example(example: Mapping[str, Any], features: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Converts lists to arrays and PIL images to pixels; other values remain as they are.

    Args:
        example: the values by column.
        features: the features of the columns, if they are known; they determine dtypes.

    Example:
        >>> from PIL import Image
        >>> from nnx_alexnet.data.hugging_face import plain_example
        >>> example = plain_example({"x": [1, 2], "image": Image.new("RGBA", (3, 2))})
        >>> example["x"], example["image"].shape
        (array([1, 2]), (2, 3, 3))
    """
    return {name: _plain(value, features.get(name)) for name, value in example.items()}


def _plain(value: Any, feature: Any) -> Any:
    if hasattr(value, "getbands"):  # a PIL image
        return pixels(value, "L" if is_grey(value) else "RGB")
    if isinstance(value, dict):
        inner = feature if isinstance(feature, dict) else {}
        return plain_example(value, inner)
    if isinstance(value, list | int | float):
        return np.asarray(value, _leaf_dtype(feature))
    return value


def _leaf_dtype(feature: Any) -> Any:
    """Returns the dtype of the numbers in a feature; None if it is not known."""
    while is_kind(feature, "List", "LargeList", "Sequence"):
        feature = feature.feature
    if is_kind(feature, "ClassLabel"):
        return np.dtype(np.int32)
    return None if feature is None or isinstance(feature, dict) else np.dtype(feature.dtype)
