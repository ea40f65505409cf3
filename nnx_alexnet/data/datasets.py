"""The datasets that `load_data` knows by name.

To add one, write a factory in this module and give it a line in `DATASETS`. A factory receives a
`DatasetRequest` and returns `Splits`. `splits_in_memory` makes them from arrays, and holds out the
validation split; `image_folder.py` shows how files are read on demand. Import large libraries
inside the factory, and raise a `FileNotFoundError` that tells where missing files belong. The
command line and the checks of `load_data` find the name in the registry. Add the name to the
docstring of `load_data`, which is also the help of the command line; a dataset of image files
belongs in `READ_FROM_FILES` too. Factories in `BY_PATH` receive names of the form "npz:PATH".

Example:
    >>> import numpy as np
    >>> from nnx_alexnet.data import DATASETS, load_data
    >>> from nnx_alexnet.data.dataset_splits import DatasetRequest, Splits, splits_in_memory
    >>> def halves(request: DatasetRequest) -> Splits:
    ...     images = np.zeros((50, 8, 8, 1), np.uint8)
    ...     images[::2, :4] = 255  # every second one is white above
    ...     labels = np.arange(50) % 2
    ...     return splits_in_memory(
    ...         (images[:40], labels[:40]),
    ...         (images[40:], labels[40:]),
    ...         seed=request.seed,
    ...         class_names=("above", "nothing"),
    ...         translate=0.0,
    ...         flip=True,
    ...     )
    >>> DATASETS["halves"] = halves
    >>> data = load_data("halves", image_size=8, batch_size=4)
    >>> [split.num_examples for split in (data.train, data.val, data.test)]
    [36, 4, 10]
    >>> data.num_classes, data.image_shape, data.transform.mean
    (2, (8, 8, 1), (0.25,))
    >>> del DATASETS["halves"]
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nnx_alexnet.data.archives import decompress, safe_extraction
from nnx_alexnet.data.array_files import array_files
from nnx_alexnet.data.cache_folders import Cache, cache_place
from nnx_alexnet.data.data_module import DataModule
from nnx_alexnet.data.dataset_splits import DatasetRequest, Splits, held_out, splits_in_memory
from nnx_alexnet.data.hugging_face_splits import hugging_face
from nnx_alexnet.data.image_folder import image_folder, imagenet
from nnx_alexnet.data.map_source import OnBadSample
from nnx_alexnet.data.named_augmentations import check_names, named_transforms
from nnx_alexnet.data.resident_data import KeepOnDevice
from nnx_alexnet.data.transform import ImageTransform
from nnx_alexnet.support import as_python, check_bools, check_integer, unknown

_DIGITS = tuple("0123456789")


def load_data(
    name: str = "digits",
    *,
    image_size: int = 96,
    batch_size: int = 64,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    augment: bool = True,
    augmentations: Mapping[str, Any] | None = None,
    num_workers: int | None = None,
    download: bool = False,
    drop_last: bool = True,
    on_bad_sample: OnBadSample = "raise",
    keep_on_device: KeepOnDevice = "auto",
    columns: list[str] | None = None,
    rename: dict[str, str] | None = None,
    pad_to: Mapping[str, int | Sequence[int]] | None = None,
    pad_values: Mapping[str, float] | None = None,
    cache: Cache = False,
) -> DataModule:
    """Loads a dataset by name, split into train, validation and test.

    The validation split is the dataset's own. If it has none, 10% of the training data are held
    out, drawn with `seed` in equal parts of each class. Images are standardised with the mean and
    standard deviation of the training split.

    Args:
        name: one of `DATASETS`: "digits" (1,797 real images in scikit-learn), torchvision's
            "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn" and "stl10",
            "imagenet", or "folder" (one folder per class in `root`/train, and optionally in
            `root`/val and `root`/test). "hf:PATH" and "hf:NAME" are datasets of Hugging Face: a
            folder written by `save_to_disk`, a folder or file of CSV, JSON or Parquet, or a name
            on the Hub. "npz:PATH" is an .npz file of arrays `train/KEY`, `val/KEY` and `test/KEY`,
            or a folder of such .npy files.
        image_size: side of the model's input in pixels.
        batch_size: examples per step.
        root: where the files are: the folder that torchvision calls `root`; for "folder" and
            "imagenet" the one that contains train/. Default: ~/.cache/nnx_alexnet/data.
        seed: determines which examples are held out for validation, and nothing else.
        augment: whether training images are translated, and mirrored where that keeps the class.
        augmentations: more augmentation of the training images, by name: "resized_crop",
            "trivial_augment", "color_jitter", "lighting", "erasing", "mixup" and "cutmix", such as
            {"mixup": 0.2}; the README of `nnx_alexnet.data` describes them. "flip" and "translate"
            replace the values of the dataset, and "ten_crops" evaluates ten views of each image.
        num_workers: processes per split that decode the files of "folder" and "imagenet";
            default: one per CPU, at most 8. The other datasets are in memory and need none.
        download: whether missing files may be downloaded, and archives in `root` unpacked.
        drop_last: whether an incomplete last training batch is left out.
        on_bad_sample: how a damaged example is handled: `"raise"` or `"skip"`, see `DataModule`.
        keep_on_device: whether the training examples stay in the device's memory, see
            `DataModule`. Those of "folder" and "imagenet" need a `cache`.
        columns: the columns of "hf:" and "npz:" to use (default: all).
        rename: new names of these columns, such as {"img": "image"}. The key `image` is for images.
        pad_to: the lengths to which the sequences of "hf:" are padded, by their new names, see
            `DataModule`.
        pad_values: the values that are added (default 0), see `DataModule`.
        cache: whether to keep decoded files of "folder" and "imagenet", and rows of "hf:" that are
            read on demand, on the disk, or the folder in which to keep them; see `DataModule`.

    Returns:
        The splits, with `class_names`, and a `transform` to `image_size` if there are images.

    Raises:
        ValueError: the name is unknown, or an image file is damaged.
        FileNotFoundError: files are missing; the message tells where they belong.

    Example:
        >>> from nnx_alexnet.data import load_data
        >>> data = load_data("digits", image_size=32, batch_size=64)
        >>> data.image_shape, data.train.num_examples, data.val.num_examples
        ((32, 32, 1), 1293, 144)
    """
    factory = _factory(name)
    check_bools(augment=augment, download=download)
    check_integer("seed", as_python(seed), minimum=0)
    check_integer("image_size", as_python(image_size))
    _check_columns(name, columns, rename, root)
    given = "~/.cache/nnx_alexnet/data" if root is None else root
    request = DatasetRequest(
        name=name,
        root=Path(os.path.expanduser(given)),  # noqa: PTH111  # works without a home
        image_size=image_size,
        seed=seed,
        augment=augment,
        download=download,
        on_bad_sample=on_bad_sample,
        columns=None if columns is None else tuple(columns),
        rename=rename or {},
        is_padded=bool(pad_to),
        cache=cache_place(cache),
    )
    with safe_extraction():
        splits = factory(request)
    return DataModule(
        splits.train,
        splits.val,
        splits.test,
        pad_to=pad_to,
        pad_values=pad_values,
        batch_size=batch_size,
        transform=_transform(splits, image_size, augment=augment, wanted=augmentations),
        drop_last=drop_last,
        num_workers=splits.num_workers if num_workers is None else num_workers,
        on_bad_sample=on_bad_sample,
        keep_on_device=keep_on_device,
        class_names=splits.class_names,
        name=name,
        cache=False if name in READ_FROM_FILES else cache,  # their factory has opened the cache
    )


def _factory(name: str) -> Callable[[DatasetRequest], Splits]:
    prefix, colon, rest = name.partition(":")
    if colon and rest and prefix in BY_PATH:
        return BY_PATH[prefix]
    if name not in DATASETS:
        raise unknown("name", name, [*DATASETS, *(f"{prefix}:PATH" for prefix in BY_PATH)])
    return DATASETS[name]


def _check_columns(name: str, columns: object, rename: object, root: object) -> None:
    """Raises a `ValueError` for arguments that do not apply to a dataset."""
    if isinstance(columns, str):
        raise ValueError(
            f"`columns` (={columns!r}) must be a list of names, such as [{columns!r}]."
        )
    is_by_path = ":" in name
    for argument, value, applies in (
        ("columns", columns, is_by_path),
        ("rename", rename, is_by_path),
        ("root", root, not is_by_path),
    ):
        if value is not None and not applies:
            what = "which has its path in its name" if is_by_path else "which has fixed columns"
            raise ValueError(f"`{argument}` (={value!r}) does not apply to {name!r}, {what}.")


def _transform(
    splits: Splits, image_size: int, *, augment: bool, wanted: Mapping[str, Any] | None
) -> ImageTransform | list[Any] | None:
    check_names(wanted)
    if wanted and not augment:
        raise ValueError(
            f"`augmentations` (={wanted!r}) need `augment`, which is False. Leave one of them out."
        )
    if splits.mean is None or splits.std is None:
        if wanted:
            raise ValueError(f"`augmentations` (={wanted!r}) need images, and there are none.")
        return None
    transform = ImageTransform(
        image_size,
        mean=splits.mean,
        std=splits.std,
        crop=splits.crop,
        translate=splits.translate if augment else 0.0,
        flip=splits.flip and augment,
    )
    return named_transforms(transform, wanted) if wanted else transform


def _rows_of_digits() -> np.ndarray:
    """Returns 64 pixels and the class of each digit."""
    package = find_spec("sklearn")
    assert package is not None, "a dependency"
    assert package.origin is not None, "a folder with an `__init__.py`"
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz"
    if file.is_file():  # the import of scikit-learn would take longer than most preparations
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _digits(_: DatasetRequest) -> Splits:
    """Returns scikit-learn's 8x8 digits; they are so few that both held-out splits are fixed."""
    rows = _rows_of_digits()
    images = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = rows[:, 64].astype(np.int32)
    rest, test = held_out(labels, seed=0, num=360)
    return splits_in_memory(
        (images[rest], labels[rest]),
        (images[test], labels[test]),
        seed=0,
        class_names=_DIGITS,
        translate=0.08,
        flip=False,
    )


