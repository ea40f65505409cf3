"""The forms of a `transform`, and several transforms in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.augmentation import Augmentation
from nnx_alexnet.data.applied_transform import remembered_spec, transformed_batch
from nnx_alexnet.data.batching import Batch
from nnx_alexnet.data.examples import ElementSpec
from nnx_alexnet.data.function_transform import FunctionTransform, as_function_transform
from nnx_alexnet.data.geometry import unit_scaled
from nnx_alexnet.data.transform import ImageTransform
from nnx_alexnet.data.transform_fields import fields_of_image

# Folded into the key of an epoch, so that no part repeats the draws of another one, and an
# ImageTransform draws the same numbers alone and in a list.
_PARTS = 0x70617274


@dataclass(frozen=True)
class DefaultTransform:
    """Scales `image` to 0..1 if it is uint8 with two or more axes; other fields are unchanged.

    This is the transform of data that are given none. A table of uint8 features, `[N, F]`, is not
    scaled.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.composition import DefaultTransform
        >>> images, table = np.full((1, 2, 2), 255, np.uint8), np.full((1, 2), 255, np.uint8)
        >>> DefaultTransform()({"image": images})["image"].tolist()
        [[[1.0, 1.0], [1.0, 1.0]]]
        >>> DefaultTransform()({"image": table})["image"].tolist()
        [[255, 255]]
    """

    # As in `ImageTransform`, for code that shows the model's input.
    mean: ClassVar[tuple[float, ...]] = (0.0,)
    std: ClassVar[tuple[float, ...]] = (1.0,)

    def __call__(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Batch:
        """Returns the batch with the image scaled."""
        image: Any = batch.get("image")
        if getattr(image, "dtype", None) != np.uint8 or image.ndim < 3:
            return dict(batch)
        return {**batch, "image": unit_scaled(jnp.asarray(image))}

    def describe(self) -> dict[str, Any]:
        """Returns the arguments of the `ImageTransform` that does the same to images."""
        return ImageTransform().describe()

    def check(self, spec: ElementSpec, *, may_lack_fields: bool = False) -> ElementSpec:
        """Returns the shapes of one example after the transform; see `ImageTransform.check`."""
        return remembered_spec(self, spec)


Part = ImageTransform | FunctionTransform | DefaultTransform | Augmentation


@dataclass(frozen=True)
class Compose:
    """Applies several transforms in a row, inside the compiled step.

    The images are standardised after the last augmentation that needs values from 0 to 1, such as
    `ColorJitter`. The parts after it, such as `RandomErasing`, receive standardised images. Without
    an `ImageTransform`, uint8 images are scaled to 0..1 before the first augmentation.

    Each part gets its own key in training, and None in evaluation, where augmentations change
    nothing.

    Args:
        parts: an `ImageTransform`, functions, and augmentations after the `ImageTransform`.

    Raises:
        ValueError: there are two instances of `ImageTransform`, or an augmentation before it.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.augmentation import RandomErasing
        >>> from nnx_alexnet.data import ImageTransform
        >>> from nnx_alexnet.data.composition import Compose
        >>> transform = Compose((ImageTransform(mean=0.5, std=0.5), RandomErasing(1.0)))
        >>> batch = {"image": np.full((2, 8, 8, 1), 255, np.uint8), "index": np.arange(2)}
        >>> float(transform(batch)["image"].min())
        1.0
        >>> float(transform(batch, jax.random.key(0))["image"].min())
        0.0
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        first = next((n for n, p in enumerate(self.parts) if isinstance(p, Augmentation)), None)
        images = [n for n, p in enumerate(self.parts) if isinstance(p, ImageTransform)]
        if len(images) > 1 or (images and first is not None and first < images[0]):
            names = [type(part).__name__ for part in self.parts]
            raise ValueError(
                f"`transform` (=[{', '.join(names)}]) must have at most one ImageTransform, and "
                "the augmentations after it."
            )
        if self.image_transform.ten_crops and self.has_functions:
            raise ValueError(
                "`transform` has an ImageTransform(ten_crops=True) and a function, which would not "
                "change the ten views. Use one of the two."
            )
        if self.needs_unit_range and type(self.image_transform).__call__ is not _WHOLE:
            raise TypeError(
                f"`transform`: {type(self.image_transform).__name__} overrides `__call__`, so the "
                f"images cannot be standardised after {self.needs_unit_range}. Use a function."
            )
        is_scaled = any(isinstance(part, _SCALING) for part in self.parts[:first])
        if first is not None and not is_scaled:
            parts = (*self.parts[:first], DefaultTransform(), *self.parts[first:])
            object.__setattr__(self, "parts", parts)

    @property
    def image_transform(self) -> ImageTransform:
        """The `ImageTransform` in the list; one that only scales images if there is none."""
        found = [part for part in self.parts if isinstance(part, ImageTransform)]
        return found[0] if found else ImageTransform()

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean that is subtracted, for code that shows the model's input."""
        return self.image_transform.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation by which images are divided."""
        return self.image_transform.std

    @property
    def needs_unit_range(self) -> str | None:
        """The name of an augmentation that needs images from 0 to 1; None if there is none."""
        needing = [type(part).__name__ for part in self.parts if _needs_unit_range(part)]
        return needing[0] if needing else None

    @property
    def has_functions(self) -> bool:
        """Whether one of the parts is a function."""
        return any(isinstance(part, FunctionTransform) for part in self.parts)

    def __call__(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Batch:
        """Transforms a batch.

        Args:
            batch: arrays by key, with `mask` and `index`.
            key: of an epoch in training; None in evaluation.
        """
        last = max((n for n, p in enumerate(self.parts) if _needs_unit_range(p)), default=-1)
        result = dict(batch)
        for number, part in enumerate(self.parts):
            own = key
            if key is not None and not isinstance(part, ImageTransform):
                own = jax.random.fold_in(jax.random.fold_in(key, _PARTS), number)
            is_early = number < last and isinstance(part, ImageTransform)
            apply = part.moved if is_early else part  # type: ignore[union-attr]
            result = transformed_batch(apply, result, own)
            if number == last:
                result = self.image_transform.standardised(result)
        return result

    def describe(self) -> dict[str, Any]:
        """Returns the arguments of the `ImageTransform`, and the other parts as `with`."""
        others = [part for part in self.parts if not isinstance(part, _SCALING)]
        return self.image_transform.describe() | {"with": [part.describe() for part in others]}

    def check(self, spec: ElementSpec, *, may_lack_fields: bool = False) -> ElementSpec:
        """Returns the shapes of one example after the transforms.

        Args:
            spec: the shapes and dtypes of one example.
            may_lack_fields: whether declared fields and labels may be missing (default False), as
                in data to predict from.

        Raises:
            ValueError: a part does not accept such examples, or an augmentation would move the
                pixels of the image, but not a field that belongs to it.
        """
        for part in self.parts:
            if not isinstance(part, Augmentation):
                spec = part.check(spec, may_lack_fields=may_lack_fields)
            elif not may_lack_fields:  # other data are only evaluated
                self._check_augmentation(part, spec)
        return spec

    def _check_augmentation(self, part: Augmentation, spec: ElementSpec) -> None:
        if self.image_transform.ten_crops:  # its views are those of evaluation
            spec = {name: struct for name, struct in spec.items() if name != "views"}
        part.check(spec)
        if part.moves_pixels and (left := self._located(spec)):
            raise ValueError(
                f"`transform`: {type(part).__name__} moves the pixels of `image`, but not "
                f"`{left}`, which belongs to it. Leave it out, or move both in a function."
            )

    def with_num_classes(self, num_classes: int | None) -> Compose:
        """Returns the transform for data with this number of classes."""
        return Compose(
            tuple(
                part.with_num_classes(num_classes) if isinstance(part, Augmentation) else part
                for part in self.parts
            )
        )

    def _located(self, spec: ElementSpec) -> str | None:
        """Returns a field that is located in the image; None if there is none."""
        declared = [name for name in self.image_transform.declared if name in spec]
        found = [*declared, *fields_of_image(spec)]
        return found[0] if found else None


_WHOLE = ImageTransform.__call__
_SCALING = (ImageTransform, DefaultTransform)


def _needs_unit_range(part: Part) -> bool:
    return isinstance(part, Augmentation) and part.on_unit_range


Transform = ImageTransform | FunctionTransform | DefaultTransform | Compose


def as_transform(value: Any) -> Transform:
    """Returns a `transform` of any accepted form as an object with `check` and `describe`.

    Args:
        value: an `ImageTransform`, a function `(batch)` or `(batch, key=None)`, an augmentation,
            or a list of these; None means `DefaultTransform()`.

    Raises:
        TypeError: the value has another type, or accepts other arguments.
        ValueError: the parts of a list do not fit together.

    Example:
        >>> from nnx_alexnet.data.composition import as_transform
        >>> as_transform(None)
        DefaultTransform()
        >>> as_transform(lambda batch, key=None: batch).takes_key
        True
    """
    if value is None or (isinstance(value, list | tuple) and not value):
        return DefaultTransform()
    if isinstance(value, ImageTransform | FunctionTransform | DefaultTransform | Compose):
        return value
    if isinstance(value, Augmentation):
        value = [value]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        parts: list[Part] = []
        for each in value:
            parts += _parts(each)
        return Compose(tuple(parts))
    return as_function_transform(value)


def _parts(value: Any) -> tuple[Part, ...]:
    if isinstance(value, Augmentation):
        return (value,)
    found = as_transform(value)
    return found.parts if isinstance(found, Compose) else (found,)
