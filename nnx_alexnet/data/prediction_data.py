"""Makes loaders of the data that `Trainer.predict` accepts."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.data.checks import check_alike, is_scaled, warn_of_scales
from nnx_alexnet.data.convert import is_array, is_leaf, is_pil
from nnx_alexnet.data.data_module import DataModule
from nnx_alexnet.data.examples import ElementSpec, listed, spec_text, unpack
from nnx_alexnet.data.image_files import find_images
from nnx_alexnet.data.image_folder import ImageFiles
from nnx_alexnet.data.image_reader import ImageReader, Images, is_image, square_reader
from nnx_alexnet.data.loader import Loader
from nnx_alexnet.data.padding import Padding
from nnx_alexnet.data.sources import IterableSource, MapSource, Source, as_source
from nnx_alexnet.data.torch_loader import is_shuffled
from nnx_alexnet.support import logger, printable

_ARGUMENT = "data"  # the name of the argument of `Trainer.predict`


def prediction_loader(data: DataModule, value: Any) -> Loader:
    """Returns a loader of data to predict: all examples, in order.

    Args:
        data: the data of the training, which determine the names and shapes.
        value: see `Trainer.predict`.

    Raises:
        TypeError: `value` is a whole `DataModule`.
        ValueError: `value` has none of the forms of a split, or its examples do not fit the train
            split.
        FileNotFoundError: there is no such image file.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data import DataModule, prediction_loader
        >>> data = DataModule((np.zeros((4, 3), np.float32), np.arange(4)), batch_size=2)
        >>> [batch["image"].shape for batch in prediction_loader(data, np.ones((3, 3))).batches()]
        [(2, 3), (1, 3)]
    """
    if isinstance(value, Loader):
        return value.in_order()
    if is_shuffled(value):
        logger.warning(
            "`%s` is a DataLoader that shuffles: predictions are in the order of its batches, not "
            "of its dataset.", _ARGUMENT,
        )  # fmt: skip
    if isinstance(value, DataModule):
        raise TypeError(
            f"`{_ARGUMENT}` is a DataModule; pass one of its splits, for instance its `test`."
        )
    source = _source(data, value)
    train = data.train
    loader = Loader(
        source,
        batch_size=data.batch_size,
        num_workers=train.num_workers,
        padding=data.padding,
        argument=_ARGUMENT,
    )
    _check_axes(loader, train.element_spec())
    check_alike(train, loader, data.transform)
    warn_of_scales(train, loader)
    return loader


def _source(data: DataModule, value: Any) -> Source:
    if is_image(value):
        return _image_source(data, [value])
    if isinstance(value, list | tuple) and value and all(map(is_image, value)):
        return _image_source(data, value)
    if is_array(value) and not hasattr(value, "columns"):  # a table has names
        value = {_first_field(data, "an array"): value}
    if isinstance(value, Mapping | tuple):  # all sequences of an array have one length
        return as_source(value, argument=_ARGUMENT, names=data.fields)
    padding = data.padding.optional()
    if isinstance(value, list) and value:
        return _list_source(data, value, padding)
    return as_source(
        value,
        argument=_ARGUMENT,
        names=data.fields,
        padding=padding,
        batch_size=data.batch_size,
    )


def _first_field(data: DataModule, what: str) -> str:
    """Returns the name of the first field, which values without a name belong to."""
    name, spec = data.fields[0], data.train.element_spec()
    if name not in spec:
        raise ValueError(
            f"`{_ARGUMENT}` is {what} without a name, which would be `{name}`; the train split has "
            f"the keys {listed(spec)}. Pass a dict with the key."
        )
    return name


# ---- A list of examples or of batches -------------------------------------------------------


def _list_source(data: DataModule, items: list[Any], padding: Padding) -> Source:
    """Returns the source of a list, whose items have the axes of an example or one more."""
    first = unpack(items[0], data.fields, f"{_ARGUMENT}[0]")
    spec = data.train.element_spec()
    for name in [name for name in first if name in spec]:
        got, wanted = _first_leaf(first[name]), _first_leaf(spec[name]).shape
        if is_pil(got) or np.ndim(got) == len(wanted):
            return MapSource(items, names=data.fields, padding=padding, argument=_ARGUMENT)
        if np.ndim(got) == len(wanted) + 1:
            return IterableSource(items, names=data.fields, padding=padding, argument=_ARGUMENT)
        raise ValueError(
            f"`{_ARGUMENT}[0][{name!r}]` has the shape {np.shape(got)}; expected {list(wanted)} "
            f"for an example, or {_rows(wanted)} for a batch, as in the train split."
        )
    return as_source(items, argument=_ARGUMENT, names=data.fields, padding=padding)


def _first_leaf(value: Any) -> Any:
    return jax.tree.leaves(value, is_leaf=is_leaf)[0]


# ---- Image files and PIL images -------------------------------------------------------------


def _image_source(data: DataModule, images: Sequence[Any]) -> MapSource:
    name = _first_field(data, "an image")
    read, found = _reader(data.train, name), _found(images)
    return MapSource(Images(found, read), names=(name,), argument=_ARGUMENT)


def _reader(train: Loader, name: str) -> ImageReader:
    """Returns the reader of images in the form of the train split."""
    dataset = getattr(train.source, "dataset", None)
    if isinstance(dataset, ImageFiles):
        return dataset.read
    image = train.element_spec()[name]
    read = square_reader(getattr(image, "shape", ()))
    how = (
        f"Prepare the images of `{_ARGUMENT}` like those of the train split, and pass them as an "
        "array [N, ...]."
    )
    if read is None:
        raise ValueError(
            f"`{_ARGUMENT}` has images to be decoded, which become squares of 1 or 3 channels; the "
            f"train split has `{name}` {spec_text(image)}. {how}"
        )
    if image.dtype == np.uint8:
        return read
    some = train.some_images() if name == "image" else None
    if some is None or not jnp.issubdtype(image.dtype, jnp.floating) or not is_scaled(some):
        span = "" if some is None else f" from {some.min():g} to {some.max():g}"
        raise ValueError(
            f"`{_ARGUMENT}` has images to be decoded, which are uint8; the train split has "
            f"{image.dtype} images{span}, whose scale is not known. {how}"
        )
    return dataclasses.replace(read, dtype=image.dtype)


def _found(images: Sequence[Any]) -> list[Any]:
    """Returns PIL images and files in order, with the files of each folder in place of it."""
    found: list[Any] = []
    for image in images:
        if is_pil(image):
            found.append(image)
            continue
        path = os.path.expanduser(os.fspath(image))  # noqa: PTH111  # works without a home
        if not os.path.lexists(path):
            raise FileNotFoundError(f"There is no image file {printable(path)}.{_remedy(path)}")
        files, problems = find_images([path])
        if problems:
            raise ValueError(f"`{_ARGUMENT}`: {problems[0]}")
        found += files
    return found


def _remedy(path: str) -> str:
    if path in ("train", "val", "test"):
        return f" To predict a split of the data, pass `trainer.data.{path}`."
    if path.startswith("val/"):
        return f' To predict a validation set, pass `trainer.data.val_sets["{path}"]`.'
    return ""


# ---- Checks ---------------------------------------------------------------------------------


def _check_axes(loader: Loader, spec: ElementSpec) -> None:
    """Raises a `ValueError` if an array has more or fewer axes than in the train split."""
    wanted = dict(jax.tree_util.tree_leaves_with_path(spec))
    num = loader.batch_size if loader.num_examples is None else loader.num_examples
    for path, leaf in jax.tree_util.tree_leaves_with_path(loader.element_spec()):
        if path in wanted and len(leaf.shape) != len(wanted[path].shape):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            got, shape = (num, *leaf.shape), wanted[path].shape
            raise ValueError(
                f"`{_ARGUMENT}{jax.tree_util.keystr(path)}` has the shape {got}; expected "
                f"{_rows(shape)}, as in the train split.{_axes_remedy(name, got, shape)}"
            )


def _axes_remedy(name: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    is_one_image = sorted(got) == sorted(wanted)  # torch puts the channels first
    if (*got[1:], 1) == wanted and not is_one_image:
        return f" {name}[..., None] adds the channel axis."
    if len(got) == len(wanted):
        return f" To predict a single example, pass {name}[None]."
    return ""


def _rows(shape: tuple[int, ...]) -> str:
    """Returns the shape of some examples as text, such as [N, 8, 8, 1]."""
    return f"[{', '.join(map(str, ('N', *shape)))}]"
