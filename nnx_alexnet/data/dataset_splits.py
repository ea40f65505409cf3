"""What a dataset's factory is asked for and gives, and what factories share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnx_alexnet.data.sources import OnBadSample, Source


@dataclass(frozen=True)
class Request:
    """What `load_data` was asked for, as far as it concerns the factory.

    Attributes:
        name: the dataset's name in the registry.
        root: the folder of the files.
        image_size: side of the model's input in pixels.
        seed: what the validation split is drawn with.
        augment: whether training images will be augmented.
        download: whether the user allows to download and unpack.
        on_bad_sample: what a damaged file does.
    """

    name: str
    root: Path
    image_size: int
    seed: int
    augment: bool
    download: bool
    on_bad_sample: OnBadSample = "raise"


@dataclass(frozen=True)
class Splits:
    """A dataset, split, and how its images are treated.

    Attributes:
        train: the examples to learn from.
        val: held out of the training data wherever the dataset has no validation data.
        test: never used to choose anything; None if the dataset has none.
        class_names: one for each class.
        mean: of each channel over the training images, on the scale of 0 to 1.
        std: likewise.
        translate: largest random translation, a fraction of the side.
        flip: whether a mirrored image keeps its class.
        crop: side of the model's view, a fraction of the stored image's side.
        num_workers: processes that read the files, where the user does not say.
    """

    train: Source
    val: Source
    test: Source | None
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    translate: float
    flip: bool
    crop: float = 1.0
    num_workers: int = 0


def held_out(
    labels: np.ndarray, *, seed: int, num: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a part of the examples, with every class in the same proportion.

    Args:
        labels: the class of each example, int[N].
        seed: what the draw depends on.
        num: how many examples to hold out; by default 10%, and one of each class at least.

    Returns:
        The indices of the kept and of the held out examples, both sorted.

    Raises:
        ValueError: a class has a single example.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.dataset_splits import held_out
        >>> kept, held = held_out(np.array([0] * 10 + [1] * 30), seed=0)
        >>> len(kept), sorted(np.array([0] * 10 + [1] * 30)[held].tolist())
        (36, [0, 1, 1, 1])
    """
    from sklearn.model_selection import train_test_split

    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            f"Class {classes[counts.argmin()]} has a single training example, so that none can "
            "be held out for validation; two is the least, or give a validation split."
        )
    num = max(round(0.1 * len(labels)), len(classes)) if num is None else num
    kept, held = train_test_split(
        np.arange(len(labels)), test_size=num, stratify=labels, random_state=seed
    )
    return np.sort(kept), np.sort(held)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the exact mean and standard deviation of each channel, on the scale of 0 to 1.

    Args:
        images: uint8 `[N, H, W, C]`.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.dataset_splits import channel_statistics
        >>> channel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
        ((0.5,), (0.5,))
    """
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        # In parts: bincount turns its input into int64, eight times the memory of uint8.
        for part in np.array_split(images[..., channel], max(1, images.size // 2**24)):
            counts += np.bincount(part.ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        stds.append(float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum())) or 1.0)
    return tuple(means), tuple(stds)
