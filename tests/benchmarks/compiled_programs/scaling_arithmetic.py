"""Predicts how the training of AlexNet scales to many GPUs.

    python tests/benchmarks/compiled_programs/scaling_arithmetic.py

Prints the tables under "Arithmetic" in this folder's README.md from published link speeds and the
measured speed of one GPU. Nothing is measured here; scaling.py reads what a step sends.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `turns`

from turns import markdown

_MB = 1e6

# The parameters of AlexNet for 227x227x3 and 1000 classes: 62.4 million.
_CONVOLUTIONS = ((11, 11, 3, 96), (5, 5, 96, 256), (3, 3, 256, 384), (3, 3, 384, 384))
_CONVOLUTIONS += ((3, 3, 384, 256),)
_PRODUCTS = ((6 * 6 * 256, 4096), (4096, 4096), (4096, 1000))
SHAPES = (
    *_CONVOLUTIONS,
    *_PRODUCTS,
    *((shape[-1],) for shape in (*_CONVOLUTIONS, *_PRODUCTS)),  # biases
    *((shape[-1],) for shape in _CONVOLUTIONS for _ in range(2)),  # BatchNorm's scale and bias
)
PARAMETERS = sum(map(math.prod, SHAPES))
# Of one H100, bare scripts, bfloat16 compute, Adam: batch to images per second.
PLAIN = {256: 26_858.0, 1024: 30_496.0}  # plain convolutions and pools
FAST = 59_300.0  # at 1024: the first convolution as space-to-depth, max_pool's own gradient
SMALL_COLLECTIVES = 11  # BatchNorm's 5 forward and 5 backward, and one of counts

# What a model split in two sends for an image, in values: the inputs of conv2 to conv5, of the
# reshape and of dense2's gradient are gathered; the outputs of dense2 and dense3 and the gradients
# of dense1's input and of those of conv2 to conv5 are reduced.
_CONVOLVED = 27 * 27 * 96 + 13 * 13 * (256 + 384 + 384)
GATHERED_VALUES = _CONVOLVED + 6 * 6 * 256 + 4096
REDUCED_VALUES = _CONVOLVED + 6 * 6 * 256 + 4096 + 1000
MODEL_COLLECTIVES = 13
PAIR_LATENCY = 6e-6  # of two GPUs


class Link(NamedTuple):
    """GPUs that reduce together.

    Attributes:
        gpus: how many.
        speed: bus bandwidth, bytes per second, as nccl-tests counts it.
        latency: of a small all-reduce, seconds.
    """

    gpus: int
    speed: float
    latency: float


LINKS = (
    Link(8, 370e9, 10e-6),
    Link(8, 150e9, 10e-6),
    Link(1024, 370e9, 60e-6),
    Link(1024, 320e9, 60e-6),
    Link(1024, 150e9, 60e-6),
)


def gather_seconds(size: float, gpus: int, speed: float) -> float:
    """Returns the time of an all-gather of `size` bytes, or of a reduce-scatter.

    Example:
        >>> from scaling_arithmetic import gather_seconds
        >>> gather_seconds(8e9, 8, 7e9)
        1.0
    """
    return (gpus - 1) / gpus * size / speed


def reduce_seconds(size: float, gpus: int, speed: float) -> float:
    """Returns the time of an all-reduce: of a reduce-scatter and an all-gather."""
    return 2 * gather_seconds(size, gpus, speed)


def step_seconds(batch: int, *, is_fast: bool) -> tuple[float, float]:
    """Returns the time of a step of one GPU: the part that is the same for any batch, and the rest.

    The two measured batches of the plain step give a line. The fast step was measured at one
    batch; what is the same for any batch (the optimizer, mostly) is taken from that line.
    """
    (small, slow), (large, quick) = PLAIN.items()
    image = (large / quick - small / slow) / (large - small)
    fixed = small / slow - small * image
    if is_fast:
        image = (large / FAST - fixed) / large
    return fixed, batch * image


class Prediction(NamedTuple):
    """Of a step of many GPUs: seconds, and the share of their time in which they compute."""

    communication: float
    latency: float
    none_hidden: float
    all_hidden: float


def predict(
    batch: int, link: Link, *, is_fast: bool = True, gradient_bytes: float = 4 * PARAMETERS
) -> Prediction:
    """Predicts data parallelism from the speed of one GPU and of the links.

    Args:
        batch: images per GPU.
        link: the GPUs and the link between them.
        is_fast: whether one GPU runs the fast step.
        gradient_bytes: of all gradients.

    Returns:
        With the reduction of the gradients after the backward pass, and with all of it beside
        the backward pass (two thirds of what grows with the batch). The small reductions are
        waited for in both.
    """
    fixed, variable = step_seconds(batch, is_fast=is_fast)
    alone = fixed + variable
    communication = reduce_seconds(gradient_bytes, link.gpus, link.speed)
    latency = SMALL_COLLECTIVES * link.latency
    left = max(0.0, communication - 2 / 3 * variable)
    return Prediction(
        communication,
        latency,
        alone / (alone + communication + latency),
        alone / (alone + left + latency),
    )


def hidden_from(link: Link, *, is_fast: bool = True, gradient_bytes: float = 4 * PARAMETERS) -> int:
    """Returns the images per GPU from which the backward pass hides the gradients' reduction."""
    _, image = step_seconds(1, is_fast=is_fast)
    return math.ceil(reduce_seconds(gradient_bytes, link.gpus, link.speed) / (2 / 3 * image))


