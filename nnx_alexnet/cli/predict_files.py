"""Reads image files and predicts their classes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jsonargparse import Namespace

from nnx_alexnet.checkpoints import Choice, load_chosen
from nnx_alexnet.cli.data_option import build_data
from nnx_alexnet.cli.options import fit_parser
from nnx_alexnet.cli.prediction_output import PredictedBatch
from nnx_alexnet.cli.trainer_factory import build_model
from nnx_alexnet.cli.words import IMPORT_PATH
from nnx_alexnet.data import (
    READ_FROM_FILES,
    ImageTransform,
    default_workers,
    resized_side,
    square_reader,
    transformed_batch,
)
from nnx_alexnet.models import define, pass_arguments
from nnx_alexnet.support import is_terminal
from nnx_alexnet.task import BinaryClassification, Task

MAX_BATCH_SIZE = 64


class FilePredictor(NamedTuple):
    """Reads image files and predicts their classes.

    Attributes:
        read: returns the image of a file, `uint8[H, W, C]`, or raises a ValueError or OSError
            with the reason.
        probabilities: returns one row per image of a batch.
        shape: the shape of a batch, `(B, H, W, C)`.
    """

    read: Callable[[str], np.ndarray]
    probabilities: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, ...]


def rebuild_predictor(
    chosen: Choice, config: Namespace, about: Mapping[str, Any], *, num_files: int
) -> FilePredictor:
    """Rebuilds the model of a run, and reads image files as the run's data did.

    Args:
        chosen: the checkpoint whose weights are loaded.
        config: the configuration of the run.
        about: what the checkpoint records about the data.
        num_files: how many files will be predicted; the batches are no larger.

    Raises:
        ValueError: the run was not trained on square uint8 images of 1 or 3 channels, its
            transform is a function, or its task does not predict classes.
    """
    image = tuple(about["image"] or ())
    # A checkpoint knows the arguments of an ImageTransform, but only the name of a function.
    import_path = config.data.get(IMPORT_PATH)
    is_known = import_path is None
    # Augmentations change nothing in evaluation; a list of `load_data` has no functions.
    arguments = {name: value for name, value in about["transform"].items() if name != "with"}
    if is_known and "function" in about["transform"]:
        raise ValueError(
            f"`run` (={str(chosen.path.parent.parent)!r}) was trained with the transform "
            f"{about['transform']['function']}, a function, which only your code can call. Use "
            "Trainer.predict from Python."
        )
    is_cropped = config.data.get("name") in READ_FROM_FILES and not config.data.augment
    read = square_reader(image, resize=resized_side(image[0]) if is_cropped else None)
    if read is None:
        shown = f"images of shape {list(image)}" if image else "data without images"
        raise ValueError(
            f"`run` (={str(chosen.path.parent.parent)!r}) was trained on {shown}; "
            "image files become squares of 1 or 3 channels. Use Trainer.predict from Python."
        )
    if not about["fields"]["image"].startswith("uint8"):
        raise ValueError(
            f"`run` (={str(chosen.path.parent.parent)!r}) was trained on images "
            f"{about['fields']['image']}; image files are uint8, and how they would be scaled is "
            "not known. Use Trainer.predict from Python."
        )
    shape = (min(MAX_BATCH_SIZE, max(1, num_files)), *image)
    transform: Any = ImageTransform(**arguments) if is_known else build_data(config.data).transform
    transformed = transform.check(
        {"image": jax.ShapeDtypeStruct(image, np.uint8)}, may_lack_fields=True
    )
    given = {
        "num_classes": about["num_outputs"],
        "image_size": transformed["image"].shape[0],
        "in_channels": read.channels,
    }
    model = build_model(config.model, config.seed, given)
    load_chosen(chosen, model)  # logs the checkpoint and the reason of the choice
    task = fit_parser(import_path).instantiate(config).task
    return FilePredictor(read, compile_probabilities(model, task, transform, shape), shape)


def compile_probabilities(
    model: nnx.Module, task: Task, transform: Callable[..., Any], shape: tuple[int, ...]
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles what `Trainer.predict` computes, for batches of one shape.

    Args:
        model: the model, which is used in evaluation mode and not changed.
        task: the task, whose `predict` is compiled.
        transform: the transform of a batch, which has no other key of the user than `image`.
        shape: the shape of a batch, `(B, H, W, C)`.

    Returns:
        A function of such a batch, uint8, that returns float32 `[B, K]`. For a task that predicts
        one probability, that of class 1, these are the probabilities of the classes 0 and 1.

    Raises:
        ValueError: the task does not predict one row of numbers per image.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from nnx_alexnet.cli.predict_files import compile_probabilities
        >>> from nnx_alexnet.task import Classification
        >>> model = nnx.Linear(3, 2, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
        >>> pixels = lambda batch, key: {"image": batch["image"].reshape(4, 3) / 255}
        >>> step = compile_probabilities(model, Classification(), pixels, (4, 1, 1, 3))
        >>> step(np.zeros((4, 1, 1, 3), np.uint8))[0].tolist()
        [0.5, 0.5]
    """
    copy = nnx.merge(*nnx.split(model))
    pass_arguments(copy, training=False, key=jax.random.key(0))
    definitions = define(copy)
    random, rest = nnx.split_state(definitions.state, nnx.RngState, ...)

    def predict(random: Any, rest: Any, images: jax.Array) -> Any:
        called: nnx.Module = nnx.merge(definitions.evaluation, nnx.merge_state(random, rest))
        added = {
            "mask": np.ones(len(images), bool),
            "index": np.arange(len(images), dtype=np.int32),
        }
        batch = transformed_batch(transform, {"image": images, **added})
        predictions = task.predict(called, batch)
        if isinstance(task, BinaryClassification):
            predictions = jnp.stack([1 - predictions, predictions], axis=-1)
        return predictions, nnx.state(called, nnx.RngState)

    # Compiled ahead of time: a batch of another shape is an error, not another compilation.
    lowered = jax.jit(predict).lower(random, rest, jax.ShapeDtypeStruct(shape, np.uint8))
    if len(getattr(lowered.out_info[0], "shape", ())) != 2:
        raise ValueError(
            f"The task of the run, {type(task).__name__}, does not predict classes. Use "
            "Trainer.predict from Python."
        )
    compiled = lowered.compile()

    def probabilities(images: np.ndarray) -> np.ndarray:
        nonlocal random  # each batch has its own random numbers
        predictions, random = compiled(random, rest, images)
        return np.asarray(predictions)

    return probabilities