def _mnist_like(request: DatasetRequest, *, dataset: str, translate: float, flip: bool) -> Splits:
    decompress(request.root / dataset / "raw")
    needs = f"{dataset}/raw/ with train-images-idx3-ubyte[.gz] and its three companions"
    train, test = (_open(request, dataset, needs, train=is_train) for is_train in (True, False))
    return splits_in_memory(
        (train.data.numpy()[..., None], train.targets.numpy()),
        (test.data.numpy()[..., None], test.targets.numpy()),
        seed=request.seed,
        class_names=tuple(name.split(" - ")[0] for name in train.classes),
        translate=translate,
        flip=flip,
    )


def _cifar(request: DatasetRequest, *, dataset: str, needs: str) -> Splits:
    train, test = (_open(request, dataset, needs, train=is_train) for is_train in (True, False))
    return splits_in_memory(
        (train.data, np.array(train.targets)),
        (test.data, np.array(test.targets)),
        seed=request.seed,
        class_names=tuple(train.classes),
        translate=0.12,  # 4 of 32 pixels, as is common
        flip=True,
    )


def _nchw(
    request: DatasetRequest, *, dataset: str, needs: str, translate: float, flip: bool
) -> Splits:
    train, test = (_open(request, dataset, needs, split=split) for split in ("train", "test"))
    return splits_in_memory(
        (train.data.transpose(0, 2, 3, 1), train.labels),
        (test.data.transpose(0, 2, 3, 1), test.labels),
        seed=request.seed,
        class_names=tuple(getattr(train, "classes", _DIGITS)),
        translate=translate,
        flip=flip,
    )


