"""Mixup and CutMix, which mix each example with another one from its batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from nnx_alexnet.augmentation.arguments import positive
from nnx_alexnet.augmentation.base import Augmentation, Batch
from nnx_alexnet.support import check_integer


@dataclass(frozen=True)
class Mixing(Augmentation):
    """The base class of `MixUp` and `CutMix`.

    The partner of an example is the next one in the shuffled batch, and the partner of the last
    example is the first one. The random numbers of a batch depend on the key of the epoch and on
    the index of its first example. Integer labels become rows of probabilities, float32
    `[B, num_classes]`. An example whose partner is padding is not mixed.

    The batch key `weight`, `[B]`, is mixed too. Each label keeps its own weight: the loss of a
    mixed example is the weighted sum of the losses for both labels.

    Args:
        alpha: both parameters of the beta distribution from which the share of an example in its
            mixture is drawn, greater than 0.
        probability: the probability that a batch is mixed, in [0, 1] (default 1).
        num_classes: the number of classes of integer labels (default: that of the data).
    """

    alpha: float = 1.0
    probability: float = 1.0
    num_classes: int | None = None
    moves_pixels: ClassVar[bool] = True
    ranges: ClassVar = {"probability": (0, 1)}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "alpha", positive("alpha", self.alpha))
        check_integer("num_classes", self.num_classes, minimum=2, also=(None,))

    def __call__(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Batch:
        """Returns the batch with `image`, `label` and `weight` mixed; unchanged in evaluation.

        Args:
            batch: `image` (float `[B, H, W, C]`), `label`, `index` (int32 `[B]`) and `mask`.
            key: the key of the epoch in training; None in evaluation.
        """
        if key is None:
            return dict(batch)
        image = batch["image"]
        coins, shares, places = jax.random.split(jax.random.fold_in(key, batch["index"][0]), 3)
        share = jax.random.beta(shares, self.alpha, self.alpha)
        share = jnp.where(jax.random.bernoulli(coins, self.probability), share, 1.0)
        mask = jnp.asarray(batch.get("mask", jnp.ones(len(image), bool)))
        can_mix = mask & jnp.roll(mask, -1)
        own, share = self.own_pixels(share, image.shape[1:3], places)
        own = jnp.where(can_mix[:, None, None, None], own, 1.0)
        label = self._soft(batch["label"])
        shape = (-1,) + (1,) * (label.ndim - 1)
        weights = jnp.where(can_mix, share, 1.0)
        mixed = {**batch, "image": _mixed(image, own)}
        if getattr(batch.get("weight"), "ndim", None) != 1:
            return {**mixed, "label": _mixed(label, weights.reshape(shape))}
        given = jnp.asarray(batch["weight"], jnp.float32)
        total = _mixed(given, weights)
        kept = jnp.where(total > 0, weights * given / jnp.where(total > 0, total, 1), weights)
        return {**mixed, "label": _mixed(label, kept.reshape(shape)), "weight": total}

    def own_pixels(
        self, share: jax.Array, sides: tuple[int, int], key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the weights of the pixels of an image in its mixture, and that of its label.

        Args:
            share: the drawn share of an example in its mixture, float32 `[]`.
            sides: height and width of the images.
            key: the key of the batch.

        Returns:
            The weights of the pixels, which broadcast to `[1, H, W, 1]`, and the weight of the
            label, `[]`.
        """
        raise TypeError(f"{type(self).__name__} must override `own_pixels`.")

    def with_num_classes(self, num_classes: int | None) -> Self:
        """Returns this augmentation for data with `num_classes`, unless it has its own number."""
        if self.num_classes is not None:
            return self
        return dataclasses.replace(self, num_classes=num_classes)

    def check(self, spec: Mapping[str, Any]) -> None:
        """Checks the shapes of one example.

        Raises:
            ValueError: there is no image or label, or `num_classes` is not known.
        """
        super().check(spec)
        name = type(self).__name__
        label: Any = spec.get("label")
        if label is None and "label" not in spec:
            raise ValueError(f"`transform`: {name} mixes `label`, but the keys are {sorted(spec)}.")
        is_float = hasattr(label, "dtype") and jnp.issubdtype(label.dtype, jnp.floating)
        if is_float and len(label.shape) <= 1:
            return
        if is_float or not hasattr(label, "shape") or label.shape:
            raise ValueError(
                f"`transform`: {name} mixes integer labels, and rows of floating-point labels, but "
                f"`label` is {getattr(label, 'dtype', '')}{list(getattr(label, 'shape', ()))} per "
                "example. Convert labels of several integers to float32."
            )
        if self.num_classes is None:
            raise ValueError(
                f"`transform`: {name} turns integer labels into rows of probabilities, but the "
                f"data do not show how many classes there are. Pass {name}(num_classes=...)."
            )

    def _soft(self, values: Any) -> jax.Array:
        label: jax.Array = jnp.asarray(values)
        if jnp.issubdtype(label.dtype, jnp.floating):
            return label.astype(jnp.float32)
        assert self.num_classes is not None, "checked by `check`"
        rows: jax.Array = jax.nn.one_hot(label, self.num_classes)
        return rows


def _mixed(values: jax.Array, own: jax.Array) -> jax.Array:
    """Mixes each row with the next one; a weight of 1 keeps a row even if the next one is NaN."""
    others = jnp.roll(values, -1, axis=0)
    mixed = own * values + (1 - own) * others
    return jnp.where(own == 1, values, mixed).astype(values.dtype)


