"""The argument and the result of dataset factories, and the steps that they share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnx_alexnet.data.sources import ArraySource, OnBadSample


@dataclass(frozen=True)
class DatasetRequest:
    """The arguments of `load_data` that concern the factory.

    Attributes:
        name: the dataset's name in the registry.
        root: the folder of the files.
        image_size: side of the model's input in pixels.
        seed: determines which examples are held out for validation.
        augment: whether training images will be augmented.
        download: whether the user allows downloading and unpacking.
        on_bad_sample: how a damaged file is handled.
        columns: the columns to keep, by their own names; None keeps all of them.
        rename: new names of columns, by their own names.
        is_padded: whether sequences will be padded, so that they may differ in length.
        cache: the folder that contains the caches of decoded files; None for no cache.
    """

    name: str
    root: Path
    image_size: int
    seed: int
    augment: bool
    download: bool
    on_bad_sample: OnBadSample = "raise"
    columns: tuple[str, ...] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    is_padded: bool = False
    cache: Path | None = None

    @property
    def path(self) -> str:
        """The part of `name` after the colon, as in "npz:PATH"."""
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class Splits:
    """The splits of a dataset, and how its images are treated.

    Attributes:
        train: the examples to learn from.
        val: held out of the training data if the dataset has no validation data.
        test: never used to choose anything; None if the dataset has none.
        class_names: one per class; None if they are not known.
        mean: of each channel over the training images, on the scale of 0 to 1; None if there are
            no images.
        std: the standard deviation of each channel, on the same scale.
        translate: largest random translation, as a fraction of the side.
        flip: whether a mirrored image keeps its class.
        crop: side of the model's view, as a fraction of the stored image's side.
        num_workers: processes that read the files, unless the user gives another number.
    """

    train: Any
    val: Any
    test: Any
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    translate: float = 0.0
    flip: bool = False
    crop: float = 1.0
    num_workers: int = 0


def held_out(
    labels: np.ndarray, *, seed: int, num: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a part of the examples, with every class in the same proportion.

    Args:
        labels: the class of each example, int[N].
        seed: determines the draw.
        num: how many examples to hold out; default: 10%, and at least one of each class.

    Returns:
        The indices of the kept and of the held-out examples, both sorted.

    Raises:
        ValueError: a class has a single example.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.dataset_splits import held_out
        >>> kept, held = held_out(np.array([0] * 10 + [1] * 30), seed=0)
        >>> len(kept), sorted(np.array([0] * 10 + [1] * 30)[held].tolist())
        (36, [0, 1, 1, 1])
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            f"Class {classes[counts.argmin()]} has a single training example, so none can be held "
            "out for validation. Add a second one, or provide a validation split."
        )
    num = max(round(0.1 * len(labels)), len(classes)) if num is None else num
    return _stratified(labels, num, seed=seed)


def _stratified(labels: np.ndarray, num: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted indices of the kept examples and of `num` held-out ones.

    The draw is that of scikit-learn's `train_test_split(stratify=labels)`, whose import would take
    a fifth of the time until the first step of a small run.
    """
    random = np.random.RandomState(seed)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    num_kept = _shares(counts, len(labels) - num, random)
    num_held = _shares(counts - num_kept, num, random)
    kept, held = [], []
    for indices, first, second in zip(members, num_kept, num_held, strict=True):
        drawn = indices[random.permutation(len(indices))]
        kept.append(drawn[:first])
        held.append(drawn[first : first + second])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))


def _shares(counts: np.ndarray, num: int, random: np.random.RandomState) -> np.ndarray:
    """Divides `num` draws among classes in proportion to their counts.

    What remains after rounding down goes to the largest fractions; among equal ones, by lot.
    """
    exact = counts / counts.sum() * num
    shares = np.floor(exact)
    fractions = exact - shares
    rest = int(num - shares.sum())
    for fraction in np.unique(fractions)[::-1] if rest else ():
        (equal,) = np.where(fractions == fraction)
        chosen = random.choice(equal, size=min(len(equal), rest), replace=False)
        shares[chosen] += 1
        rest -= len(chosen)
        if not rest:
            break
    whole: np.ndarray = shares.astype(int)
    return whole


def held_out_rows(
    num: int, labels: np.ndarray | None, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out 10% of rows, with every class in the same proportion if there are classes.

    Args:
        num: how many rows there are.
        labels: the label of each row, or None. Integers are classes if each occurs at least twice
            and there are no more classes than rows to hold out.
        seed: determines the draw.

    Returns:
        The indices of the kept and of the held-out rows, both sorted.

    Raises:
        ValueError: there is a single row.

    Example:
        >>> from nnx_alexnet.data.dataset_splits import held_out_rows
        >>> [len(part) for part in held_out_rows(40, None, seed=0)]
        [36, 4]
    """
    if num < 2:
        raise ValueError(
            f"The training split has {num} rows, so none can be held out for validation. Add rows, "
            "or provide a validation split."
        )
    if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu":
        counts = np.unique(labels, return_counts=True)[1]
        if counts.min() > 1 and len(counts) <= round(0.1 * num):
            return held_out(labels, seed=seed)
    order = np.random.default_rng(seed).permutation(num)
    first = max(1, round(0.1 * num))
    return np.sort(order[first:]), np.sort(order[:first])


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the exact mean and standard deviation of each channel, on the scale of 0 to 1.

    Args:
        images: `[N, H, W, C]`. uint8 is scaled; values of other dtypes are not.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.dataset_splits import channel_statistics
        >>> channel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
        ((0.5,), (0.5,))
    """
    if images.dtype != np.uint8:
        centre = np.asarray(np.mean(images, axis=(0, 1, 2), dtype=np.float64))
        spread = np.asarray(np.std(images, axis=(0, 1, 2), dtype=np.float64))
        return tuple(centre.tolist()), tuple(np.where(spread > 0, spread, 1.0).tolist())
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        # In parts: bincount converts its input to int64, eight times the memory of uint8.
        for part in np.array_split(images[..., channel], max(1, images.size // 2**24)):
            counts += np.bincount(part.ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        stds.append(float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum())) or 1.0)
    return tuple(means), tuple(stds)


def splits_in_memory(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    seed: int,
    class_names: tuple[str, ...],
    translate: float,
    flip: bool,
) -> Splits:
    """Returns the splits of a dataset in memory, with 10% of the training data as validation.

    Args:
        train: uint8 images `[N, H, W, C]`, and the class of each, int[N].
        test: images and classes for the final evaluation.
        seed: determines which examples are held out.
        class_names: see `Splits`.
        translate: see `Splits`.
        flip: see `Splits`.

    Raises:
        ValueError: a class has a single training example.
    """
    images, labels = train
    kept, held = held_out(labels, seed=seed)
    train_images = np.ascontiguousarray(images[kept])
    mean, std = channel_statistics(train_images)

    def source(images: np.ndarray, labels: np.ndarray, argument: str) -> ArraySource:
        fields = {"image": np.ascontiguousarray(images), "label": labels.astype(np.int32)}
        return ArraySource(fields, argument=argument)

    return Splits(
        train=source(train_images, labels[kept], "train"),
        val=source(images[held], labels[held], "val"),
        test=source(*test, "test"),
        class_names=class_names,
        mean=mean,
        std=std,
        translate=translate,
        flip=flip,
    )
