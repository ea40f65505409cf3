"""Classes of image files: which files there are, and what the model predicts for them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import jax
import numpy as np
from flax import nnx

from nnx_alexnet.cli.prediction_output import Batch
from nnx_alexnet.data import IMAGE_SUFFIXES, default_workers, find_files
from nnx_alexnet.models import define, tell_mode
from nnx_alexnet.support import is_terminal, printable
from nnx_alexnet.task import Task


def find_images(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Lists image files: those given, and those in given folders and all folders below.

    Args:
        paths: files, which are taken whatever their names, and folders, of which those files are
            taken that have one of `IMAGE_SUFFIXES` and are not hidden, in sorted order.

    Returns:
        The files, and a message for each folder that has none or cannot be searched.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.cli.predict_files import find_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "notes.txt", "a.JPG"):
        ...         Path(folder, name).touch()
        ...     files, problems = find_images([folder, "c.raw"])
        >>> [Path(file).name for file in files], problems
        (['a.JPG', 'b.png', 'c.raw'], [])
    """
    files: list[str] = []
    problems: list[str] = []

    def note(error: OSError) -> None:
        problems.append(f"Cannot search the folder {printable(error.filename)}: {error.strerror}")

    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112  # which never raises
            files.append(path)
            continue
        num_before = len(problems)
        found = find_files(path, note=note)
        # Pipes and devices of such names are no images, which whoever reads them will say.
        names = [each for each in found.others if each.lower().endswith(IMAGE_SUFFIXES)]
        names += found.images
        if not names and len(problems) == num_before:
            suffixes = ", ".join(IMAGE_SUFFIXES)
            problems.append(f"The folder {printable(path)} holds no images ({suffixes}).")
        files += sorted(names)
    return files, problems


def compile_probabilities(
    model: nnx.Module, task: Task, transform: Callable[[Any], jax.Array], shape: tuple[int, ...]
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles what `Trainer.predict` computes, for batches of one shape.

    Args:
        model: its present values are used, in evaluation mode; it is not changed.
        task: says what a prediction is.
        transform: what happens to the images first.
        shape: of a batch, `(B, H, W, C)`.

    Returns:
        A function of such a batch, uint8, that returns float32 `[B, K]`.

    Raises:
        ValueError: what the task predicts is no row of numbers an image.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from nnx_alexnet.cli.predict_files import compile_probabilities
        >>> from nnx_alexnet.task import Classification
        >>> model = nnx.Linear(3, 2, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
        >>> pixels = lambda images: images.reshape(4, 3) / 255
        >>> step = compile_probabilities(model, Classification(), pixels, (4, 1, 1, 3))
        >>> step(np.zeros((4, 1, 1, 3), np.uint8))[0].tolist()
        [0.5, 0.5]
    """
    definitions = define(model)
    random, rest = nnx.split_state(definitions.state, nnx.RngState, ...)

    def predict(random: Any, rest: Any, images: jax.Array) -> Any:
        called: nnx.Module = nnx.merge(definitions.evaluation, nnx.merge_state(random, rest))
        tell_mode(called, training=False)
        predictions = task.predict(called, transform(images))
        return predictions, nnx.state(called, nnx.RngState)

    # Compiled here and now: a batch of another shape is an error, not another compilation.
    lowered = jax.jit(predict).lower(random, rest, jax.ShapeDtypeStruct(shape, np.uint8))
    if len(getattr(lowered.out_info[0], "shape", ())) != 2:
        raise ValueError(
            f"The run has the task {type(task).__name__}, which predicts no classes. Use "
            "Trainer.predict from Python."
        )
    compiled = lowered.compile()

    def probabilities(images: np.ndarray) -> np.ndarray:
        nonlocal random  # each batch draws anew
        predictions, random = compiled(random, rest, images)
        return np.asarray(predictions)

    return probabilities


def predict_files(
    files: Sequence[str],
    read: Callable[[str], np.ndarray],
    probabilities: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...],
) -> Iterator[Batch]:
    """Reads and predicts files batch by batch; the next batch is read meanwhile, in threads.

    A bar on standard error shows the progress, in a terminal and for more than one batch.

    Args:
        files: their paths.
        read: returns the image of a file, or raises a ValueError or OSError that says why not.
        probabilities: returns a row for each image of a batch.
        shape: of a batch, `(B, H, W, C)`; rows without an image are black.

    Yields:
        B files at a time, in order, each with its row or the reason why there is none.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.cli.predict_files import predict_files
        >>> read = lambda file: np.full((1, 1, 1), int(file), np.uint8)
        >>> for batch in predict_files(["7", "x", "9"], read, lambda x: x[:, 0, 0], (2, 1, 1, 1)):
        ...     print(batch)
        [('7', array([7], dtype=uint8)), ('x', "invalid literal for int() with base 10: 'x'")]
        [('9', array([9], dtype=uint8))]
    """
    from tqdm.std import tqdm

    def tried(file: str) -> np.ndarray | str:
        try:
            return read(file)
        except (ValueError, OSError, MemoryError) as error:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__

    size = shape[0]
    chunks = [files[first : first + size] for first in range(0, len(files), size)]
    is_shown = len(chunks) > 1 and is_terminal(sys.stderr)
    bar = tqdm(
        total=len(files),
        unit=" files",
        leave=False,
        file=sys.stderr if is_shown else io.StringIO(),
        disable=not is_shown,
    )
    with bar, ThreadPoolExecutor(default_workers()) as pool:
        ahead = pool.map(tried, chunks[0] if chunks else ())
        for chunk, following in zip_longest(chunks, chunks[1:], fillvalue=()):
            got = list(ahead)
            ahead = pool.map(tried, following)
            images = np.zeros(shape, np.uint8)
            for row, image in enumerate(got):
                if not isinstance(image, str):
                    images[row] = image
            rows = probabilities(images)
            yield [
                (file, image if isinstance(image, str) else row)
                for file, image, row in zip(chunk, got, rows, strict=False)
            ]  # without the rows of padding
            bar.update(len(chunk))