@dataclass(frozen=True)
class MixUp(Mixing):
    """Replaces each example with a weighted mean of itself and another one from its batch.

    The weight is the same for all examples of a batch, as in timm and torchvision. See `Mixing`
    for partners and labels. Training accuracy counts the label of the larger weight as correct.

    Args:
        alpha: both parameters of the beta distribution of the weight, greater than 0 (default
            0.2).
        probability: the probability that a batch is mixed, in [0, 1] (default 1).
        num_classes: the number of classes of integer labels (default: that of the data).

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument is not a number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.augmentation import MixUp
        >>> image = jnp.arange(2.0)[:, None, None, None]
        >>> batch = {"image": image, "label": jnp.arange(2), "index": jnp.arange(2)}
        >>> mixed = MixUp(num_classes=2)(batch, jax.random.key(0))
        >>> bool(jnp.allclose(mixed["image"].ravel(), mixed["label"][:, 1]))
        True

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017
    (https://arxiv.org/abs/1710.09412).
    """

    alpha: float = 0.2

    def own_pixels(
        self, share: jax.Array, sides: tuple[int, int], key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the share as the weight of all pixels and of the label."""
        return share[None, None, None, None], share


@dataclass(frozen=True)
class CutMix(Mixing):
    """Replaces a rectangle of each image with that of another image from its batch.

    The rectangle is the same for all examples of a batch. Labels are mixed in proportion to its
    area inside the image. See `Mixing` for partners and labels. Training accuracy counts the label
    of the larger weight as correct.

    Args:
        alpha: both parameters of the beta distribution of the area that is kept, greater than 0
            (default 1).
        probability: the probability that a batch is mixed, in [0, 1] (default 1).
        num_classes: the number of classes of integer labels (default: that of the data).

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument is not a number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.augmentation import CutMix
        >>> image = jnp.ones((2, 8, 8, 1)) * jnp.arange(2.0)[:, None, None, None]
        >>> batch = {"image": image, "label": jnp.arange(2), "index": jnp.arange(2)}
        >>> mixed = CutMix(num_classes=2)(batch, jax.random.key(0))
        >>> bool(jnp.allclose(mixed["image"].mean(axis=(1, 2, 3)), mixed["label"][:, 1]))
        True

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", 2019 (https://arxiv.org/abs/1905.04899), section 3.
    """

    def own_pixels(
        self, share: jax.Array, sides: tuple[int, int], key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns 0 inside a rectangle and 1 outside, and the fraction of the pixels outside."""
        half = 0.5 * jnp.sqrt(1 - share)
        inside = []
        for side, each in zip(sides, jax.random.split(key), strict=True):
            centre = jax.random.randint(each, (), 0, side)
            reach = (half * side).astype(jnp.int32)
            places = jnp.arange(side)
            inside.append((places >= centre - reach) & (places < centre + reach))
        own = 1.0 - (inside[0][:, None] & inside[1]).astype(jnp.float32)
        return own[None, :, :, None], own.mean()


@dataclass(frozen=True)
class MixUpOrCutMix(Augmentation):
    """Applies `MixUp` or `CutMix` to each batch.

    Args:
        mixup: the mixup to apply (default `MixUp()`).
        cutmix: the CutMix to apply (default `CutMix()`).
        cutmix_probability: the probability of CutMix, in [0, 1] (default 0.5, as in timm).

    Raises:
        ValueError: `cutmix_probability` is outside [0, 1].
        TypeError: `cutmix_probability` is not a number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.augmentation import MixUpOrCutMix
        >>> image = jnp.ones((2, 8, 8, 1)) * jnp.arange(2.0)[:, None, None, None]
        >>> batch = {"image": image, "label": jnp.arange(2), "index": jnp.arange(2)}
        >>> both = MixUpOrCutMix().with_num_classes(2)
        >>> both(batch, jax.random.key(0))["label"].shape
        (2, 2)
    """

    mixup: MixUp = MixUp()  # frozen
    cutmix: CutMix = CutMix()
    cutmix_probability: float = 0.5
    moves_pixels: ClassVar[bool] = True
    ranges: ClassVar = {"cutmix_probability": (0, 1)}

    def __call__(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Batch:
        """Returns the batch mixed by one of the two; unchanged in evaluation."""
        if key is None:
            return dict(batch)
        # The key of a batch is not that of its mixing, which folds the same index.
        coins, rest = jax.random.split(key)
        coin = jax.random.fold_in(coins, batch["index"][0])
        is_cut = jax.random.bernoulli(coin, self.cutmix_probability)
        both = self.mixup(batch, rest), self.cutmix(batch, rest)
        return {
            name: jnp.where(is_cut, both[1][name], value)
            if name in ("image", "label", "weight")
            else value
            for name, value in both[0].items()
        }

    def with_num_classes(self, num_classes: int | None) -> MixUpOrCutMix:
        """Returns this augmentation for data with `num_classes`; see `Mixing.with_num_classes`."""
        return dataclasses.replace(
            self,
            mixup=self.mixup.with_num_classes(num_classes),
            cutmix=self.cutmix.with_num_classes(num_classes),
        )

    def check(self, spec: Mapping[str, Any]) -> None:
        """Checks the shapes of one example; see `Mixing.check`."""
        self.mixup.check(spec)
        self.cutmix.check(spec)
