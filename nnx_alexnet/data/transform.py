"""Turns images into the model's input, with augmentation, inside the compiled step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nnx_alexnet.augmentation import interval
from nnx_alexnet.data.applied_transform import example_structs, remembered_spec, transformed_spec
from nnx_alexnet.data.batching import Batch
from nnx_alexnet.data.examples import ElementSpec
from nnx_alexnet.data.geometry import (
    Geometry,
    draw_geometry,
    draw_resized_crop,
    ten_crops,
    unit_scaled,
)
from nnx_alexnet.data.transform_arguments import (
    fill_value,
    key_names,
    number,
    per_channel,
    whole_number,
)
from nnx_alexnet.data.transform_fields import (
    check_declared,
    checked_image,
    fields_of_image,
    suggested_kind,
)
from nnx_alexnet.support import check_bools

_fold_in = jax.jit(jax.random.fold_in)  # without jit it takes 3 ms


def augmentation_key(*, seed: int, epoch: int) -> jax.Array:
    """Returns the key of an epoch's augmentation; each example folds its index into it.

    Args:
        seed: the seed of the run, not negative.
        epoch: the epoch, from 0.
    """
    key: jax.Array = _fold_in(jax.random.key(seed), epoch)
    return key


@dataclass(frozen=True)
class ImageTransform:
    """Scales, crops, resizes, augments and standardises the images of a batch.

    uint8 images are divided by 255, and float images are not scaled. Then, for images
    `[B, H, W, C]`, the central region of side `crop` is resized to `image_size`. In training the
    region has a random position within the image and a random translation, and the image is
    mirrored with probability 1/2. Finally, each channel is standardised: `(x - mean) / std`.

    If the region has the size of the output, nothing is resampled and the region is aligned with
    whole pixels: with `crop=227/256` on images of 256x256 these are the random patches and
    mirror images of the AlexNet paper.

    With `resized_crop`, a region of random area and aspect ratio is resized to `image_size` in
    training, instead of one of side `crop`.

    With `ten_crops`, batches in evaluation have a field `views`, `[B, 10, S, S, C]`: the regions of
    side `crop` in the four corners and in the centre of the image, and the same of the mirrored
    image. `Classification` averages the probabilities of the views.

    Fields that are located in the image move with it, in training and evaluation. Their names are
    declared in `masks`, `boxes` and `keypoints`. Positions are in pixels from the top left corner
    of the image, so the pixel in row `r` and column `c` covers x from `c` to `c + 1` and y from
    `r` to `r + 1`; its centre is `(c + 0.5, r + 0.5)`. The result is in pixels of the output.

    Args:
        image_size: side of the output in pixels; None (the default) keeps the size of the region.
        mean: is subtracted; a number, or one per channel, on the scale of 0 to 1 (default 0).
        std: divides the difference; a number, or one per channel (default 1).
        translate: largest translation in training, as a fraction of the region's side (default
            0); the area outside of the image is black.
        crop: side of the region, as a fraction of the image's side, in (0, 1] (default 1).
        flip: whether to mirror left and right in training (default False).
        resized_crop: smallest and largest area of the region in training, as a fraction of the
            image's; (0.08, 1.0) is common for ImageNet (default None: a region of side `crop`).
        ratio: smallest and largest aspect ratio of this region, width by height (default
            (3/4, 4/3)).
        ten_crops: whether batches in evaluation have ten views of each image (default False).
        masks: keys of masks, `[B, H, W]` or `[B, H, W, C]`, of any dtype, which they keep. Each
            pixel of the result has the value of the pixel that contains its centre (nearest
            neighbour).
        boxes: keys of boxes, float `[B, N, 4]`: (x_min, y_min, x_max, y_max). They are clipped to
            the output, so a box outside of it has no area.
        keypoints: keys of points, float `[B, N, 2]`: (x, y). They may lie outside of the output.
            A mirror image does not exchange left and right points.
        mask_fill: value of masks outside of the image (default 0).

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has another type.

    Example:
        >>> import jax, numpy as np
        >>> from nnx_alexnet.data.transform import ImageTransform
        >>> transform = ImageTransform(16, mean=0.5, std=0.25, flip=True, boxes=("box",))
        >>> batch = {"image": np.full((2, 8, 8, 1), 255, np.uint8),
        ...          "box": np.full((2, 1, 4), (0.0, 0.0, 2.0, 4.0), np.float32),
        ...          "index": np.arange(2)}
        >>> result = jax.jit(transform)(batch)
        >>> float(result["image"][0, 8, 8, 0]), result["box"][0].tolist()
        (2.0, [[0.0, 0.0, 4.0, 8.0]])
        >>> jax.jit(transform)(batch, jax.random.key(4))["box"].tolist()
        [[[12.0, 0.0, 16.0, 8.0]], [[0.0, 0.0, 4.0, 8.0]]]

    Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional
    Neural Networks", NIPS 2012, section 4.1. `resized_crop`: Szegedy et al., "Going Deeper with
    Convolutions", 2014 (https://arxiv.org/abs/1409.4842), section 6.
    """

    image_size: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    translate: float = 0.0
    crop: float = 1.0
    flip: bool = False
    _: dataclasses.KW_ONLY
    resized_crop: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ten_crops: bool = False
    masks: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()
    mask_fill: float = 0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, per_channel(name, getattr(self, name)))
        translate, crop = number("translate", self.translate), number("crop", self.crop)
        if not 0 <= translate < 1:
            raise ValueError(f"`translate` (={self.translate}) must be in [0, 1).")
        if not 0 < crop <= 1:
            raise ValueError(f"`crop` (={self.crop}) must be in (0, 1].")
        object.__setattr__(self, "translate", translate)
        object.__setattr__(self, "crop", crop)
        if not all(x > 0 for x in self.std):
            raise ValueError(f"`std` (={self.std}) must be greater than 0 in each channel.")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", whole_number("image_size", self.image_size))
            if self.image_size < 1:
                raise ValueError(f"`image_size` (={self.image_size}) must be at least 1, or None.")
        for name in ("flip", "ten_crops"):
            check_bools(**{name: getattr(self, name)})
            object.__setattr__(self, name, bool(getattr(self, name)))
        self._check_crops()
        object.__setattr__(self, "mask_fill", fill_value("mask_fill", self.mask_fill))
        for kind, value in self._declared().items():
            object.__setattr__(self, kind, key_names(kind, value))
        names = [name for value in self._declared().values() for name in value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"`masks` (={self.masks!r}), `boxes` (={self.boxes!r}) and `keypoints` "
                f"(={self.keypoints!r}) must name each key once, but {twice[0]!r} occurs twice."
            )

    def _check_crops(self) -> None:
        object.__setattr__(self, "ratio", interval("ratio", self.ratio))
        if self.ten_crops and self.crop == 1:
            raise ValueError(
                "`ten_crops` (=True) needs a region that is smaller than the image, such as "
                f"crop=0.875, but `crop` is {self.crop}."
            )
        if self.resized_crop is None:
            return
        found = interval("resized_crop", self.resized_crop, largest=1)
        object.__setattr__(self, "resized_crop", found)
        if self.translate > 0 or self.image_size is None:
            raise ValueError(
                f"`resized_crop` (={found}) needs an `image_size` (={self.image_size}), and cannot "
                f"be combined with `translate` (={self.translate})."
            )

    def describe(self) -> dict[str, Any]:
        """Returns the arguments as plain values; those of features that are not used are left out.

        These are `masks`, `boxes`, `keypoints`, `resized_crop` and `ten_crops`.
        """
        values = dataclasses.asdict(self)
        if self.resized_crop is None:
            values.pop("ratio")
        rest = (*self._declared(), "mask_fill", "resized_crop", "ten_crops")
        fields = {name: values.pop(name) for name in rest}
        return values | {name: value for name, value in fields.items() if value}

    def check(self, spec: ElementSpec, *, may_lack_fields: bool = False) -> ElementSpec:
        """Returns the shapes of one example after the transform.

        Args:
            spec: the shapes and dtypes of one example.
            may_lack_fields: whether declared fields may be missing (default False), as in data
                to predict from.

        Raises:
            ValueError: there is no image of a usable dtype, a declared field is missing or has
                another form, a field that belongs to the image is not declared, or the number of
                channels does not fit `mean` or `std`.
        """
        image = checked_image(spec, "ImageTransform")
        declared = self._declared()
        check_declared(spec, image, declared, fill=self.mask_fill, may_lack=may_lack_fields)
        names = tuple(name for names in declared.values() for name in names)
        moving = self._moving(image.shape)
        if moving is not None and (left := fields_of_image(spec, names)):
            name, why = next(iter(left.items()))
            kind = suggested_kind(spec[name], image) if name in spec else "masks"
            raise ValueError(
                f"`transform` would move the pixels of `image` {list(image.shape)} ({moving}) but "
                f"not `{name}`: {why}. Declare what belongs to the image, as in "
                f"ImageTransform(..., {kind}=({name!r},)), or use a transform that moves no "
                "pixels, such as ImageTransform(mean=..., std=...). If the axes of "
                f"`{name}` are not those of the image, flatten them to one."
            )
        # A subclass may have attributes that do not take part in the comparison.
        is_plain = type(self) is ImageTransform
        return remembered_spec(self, spec) if is_plain else transformed_spec(self, spec)

    def _declared(self) -> dict[str, tuple[str, ...]]:
        return {"masks": self.masks, "boxes": self.boxes, "keypoints": self.keypoints}

    def _moving(self, shape: tuple[int, ...]) -> str | None:
        """Returns which arguments move pixels of an image to other places; None if none does."""
        if len(shape) != 3:
            return None  # other ranks are only scaled and standardised
        is_resized = self.image_size is not None and shape[:2] != (self.image_size,) * 2
        found = {
            "image_size": is_resized,
            "translate": self.translate > 0,
            "crop": self.crop < 1,
            "flip": self.flip,
            "resized_crop": self.resized_crop is not None,
        }
        texts = [f"{name}={getattr(self, name)}" for name, moves in found.items() if moves]
        return ", ".join(texts) or None

    def __call__(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Batch:
        """Transforms a batch; the result for an example does not depend on the others.

        Args:
            batch: `image`, `[B, H, W, C]` of uint8 or a float dtype of at most 32 bits; other
                ranks are only scaled and standardised. Declared fields move with it if they are
                there. With `key`, `index` (int32 `[B]`) gives each example its own augmentation.
            key: a key for training, the same for all batches of an epoch; None for evaluation.

        Returns:
            The batch with `image` as float32 `[B, S, S, C]`, where S is `image_size`.

        Raises:
            ValueError: the batch has no such image, a declared field has another form, `key` is
                given without `index`, or the number of channels does not fit `mean` or `std`.
        """
        return self.standardised(self.moved(batch, key))

    def moved(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Batch:
        """Returns the transformed batch before its image is standardised; see `__call__`."""
        spec = example_structs(batch)
        checked = checked_image(spec, "ImageTransform")
        check_declared(spec, checked, self._declared(), fill=self.mask_fill, may_lack=True)
        image = jnp.asarray(batch["image"])
        if self._moving(checked.shape) is None:
            return {**batch, "image": unit_scaled(image)}
        if key is not None and "index" not in batch:
            raise ValueError("`key` needs `index` in the batch, the indices of the examples.")
        index = jnp.asarray(batch["index"] if key is not None else 0)
        geometry = self._geometry(image.shape, key, index)
        moved = {"image": geometry.images(image)}
        if self.ten_crops and key is None:
            crops = ten_crops(image.shape, image_size=self.image_size, crop=self.crop)
            moved["views"] = jnp.stack([crop.images(image) for crop in crops], axis=1)
        for name in batch:
            if name in self.masks:
                moved[name] = geometry.masks(jnp.asarray(batch[name]), self.mask_fill)
            elif name in self.boxes:
                moved[name] = geometry.boxes(jnp.asarray(batch[name]))
            elif name in self.keypoints:
                moved[name] = geometry.keypoints(jnp.asarray(batch[name]))
        return {**batch, **moved}

    def _geometry(
        self, shape: tuple[int, ...], key: jax.Array | None, index: jax.Array
    ) -> Geometry:
        if self.resized_crop is not None and key is not None:
            assert self.image_size is not None, "checked with `resized_crop`"
            return draw_resized_crop(
                shape,
                image_size=self.image_size,
                scale=self.resized_crop,
                ratio=self.ratio,
                flip=self.flip,
                key=key,
                index=index,
            )
        return draw_geometry(
            shape,
            image_size=self.image_size,
            translate=self.translate,
            crop=self.crop,
            flip=self.flip,
            key=key,
            index=index,
        )

    def standardised(self, batch: Mapping[str, Any]) -> Batch:
        """Returns the batch with its image standardised, and its views if it has any."""
        names = ("image", "views") if self.ten_crops and "views" in batch else ("image",)
        return {**batch, **{name: self._standardise(batch[name]) for name in names}}

    @property
    def declared(self) -> tuple[str, ...]:
        """The keys of the fields that move with the image."""
        return self.masks + self.boxes + self.keypoints

    def _standardise(self, image: jax.Array) -> jax.Array:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, image.shape[-1]):
                raise ValueError(
                    f"`{name}` (={values}) has {len(values)} values, but the images {image.shape} "
                    f"have {image.shape[-1]} channels; give one value, or one per channel."
                )
        if self.mean == (0.0,) and self.std == (1.0,):
            return image
        shape = (1,) * (image.ndim - 1) + (-1,)
        mean = jnp.array(self.mean, jnp.float32).reshape(shape)
        std = jnp.array(self.std, jnp.float32).reshape(shape)
        return (image - mean) / std
