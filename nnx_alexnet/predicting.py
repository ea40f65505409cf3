"""Classes of image files: which files, what the model says of them, and how that is written."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from io import TextIOWrapper
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TextIO

import jax
import numpy as np
from flax import nnx

from nnx_alexnet.data.folder import default_workers
from nnx_alexnet.data.image_files import IMAGE_SUFFIXES, find_files
from nnx_alexnet.results import class_labels
from nnx_alexnet.task import Task

Format = Literal["text", "json", "csv"]
Batch = list[tuple[str, np.ndarray | str]]
"""Files in order, each with its probabilities, or with the reason why it could not be read."""


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
        >>> from nnx_alexnet.predicting import find_images
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
        problems.append(f"Cannot search the folder {error.filename}: {error.strerror}")

    for path in paths:
        if not Path(path).is_dir():
            files.append(path)
            continue
        found = find_files(path, note=note).images
        if not found:
            problems.append(f"The folder {path} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        files += sorted(found)
    return files, problems


def compile_probabilities(
    model: nnx.Module, task: Task, transform: Callable[[Any], jax.Array], shape: tuple[int, ...]
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles what `Trainer.predict` computes, for batches of one shape.

    Args:
        model: its values of now are used; it is left in evaluation mode.
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
        >>> from nnx_alexnet.predicting import compile_probabilities
        >>> from nnx_alexnet.task import Classification
        >>> model = nnx.Linear(3, 2, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
        >>> pixels = lambda images: images.reshape(4, 3) / 255
        >>> step = compile_probabilities(model, Classification(), pixels, (4, 1, 1, 3))
        >>> step(np.zeros((4, 1, 1, 3), np.uint8))[0].tolist()
        [0.5, 0.5]
    """
    model.eval()
    definition, state = nnx.split(model)

    def predict(state: Any, images: jax.Array) -> Any:
        return task.predict(nnx.merge(definition, state), transform(images))

    # Compiled here and now: a batch of another shape is an error, not another compilation.
    lowered = jax.jit(predict).lower(state, jax.ShapeDtypeStruct(shape, np.uint8))
    if len(getattr(lowered.out_info, "shape", ())) != 2:
        raise ValueError(
            f"The run has the task {type(task).__name__}, which predicts no classes. Use "
            "Trainer.predict from Python."
        )
    compiled = lowered.compile()
    return lambda images: np.asarray(compiled(state, images))


def predict_files(
    files: Sequence[str],
    read: Callable[[str], np.ndarray],
    probabilities: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...],
) -> Iterator[Batch]:
    """Reads and predicts files batch by batch; the next batch is read meanwhile, in threads.

    A bar on standard error shows how far it is, in a terminal and for more than one batch.

    Args:
        files: their paths.
        read: returns the image of a file, or raises a ValueError or OSError that says why not.
        probabilities: returns a row for each image of a batch.
        shape: of a batch, `(B, H, W, C)`; rows without an image are black.

    Yields:
        B files at a time, in order, each with its row or the reason why there is none.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.predicting import predict_files
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
        except (ValueError, OSError) as error:
            return str(error)

    size = shape[0]
    chunks = [files[first : first + size] for first in range(0, len(files), size)]
    bar = tqdm(
        total=len(files),
        unit=" files",
        leave=False,
        file=sys.stderr,
        disable=None if len(chunks) > 1 else True,  # None: shown in a terminal alone
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


def write_predictions(
    batches: Iterable[Batch],
    class_names: Sequence[str] | None,
    *,
    top_k: int,
    form: Format,
    out: TextIO,
) -> list[str]:
    """Writes the most probable classes of each file, as they come.

    Args:
        batches: see `predict_files`.
        class_names: in the order of the model's outputs; None numbers them from 0.
        top_k: classes a file, the most probable first.
        form: `"text"`: a line a file; `"json"`: an object a file, one a line; `"csv"`: a line a
            class, below a header.
        out: what to write to.

    Returns:
        The reasons why files could not be read, in order.

    Example:
        >>> import sys
        >>> import numpy as np
        >>> from nnx_alexnet.predicting import write_predictions
        >>> batch = [("a.png", np.array([0.25, 0.75])), ("b.png", "There is no b.png.")]
        >>> write_predictions([batch], ["cat", "dog"], top_k=2, form="csv", out=sys.stdout)
        file,rank,class,probability
        a.png,1,dog,0.75
        a.png,2,cat,0.25
        ['There is no b.png.']
    """
    from tqdm.std import tqdm

    write = _writer(form, out)
    problems = []
    for batch in batches:
        with tqdm.external_write_mode(out):  # lines go above the bar, not into it
            for file, row in batch:
                if isinstance(row, str):
                    problems.append(row)
                    continue
                best = np.argsort(-row, kind="stable")[:top_k]
                names = class_labels(class_names, len(row))
                write(file, [(names[k], float(row[k])) for k in best])
            out.flush()
    return problems


def _writer(form: Format, out: TextIO) -> Callable[[str, list[tuple[str, float]]], None]:
    """Returns what writes the classes of one file, the best first."""
    if form == "csv":
        lines = csv.writer(out, lineterminator="\n")
        lines.writerow(["file", "rank", "class", "probability"])
        return lambda file, best: lines.writerows(
            [file, rank, *each] for rank, each in enumerate(best, start=1)
        )
    if form == "json":
        return lambda file, best: print(
            json.dumps(
                {"file": file, "classes": [{"class": k, "probability": p} for k, p in best]}
            ),
            file=out,
        )
    return lambda file, best: print(file, *(f"{k} {p:.4f}" for k, p in best), sep="  ", file=out)


def open_output(output: str | None) -> AbstractContextManager[TextIO]:
    """Opens what is written to: a file, or standard output, which is left open.

    Names of files that are no text, which Unix allows, are written as the bytes that they are.

    Args:
        output: the path of a file, which is replaced; None is standard output.

    Raises:
        ValueError: the file cannot be written.

    Example:
        >>> from nnx_alexnet.predicting import open_output
        >>> with open_output(None) as out:
        ...     print("a line", file=out)
        a line
    """
    if output is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")
        return nullcontext(sys.stdout)
    try:
        path = Path(output).expanduser()
        return path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise ValueError(
            f"`output` (={output!r}) must be a file that can be written: {error.strerror}."
        ) from None
