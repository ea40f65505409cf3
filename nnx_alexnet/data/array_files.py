"""Loads datasets that are arrays in files: `load_data("npz:PATH")`."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnx_alexnet.data.column_splits import SPLIT_NAMES, array_splits, new_names
from nnx_alexnet.data.dataset_splits import DatasetRequest, Splits

Arrays = dict[str, np.ndarray]

# The names of arrays in files of Keras and of MedMNIST.
_KERAS = re.compile(r"(?P<key>[xy])_(?P<split>train|val|valid|test)")
_MEDMNIST = re.compile(r"(?P<split>train|val|test)_(?P<key>images|labels)")
_KEYS = {"x": "image", "images": "image", "y": "label", "labels": "label"}


def array_files(request: DatasetRequest) -> Splits:
    """Returns the arrays of an `.npz` file, or of a folder of memory-mapped `.npy` files.

    Args:
        request: its `path` is the file or folder. Arrays are named `train/KEY`, `val/KEY` and
            `test/KEY`; or as Keras does, `x_train`, `y_train`, `x_test`, `y_test`; or as MedMNIST
            does, `train_images`, `train_labels`, and so on. If the names have none of these forms,
            all arrays are columns of train.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the file is not an `.npz` file, it contains Python objects, or there are no
            training arrays.
    """
    path = Path(os.path.expanduser(request.path))  # noqa: PTH111  # works without a home
    if path.is_dir():
        splits = _by_split(_read_folder(path))
    elif path.is_file():
        splits = _by_split(_read_file(path))
    else:
        raise FileNotFoundError(
            f"There is no file or folder {str(path)!r}. `name` is npz:PATH, where PATH is an .npz "
            "file, or a folder with train/KEY.npy and optionally val/KEY.npy and test/KEY.npy."
        )
    if "train" not in splits:
        raise ValueError(
            f"{str(path)!r} has no training arrays, only the splits {sorted(splits)}. Name them "
            "train/KEY."
        )
    names = new_names(splits["train"], request)
    return array_splits(
        {split: _renamed(arrays, names, path, split) for split, arrays in splits.items()}, request
    )


def _renamed(arrays: Arrays, names: Mapping[str, str], path: Path, split: str) -> Arrays:
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(
            f"The split {split!r} of {str(path)!r} has no array {missing[0]!r}, which train has."
        )
    found = {new: arrays[name] for name, new in names.items()}
    image = found.get("image")
    if image is not None and image.dtype == np.uint8 and image.ndim == 3:
        found["image"] = image[..., None]  # grey images without an axis of channels
    return found


def _read_file(path: Path) -> Arrays:
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as an .npz file: {error}.") from error
    if isinstance(archive, np.ndarray):
        raise ValueError(
            f"{str(path)!r} contains a single array. np.savez(path, image=..., label=...) writes "
            "several with their names."
        )
    with archive:
        return {name: _checked(archive, name, path) for name in archive.files}


def _checked(archive: Mapping[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:
        raise ValueError(
            f"The array {name!r} in {str(path)!r} contains Python objects, which would have to be "
            "unpickled. Save arrays of numbers."
        ) from error


def _read_folder(path: Path) -> Arrays:
    """Maps the files of each split into memory."""
    found = {}
    for folder in sorted(each for each in path.iterdir() if each.name in SPLIT_NAMES):
        for file in sorted(folder.glob("*.npy")):
            name = f"{folder.name}/{file.stem}"
            try:
                found[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise ValueError(
                    f"{str(file)!r} cannot be mapped into memory as an array of numbers: {error}."
                ) from error
    if not found:
        raise FileNotFoundError(
            f"The folder {str(path)!r} has no file train/KEY.npy, such as train/image.npy."
        )
    return found


def _by_split(arrays: Arrays) -> dict[str, Arrays]:
    """Returns the arrays of each split, by their keys in a batch."""
    splits: defaultdict[str, Arrays] = defaultdict(dict)
    is_prefixed = any(name.partition("/")[0] in SPLIT_NAMES and "/" in name for name in arrays)
    for pattern in (_KERAS, _MEDMNIST):
        matches = {name: pattern.fullmatch(name) for name in arrays}
        if not is_prefixed and arrays and all(matches.values()):
            for name, match in matches.items():
                assert match is not None
                key = _KEYS[match["key"]]
                splits[SPLIT_NAMES[match["split"]]][key] = _plain_labels(arrays[name], key)
            return splits
    for name, array in arrays.items():
        split, separator, key = name.partition("/")
        if not is_prefixed:
            splits["train"][name] = array
        elif separator and split in SPLIT_NAMES:
            splits[SPLIT_NAMES[split]][key] = array
    return splits


def _plain_labels(array: np.ndarray, key: str) -> np.ndarray:
    """Returns classes `[N, 1]`, as Keras and MedMNIST store them, as `[N]`."""
    is_column = key == "label" and array.ndim == 2 and array.shape[1] == 1
    return array[:, 0] if is_column and array.dtype.kind in "iu" else array
