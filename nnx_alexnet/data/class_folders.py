"""Finds splits and classes as folders, `root`/<split>/<class>/<image>, and reports unused files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnx_alexnet.data.image_files import IMAGE_SUFFIXES, find_files, is_hidden
from nnx_alexnet.support import format_count, logger

_VALIDATION = ("val", "valid", "validation")
_MAX_SHOWN = 8  # names in a message


def find_splits(root: Path, splits: Sequence[str]) -> dict[str, str]:
    """Returns the name of the folder of each split that exists, and reports other folders.

    Args:
        root: the folder that contains them; it need not exist.
        splits: some of "train", "val" and "test". The folder of "val" may also be called valid/
            or validation/.

    Raises:
        ValueError: there are several folders for one split.
    """
    folders = _folders(root) if root.is_dir() else []
    found = {split: split for split in splits if split in folders}
    if "val" in splits:
        names = [name for name in _VALIDATION if name in folders]
        if len(names) > 1:
            raise ValueError(
                f"`root` (={str(root)!r}) has the folders {_shown(names)}, but only one can be "
                "the validation split. Keep one of them, or rename the other, for instance to "
                "test/."
            )
        if names:
            found["val"] = names[0]
    others = [name for name in folders if name not in found.values()]
    if "train" in found and others:
        logger.warning(
            "`root` (=%r): the folders %s are not used; splits are %s.",
            str(root), _shown(others), ", ".join(f"{split}/" for split in splits),
        )  # fmt: skip
    return found


def class_folders(root: Path, split: str) -> tuple[str, ...]:
    """Returns the sorted names of the folders of a split, which are its classes.

    Raises:
        ValueError: there are none.
    """
    folder = root / split
    classes = _folders(folder)
    loose = _loose_images(folder)
    if not classes:
        what = format_count(len(loose), "image") if loose else "nothing"
        held_out = " Without this folder, 10% of train/ are held out."
        raise ValueError(
            f"`root` (={str(root)!r}): {split}/ contains {what}, but no class folders. Put each "
            f"image into a folder with the name of its class: {split}/<class>/<image>.jpg."
            f"{'' if split == 'train' else held_out}"
        )
    if loose:
        logger.warning(
            "`root` (=%r): %s/ has %s outside of class folders (%s), which are not used.",
            str(root), split, format_count(len(loose), "image"), _shown(loose),
        )  # fmt: skip
    return classes


def is_unlabelled(root: Path, split: str, classes: Sequence[str]) -> bool:
    """Returns whether a folder has no classes, like the test images of a contest, and reports it.

    Args:
        root: the folder of the splits.
        split: the name of the folder, usually "test".
        classes: those of training. A single folder with another name is not a class.
    """
    folder = root / split
    names = _folders(folder)
    if len(names) > 1 or any(name in classes for name in names):
        return False
    num = len(find_files(folder).images)
    logger.warning(
        "`root` (=%r): %s/ contains %s outside of class folders, so there is no test split.%s",
        str(root), split, format_count(num, "image"),
        " `nnx-alexnet predict RUN FOLDER` predicts the classes of such images." if num else "",
    )  # fmt: skip
    return True


def list_images(root: Path, split: str, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Lists the images of a split by class, and reports files that are left out.

    Args:
        root: the folder of the splits.
        split: the name of the folder.
        classes: those of training, in order.

    Returns:
        The paths, relative to the folder of the split, and the class of each, int32[N].

    Raises:
        ValueError: there is a folder of another class, no image, or a class without images in
            train/.
    """
    folder = root / split
    where = f"`root` (={str(root)!r}): {split}/"
    own = classes if split == "train" else class_folders(root, split)
    if extra := sorted({*own} - {*classes}):
        raise ValueError(f"{where} has classes that train/ does not have: {_shown(extra)}.")
    paths: list[str] = []
    counts = []
    others: list[str] = []
    for name in classes:
        found = find_files(folder / name) if name in own else None
        images = [] if found is None else found.images
        others += [] if found is None else found.others
        counts.append(len(images))
        paths += images
    suffixes = f"Images end in {', '.join(IMAGE_SUFFIXES)}."
    if others:
        logger.warning("%s", f"{where} has {_left_out(others)}. {suffixes}")
    if not paths:
        raise ValueError(f"{where} contains no images. {suffixes}")
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        if split == "train":
            raise ValueError(
                f"{where} contains no images of the classes {_shown(empty)}, which have "
                f"folders there. Remove the folders, or put images into them. {suffixes}"
            )
        logger.warning("%s", f"{where} contains no images of the classes {_shown(empty)}.")
    start = len(str(folder)) + 1
    targets = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return [path[start:] for path in paths], targets


def _folders(folder: Path) -> tuple[str, ...]:
    names = (each.name for each in folder.iterdir() if each.is_dir())
    return tuple(sorted(name for name in names if not is_hidden(name)))


def _loose_images(folder: Path) -> list[str]:
    names = (each.name for each in folder.iterdir() if each.is_file())
    return sorted(n for n in names if n.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(n))


def _shown(names: Sequence[str]) -> str:
    """Returns names as text, without control sequences."""
    more = len(names) - _MAX_SHOWN
    shown = ", ".join(map(repr, names[:_MAX_SHOWN]))
    return f"{shown} and {more} more" if more > 0 else shown


def _left_out(paths: Sequence[str]) -> str:
    counts = Counter(Path(path).suffix.lower() or "no suffix" for path in paths)
    kinds = [f"{suffix} ({count})" for suffix, count in counts.most_common(_MAX_SHOWN)]
    text = repr(", ".join(kinds))[1:-1]  # without control sequences
    return f"{format_count(len(paths), 'file')} of other kinds, left out: {text}"
