"""Reads the rows of a `Dataset` of the library Hugging Face `datasets`, by index."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnx_alexnet.data.arrow_columns import column_values
from nnx_alexnet.data.examples import evenly_spaced
from nnx_alexnet.data.hugging_face_features import (
    check_columns,
    check_mode,
    class_names,
    is_kind,
    plain_example,
)
from nnx_alexnet.data.image_decoding import is_grey, pixels

_NUM_SAMPLED = 16  # images, which decide whether a column of images is grey


class ImageSizesDifferError(ValueError):
    """Images that are to be stacked have different sizes."""


Fit = Callable[[Any, str], np.ndarray]
"""Converts a PIL image to pixels `[H, W, C]`, given the mode, L or RGB."""


class HuggingFaceRows:
    """A map-style dataset of the rows of a `datasets.Dataset`, each a dict of NumPy arrays.

    Numbers keep the dtype of their column, and class labels become int32. Lists of one length
    become arrays. Images become uint8 `[H, W, 1]` if all images of the column are grey, else
    `[H, W, 3]`; see `check_mode` for columns that are not called `image`. The columns that the
    dataset's format selects are read; the format itself, such as "torch", makes no difference. A
    transform set by `set_transform` is applied.

    Args:
        dataset: a `datasets.Dataset`.
        argument: what the user calls the split, for errors.
        fit: converts an image to pixels, in the same shape for all; by default, images keep their
            sizes.
        modes: the mode of each column of images, L or RGB; by default a sample decides.

    Attributes:
        class_names: the names of the classes in the column `label`, or None.
        modes: see above.

    Raises:
        ValueError: a column contains neither numbers nor images, or `check_mode` refuses an image.
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
        image = self._features[name].decode_example(value)
        check_mode(image, name)
        return image

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
            indices: of the rows; None (the default) means all of them.

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
                    f"column {name!r}; others have {first.shape}."
                )
            images[position] = image
        return images


def _first(values: Any) -> Any:
    """Returns the only row of arrays of one row."""
    if isinstance(values, dict):
        return {name: _first(value) for name, value in values.items()}
    return values[0]
