"""Draws the images of a batch as the model receives them, with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from nnx_alexnet.data.applied_transform import transformed_batch
from nnx_alexnet.data.examples import listed
from nnx_alexnet.data.transform import augmentation_key
from nnx_alexnet.devices import usual_promotion
from nnx_alexnet.support import RGB, captioned, check_integer, printable, show_sheet, unknown

if TYPE_CHECKING:
    from nnx_alexnet.data.data_module import DataModule

Split = Literal["train", "val", "test"]


def show_batch(data: DataModule, split: Split, *, count: int, epoch: int, seed: int) -> Any:
    """Shows images of the first batch of a split; see `DataModule.show_batch`."""
    check_integer("count", count)
    check_integer("epoch", epoch, minimum=0)
    check_integer("seed", seed, minimum=0)
    splits = {"train": data.train, "val": data.val, "test": data.test, **data.val_sets}
    known = {name: loader for name, loader in splits.items() if loader is not None}
    if split not in known:
        raise unknown("split", split, known)
    loader = known[split]
    key = augmentation_key(seed=seed, epoch=epoch) if split == "train" else None
    with closing(loader):
        batch = next(loader.batches(epoch=epoch, seed=seed))
    sheet = batch_sheet(
        batch, transform=data.transform, key=key, class_names=data.class_names, count=count
    )
    if sheet is None:
        raise ValueError(
            f"`data` has no images to show. After the transform, a batch needs an `image` of shape "
            f"[batch, height, width, channels] with at most 4 channels; the keys are "
            f"{listed([*batch])}."
        )
    return show_sheet(sheet)


def batch_sheet(
    batch: Mapping[str, Any],
    *,
    transform: Any,
    key: jax.Array | None,
    class_names: Sequence[str] | None,
    count: int,
) -> RGB | None:
    """Draws images of a batch after its transform, without its standardization.

    Only the rows that are drawn are transformed, so a transform that mixes examples mixes these.

    Args:
        batch: as the loader yields it.
        transform: of the data.
        key: the key of the augmentation; None for a split that is not trained on.
        class_names: the name of each class.
        count: the largest number of images.

    Returns:
        The sheet, `uint8[H, W, 3]`; None if the batch has no images.
    """
    rows = np.flatnonzero(batch["mask"])[:count]
    shown = jax.tree.map(lambda array: array[rows], dict(batch))
    program = _compiled(transform)
    seen = jax.eval_shape(program, shown, key).get("image")
    if not are_images(getattr(seen, "shape", ())[1:]):
        return None
    image = np.asarray(program(shown, key)["image"])
    images = image * np.array(transform.std) + np.array(transform.mean)
    labels = shown.get("label")
    labels = labels if hasattr(labels, "shape") else np.empty((len(rows), 0, 0))
    return captioned(images, [_caption(label, class_names) for label in labels])


@lru_cache(maxsize=1)
def _compiled(transform: Any) -> Any:
    def transformed(batch: Mapping[str, Any], key: jax.Array | None) -> dict[str, Any]:
        with usual_promotion():
            return transformed_batch(transform, batch, key)

    return jax.jit(transformed)


def are_images(shape: Sequence[int]) -> bool:
    """Returns whether arrays of a shape can be drawn, such as (96, 96, 1).

    Example:
        >>> from nnx_alexnet.data.batch_images import are_images
        >>> are_images((96, 96, 1)), are_images((16,))
        (True, False)
    """
    return len(shape) == 3 and shape[-1] <= 4


def _caption(label: Any, class_names: Sequence[str] | None) -> str:
    """Returns the text for a label: the name of its class, or of the most probable class."""
    if np.ndim(label) == 1:
        label = np.argmax(label)
    if np.ndim(label) or not np.issubdtype(np.asarray(label).dtype, np.integer):
        return "" if np.ndim(label) else f"{label:.4g}"
    names = class_names or ()
    return printable(names[label] if 0 <= label < len(names) else label)