def _data_rows() -> list[list[str]]:
    rows = []
    for link in LINKS:
        for batch in (128, 256, 1024):
            row = [f"{link.gpus:,}", f"{link.speed / 1e9:.0f}", f"{batch:,}"]
            for is_fast in (True, False):
                step = sum(step_seconds(batch, is_fast=is_fast))
                found = predict(batch, link, is_fast=is_fast)
                if is_fast:
                    row += [f"{found.communication * 1e3:.2f}", f"{found.latency * 1e3:.2f}"]
                row += [f"{step * 1e3:.2f}", f"{found.none_hidden:.2f}, {found.all_hidden:.2f}"]
            half = predict(batch, link, gradient_bytes=2 * PARAMETERS)
            rows.append([*row, f"{half.none_hidden:.2f}, {half.all_hidden:.2f}"])
    return rows


def _hidden_rows() -> list[list[str]]:
    rows = []
    for link in LINKS:
        row = [f"{link.gpus:,}", f"{link.speed / 1e9:.0f}"]
        for is_fast in (True, False):
            for size in (4, 2):
                found = hidden_from(link, is_fast=is_fast, gradient_bytes=size * PARAMETERS)
                row.append(f"{found:,}")
        rows.append(row)
    return rows


def sharded_parameters(gpus: int) -> int:
    """Returns how many parameters `shard_state` splits: arrays of 1024 with a fitting dimension."""
    fitting = (shape for shape in SHAPES if any(length % gpus == 0 for length in shape))
    return sum(num for num in map(math.prod, fitting) if num >= 1024)


def _sharded_rows() -> list[list[str]]:
    rows = []
    for link in LINKS:
        split = sharded_parameters(link.gpus)
        reduce = reduce_seconds(4 * PARAMETERS, link.gpus, link.speed)
        gather = gather_seconds(4 * split, link.gpus, link.speed)
        whole = reduce_seconds(4 * (PARAMETERS - split), link.gpus, link.speed)
        times = (reduce, gather + reduce, 2 * gather + whole)
        speed = f"{link.speed / 1e9:.0f}"
        held = PARAMETERS - split + split / link.gpus
        memory = [f"{3 * 4 * num / _MB:.1f}" for num in (PARAMETERS, held)]
        rows.append([f"{link.gpus:,}", speed, *(f"{t * 1e3:.2f}" for t in times), *memory])
    return rows


def model_split(batch: int, speed: float) -> tuple[float, float]:
    """Returns the seconds that two GPUs spend on a step, with data split and with layers split.

    Args:
        batch: images of the two together.
        speed: bus bandwidth between them, bytes per second.
    """
    fixed, variable = step_seconds(batch, is_fast=True)
    data = fixed + variable / 2 + reduce_seconds(4 * PARAMETERS, 2, speed)
    gathered = gather_seconds(2 * GATHERED_VALUES * batch, 2, speed)
    reduced = reduce_seconds(2 * REDUCED_VALUES * batch, 2, speed)
    model = fixed / 2 + variable / 2 + gathered + reduced
    return data + SMALL_COLLECTIVES * PAIR_LATENCY, model + MODEL_COLLECTIVES * PAIR_LATENCY


def break_even(data_speed: float, model_speed: float) -> int:
    """Returns the batch of two GPUs from which layers send for longer than gradients do."""
    gathered = gather_seconds(2 * GATHERED_VALUES, 2, model_speed)
    image = gathered + reduce_seconds(2 * REDUCED_VALUES, 2, model_speed)
    return math.ceil(reduce_seconds(4 * PARAMETERS, 2, data_speed) / image)


def _model_rows() -> list[list[str]]:
    rows = []
    for batch in (128, 256, 512, 2048):
        row = [f"{batch:,}", f"{sum(step_seconds(batch, is_fast=True)) * 1e3:.2f}"]
        for speed in (370e9, 150e9):
            row += [f"{seconds * 1e3:.2f}" for seconds in model_split(batch, speed)]
        hidden = sum(step_seconds(batch // 2, is_fast=True)) + SMALL_COLLECTIVES * PAIR_LATENCY
        rows.append([*row, f"{hidden * 1e3:.2f}"])
    return rows


def predictions() -> str:
    """Returns the tables of arithmetic as Markdown."""
    both = "none hidden, all hidden"
    data = ["GPUs", "GB/s", "batch per GPU", "gradients, ms", "small all-reduces, ms"]
    data += ["fast step, ms", f"efficiency: {both}", "plain step, ms", "efficiency"]
    data += ["fast step, bfloat16"]
    hidden = ["GPUs", "GB/s", "fast step, float32", "bfloat16", "plain step, float32", "bfloat16"]
    sharded = ["GPUs", "GB/s", "data, ms", "sharded, all-reduced, ms", "with reduce-scatter, ms"]
    sharded += ["state, MB per GPU: data", "sharded"]
    model = ["batch of two GPUs", "one GPU, ms", "data, ms, at 370 GB/s", "model, ms"]
    model += ["data, ms, at 150 GB/s", "model, ms", "data, ms, gradients hidden"]
    tables = [
        ("Data parallel", markdown(data, _data_rows())),
        ("Images per GPU that hide the gradients", markdown(hidden, _hidden_rows())),
        ("State sharded", markdown(sharded, _sharded_rows())),
        ("Model split over two", markdown(model, _model_rows())),
    ]
    lines = [f"{title}:\n\n{table}" for title, table in tables]
    same, slower = break_even(370e9, 370e9), break_even(370e9, 150e9)
    lines.append(
        f"Layers send for longer than gradients from a batch of {same} for two GPUs at the same "
        f"bandwidth, of {slower} with gradients at 370 GB/s and layers at 150."
    )
    return "\n\n".join(lines)


if __name__ == "__main__":
    print(predictions())