def predict_files(files: Sequence[str], predictor: FilePredictor) -> Iterator[PredictedBatch]:
    """Predicts files batch by batch, while threads read the next batch.

    A progress bar is shown on standard error if it is a terminal and there are several batches.

    Args:
        files: the paths of the files.
        predictor: reads the files and predicts their classes.

    Yields:
        B files at a time, in order, each with its row, or with the reason why it has none.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.cli.predict_files import FilePredictor, predict_files
        >>> read = lambda file: np.full((1, 1, 1), int(file), np.uint8)
        >>> predictor = FilePredictor(read, lambda images: images[:, 0, 0], (2, 1, 1, 1))
        >>> for batch in predict_files(["7", "x", "9"], predictor):
        ...     print(batch)
        [('7', array([7], dtype=uint8)), ('x', "invalid literal for int() with base 10: 'x'")]
        [('9', array([9], dtype=uint8))]
    """
    from tqdm.std import tqdm

    size = predictor.shape[0]
    is_shown = len(files) > size and is_terminal(sys.stderr)
    bar = tqdm(
        total=len(files),
        unit=" files",
        leave=False,
        file=sys.stderr if is_shown else io.StringIO(),
        disable=not is_shown,
    )
    with bar:
        for chunk, read in _read_ahead(files, predictor.read, size):
            images = np.zeros(predictor.shape, np.uint8)  # black where there is no image
            for row, image in enumerate(read):
                if not isinstance(image, str):
                    images[row] = image
            rows = predictor.probabilities(images)
            yield [
                (file, image if isinstance(image, str) else row)
                for file, image, row in zip(chunk, read, rows, strict=False)
            ]  # without the rows of padding
            bar.update(len(chunk))


def _read_ahead(
    files: Sequence[str], read: Callable[[str], np.ndarray], size: int
) -> Iterator[tuple[Sequence[str], list[np.ndarray | str]]]:
    """Yields `size` files at a time with their images, or the reasons why there are none."""

    def attempt(file: str) -> np.ndarray | str:
        try:
            return read(file)
        except (ValueError, OSError, MemoryError) as error:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__

    chunks = [files[first : first + size] for first in range(0, len(files), size)]
    with ThreadPoolExecutor(default_workers()) as pool:
        ahead = pool.map(attempt, chunks[0] if chunks else ())
        for chunk, following in zip_longest(chunks, chunks[1:], fillvalue=()):
            images = list(ahead)
            ahead = pool.map(attempt, following)
            yield chunk, images
