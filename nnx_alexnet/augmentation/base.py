"""The base class of augmentations, which change training images inside the compiled step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from nnx_alexnet.augmentation.arguments import in_range

Batch = dict[str, Any]


@dataclass(frozen=True)
class Augmentation:
    """Changes the images of a batch at random in training, and not at all in evaluation.

    The result for an example depends only on the example, its index and the key of the epoch. It
    is the same in any batch, on any number of devices, and after resuming.

    A subclass overrides `example`, which changes one image.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.augmentation.base import Augmentation
        >>> class Noise(Augmentation):
        ...     def example(self, image, key):
        ...         return image + jax.random.normal(key, image.shape)
        >>> batch = {"image": jnp.zeros((2, 4, 4, 1)), "index": jnp.arange(2)}
        >>> bool((Noise()(batch)["image"] == 0).all())
        True
        >>> bool((Noise()(batch, jax.random.key(0))["image"] == 0).any())
        False
    """

    on_unit_range: ClassVar[bool] = False
    """Whether the images must be from 0 to 1. If so, they are standardised afterwards."""
    moves_pixels: ClassVar[bool] = False
    """Whether pixels move, so that masks, boxes and keypoints would no longer match the image."""
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """The smallest and largest values of arguments that are numbers, by name."""

    def __post_init__(self) -> None:
        for name, limits in self.ranges.items():
            object.__setattr__(self, name, in_range(name, getattr(self, name), *limits))

    def __call__(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Batch:
        """Returns the batch with its images changed.

        Args:
            batch: `image` (float `[B, H, W, C]`) and `index` (int32 `[B]`).
            key: the key of the epoch in training; None in evaluation.
        """
        if key is None:
            return dict(batch)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(batch["index"]))
        return {**batch, "image": jax.vmap(self.example)(batch["image"], keys)}

    def example(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Returns one image, float `[H, W, C]`, with a random change."""
        raise TypeError(f"{type(self).__name__} must override `example(image, key)`.")

    def with_num_classes(self, num_classes: int | None) -> Augmentation:
        """Returns the augmentation for data with this number of classes."""
        return self

    def describe(self) -> dict[str, Any]:
        """Returns the name of the class and its arguments, as plain values."""
        return {type(self).__name__: dataclasses.asdict(self)}

    def check(self, spec: Mapping[str, Any]) -> None:
        """Checks the shapes and dtypes of one example.

        Raises:
            ValueError: there is no image, or the augmentation cannot change it.
        """
        name = type(self).__name__
        image: Any = spec.get("image")
        if not hasattr(image, "shape") or len(image.shape) != 3:
            what = "no `image`" if image is None else f"`image` {getattr(image, 'shape', '')}"
            raise ValueError(
                f"`transform`: {name} changes an `image` of shape [height, width, channels], but "
                f"an example has {what} and the keys {sorted(spec)}."
            )
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(
                f"`transform`: {name} changes floating-point images, but `image` is {image.dtype} "
                "at this point. Put it after the function or ImageTransform that scales the images."
            )
        self.check_channels(image.shape[-1])

    def check_channels(self, channels: int) -> None:
        """Raises a `ValueError` if images with this number of channels cannot be changed."""


def check_colors(augmentation: Augmentation, channels: int) -> None:
    """Raises a `ValueError` unless images are grey or RGB."""
    if channels not in (1, 3):
        raise ValueError(
            f"`transform`: {type(augmentation).__name__} changes images of 1 or 3 channels, but "
            f"the images have {channels}."
        )
