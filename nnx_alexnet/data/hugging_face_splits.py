"""Loads datasets of Hugging Face by path or name: `load_data("hf:...")`."""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.column_splits import (
    SPLIT_NAMES,
    TRANSLATE,
    array_splits,
    new_names,
    statistics,
)
from nnx_alexnet.data.dataset_splits import DatasetRequest, Splits, held_out_rows
from nnx_alexnet.data.examples import evenly_spaced
from nnx_alexnet.data.hugging_face import HuggingFaceRows, ImageSizesDifferError
from nnx_alexnet.data.hugging_face_features import check_columns, unusable_columns
from nnx_alexnet.data.image_decoding import default_workers, resized_side, square_pixels
from nnx_alexnet.support import logger

# Datasets whose splits need no more in total, with images decoded, are read into memory at once.
_MOST_BYTES = 2 * 2**30
_SAMPLED_IMAGES = 256
_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_SAVED = ("dataset_dict.json", "state.json")  # written by `save_to_disk`


def hugging_face(request: DatasetRequest) -> Splits:
    """Returns a dataset of the library `datasets`, with its columns as the keys of a batch.

    Datasets of up to 2 GB whose images have one size are read into memory, unless sequences are
    padded. The rows of others are read on demand, and their images become squares, as image files
    do in `image_folder`.

    Args:
        request: its `path` is a folder written by `save_to_disk`; another folder or file of CSV,
            JSON or Parquet; or a name on the Hugging Face Hub, optionally with a configuration:
            `owner/name/configuration`.

    Raises:
        FileNotFoundError: the dataset is not there, and may not be downloaded.
        ValueError: there is no training split, or a column contains neither numbers nor images.
    """
    splits = _used_columns(_named_splits(_opened(request), request), request)
    if "test" in splits and _is_unlabelled(splits["test"]):
        logger.info("The test split of %s has no labels and is not used.", request.name)
        del splits["test"]
    train = HuggingFaceRows(splits["train"], "train")
    if "val" not in splits:
        kept, held = held_out_rows(len(train), train.targets, seed=request.seed)
        whole = splits["train"]
        splits |= {"train": whole.select(kept), "val": whole.select(held)}
    arrays = None if request.is_padded else _arrays(splits, train.modes)
    if arrays is None:
        found = _read_on_demand(splits, train.modes, request)
    else:
        found = array_splits(arrays, request)
    return dataclasses.replace(found, class_names=train.class_names)


def _opened(request: DatasetRequest) -> Any:
    """Returns what the library `datasets` finds: a `Dataset` or a `DatasetDict`."""
    datasets = _library(request)
    path = Path(os.path.expanduser(request.path))  # noqa: PTH111  # works without a home
    try:
        if path.is_dir():
            if any((path / name).is_file() for name in _SAVED):
                return datasets.load_from_disk(str(path))
            return datasets.load_dataset(str(path))
        if path.suffix.lower() in _FORMATS and path.is_file():
            kind = _FORMATS[path.suffix.lower()]
            return datasets.load_dataset(kind, data_files=str(path))
        if request.download:
            parts = request.path.split("/")
            return datasets.load_dataset("/".join(parts[:2]), *parts[2:])
    except Exception as error:  # the library raises many types
        text = " ".join(str(error).split())
        raise ValueError(
            f"`name` (={request.name!r}) cannot be loaded by the library datasets: "
            f"{type(error).__name__}: {text}"
        ) from error
    raise FileNotFoundError(
        f"`name` (={request.name!r}): there is no folder {request.path!r} and no such file of the "
        f"types {', '.join(_FORMATS)}. If it is a name on the Hugging Face Hub, pass "
        "download=True; files that were downloaded before are used again."
    )


def _library(request: DatasetRequest) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"`name` (={request.name!r}) needs the library datasets: pip install datasets."
        ) from error
    return datasets


def _named_splits(opened: Any, request: DatasetRequest) -> dict[str, Any]:
    """Returns the splits by the arguments of `DataModule` that they belong to."""
    if not isinstance(opened, Mapping):
        return {"train": opened}
    found = {SPLIT_NAMES[name]: split for name, split in opened.items() if name in SPLIT_NAMES}
    if "train" not in found:
        raise ValueError(
            f"`name` (={request.name!r}) has the splits {list(opened)}; it needs a split 'train'."
        )
    unused = [name for name in opened if name not in SPLIT_NAMES]
    if unused:
        logger.info("Splits of %s that are not used: %s", request.name, ", ".join(unused))
    return found


def _used_columns(splits: Mapping[str, Any], request: DatasetRequest) -> dict[str, Any]:
    """Returns the splits with the columns that `columns` and `rename` determine."""
    names = new_names(splits["train"].column_names, request)
    found = {}
    for split, dataset in splits.items():
        missing = [name for name in names if name not in dataset.column_names]
        if missing:
            raise ValueError(f"The split {split!r} has no column {missing[0]!r}, which train has.")
        selected = dataset.select_columns(list(names))
        changed = {name: new for name, new in names.items() if name != new}
        found[split] = selected.rename_columns(changed) if changed else selected
    features = splits["train"].select_columns(list(names)).features
    usable = [name for name in names if name not in unusable_columns(features)]
    check_columns(features, "train", f"columns={usable} in load_data")
    return found


def _is_unlabelled(dataset: Any) -> bool:
    """Returns whether all labels are -1, as in benchmarks that keep them secret."""
    labels = HuggingFaceRows(dataset, "test").targets
    return labels is not None and len(labels) > 0 and bool((labels == -1).all())


def _arrays(
    splits: Mapping[str, Any], modes: Mapping[str, str]
) -> dict[str, dict[str, Any]] | None:
    """Returns all splits as arrays; None if they are too large, or images differ in size."""
    rows = [HuggingFaceRows(split, name, modes=modes) for name, split in splits.items()]
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(each[0])) * len(each) for each in rows]
    if sum(sizes) > _MOST_BYTES:
        return None
    try:
        arrays = {name: each.columns() for name, each in zip(splits, rows, strict=True)}
    except ImageSizesDifferError:
        return None
    shapes = {arrays[split][image].shape[1:] for split in arrays for image in modes}
    return arrays if len(shapes) <= len(modes) else None


def _read_on_demand(
    splits: Mapping[str, Any], modes: Mapping[str, str], request: DatasetRequest
) -> Splits:
    """Returns splits whose rows are read when they are used, with images as squares."""
    if "label" in modes:
        raise ValueError(
            f"`name` (={request.name!r}) has images in `label`, which would be resized as if they "
            "were pictures. Resize image and label in the dataset, and pass it to DataModule with "
            'transform=ImageTransform(..., masks=("label",)).'
        )
    side = resized_side(request.image_size) if request.augment else request.image_size
    rows = {
        name: HuggingFaceRows(split, name, fit=partial(square_pixels, side=side), modes=modes)
        for name, split in splits.items()
    }
    mean = std = None
    if "image" in modes:
        sample = evenly_spaced(len(rows["train"]), _SAMPLED_IMAGES).tolist()
        mean, std = statistics(np.stack([rows["train"][index]["image"] for index in sample]))
    return Splits(
        train=rows["train"],
        val=rows["val"],
        test=rows.get("test"),
        mean=mean,
        std=std,
        translate=TRANSLATE,
        crop=request.image_size / side if "image" in modes else 1.0,
        num_workers=default_workers() if modes else 0,
    )