_SVHN_FILES = "train_32x32.mat and test_32x32.mat"
_STL10_FILES = (
    "stl10_binary/ with train_X.bin, train_y.bin, test_X.bin, test_y.bin, unlabeled_X.bin"
)


DATASETS: dict[str, Callable[[DatasetRequest], Splits]] = {
    "digits": _digits,
    "mnist": partial(_mnist_like, dataset="MNIST", translate=0.08, flip=False),
    "fashion_mnist": partial(_mnist_like, dataset="FashionMNIST", translate=0.08, flip=True),
    "kmnist": partial(_mnist_like, dataset="KMNIST", translate=0.08, flip=False),
    "cifar10": partial(_cifar, dataset="CIFAR10", needs="cifar-10-batches-py/"),
    "cifar100": partial(_cifar, dataset="CIFAR100", needs="cifar-100-python/"),
    # In SVHN, the next digit is close.
    "svhn": partial(_nchw, dataset="SVHN", needs=_SVHN_FILES, translate=0.06, flip=False),
    "stl10": partial(_nchw, dataset="STL10", needs=_STL10_FILES, translate=0.12, flip=True),
    "imagenet": imagenet,
    "folder": image_folder,
}
BY_PATH: dict[str, Callable[[DatasetRequest], Splits]] = {
    "hf": hugging_face,
    "npz": array_files,
}
READ_FROM_FILES = ("imagenet", "folder")  # image by image; a prediction from a file does the same


def _open(request: DatasetRequest, dataset: str, needs: str, **split: Any) -> Any:
    """Opens a torchvision dataset.

    Raises:
        FileNotFoundError: its files are missing or damaged, or could not be downloaded.
    """
    from torchvision import datasets

    try:
        return getattr(datasets, dataset)(request.root, download=request.download, **split)
    except (RuntimeError, OSError) as error:
        if request.download:
            tried = f"could not be downloaded ({error}). Try again, or get the files elsewhere"
        else:
            tried = "is missing or damaged. Pass download=True to download it, or get the files"
        raise FileNotFoundError(
            f"{request.name!r} in `root` (={str(request.root)!r}) {tried} and put them where "
            f"torchvision expects them: {request.root}/{needs}."
        ) from error
