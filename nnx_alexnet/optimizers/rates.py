"""Finds the learning rates in the state of an optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

_RATE = "hyperparams/learning_rate"


def rate_leaves(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """Returns which leaves of an optimizer's state are learning rates, by metric name.

    `optax.inject_hyperparams` stores the learning rate of the optimizer that it wraps. If several
    parts of an optimizer are wrapped, as with `optax.partition`, each rate is named after its part.

    Args:
        names: the paths of all leaves.
        shapes: the shapes of all leaves.

    Returns:
        `{"lr": index of the leaf}`, or one entry per part; empty if the state contains no rate.

    Example:
        >>> from nnx_alexnet.optimizers import rate_leaves
        >>> names = ["body/0/hyperparams/learning_rate", "head/0/hyperparams/learning_rate"]
        >>> rate_leaves(names, [(), ()])
        {'lr/body': 0, 'lr/head': 1}
    """
    found = {
        number: name.split("/")
        for number, (name, shape) in enumerate(zip(names, shapes, strict=True))
        if name.endswith(_RATE) and shape == ()
    }
    return metrics_of_parts("lr", found)


def metrics_of_parts(metric: str, paths: Mapping[int, Sequence[str]]) -> dict[str, int]:
    """Returns the names of a metric that several parts of an optimizer have.

    Args:
        metric: the name if only one part has it.
        paths: the number of each leaf, with its path, whose parts are escaped as by
            `named_leaves`. Names of metrics are not escaped, unless two would be equal.

    Example:
        >>> from nnx_alexnet.optimizers.rates import metrics_of_parts
        >>> metrics_of_parts("norm", {4: ["body", "x"], 7: ["head%2Fbias", "x"]})
        {'norm/body': 4, 'norm/head/bias': 7}
    """
    if len(paths) == 1:
        return {metric: next(iter(paths))}
    start = _num_shared([*paths.values()])
    end = _num_shared([path[start:][::-1] for path in paths.values()])
    parts = {number: ".".join(path[start : len(path) - end]) for number, path in paths.items()}
    readable = {number: unquote(part) for number, part in parts.items()}
    if len({*readable.values()}) == len(parts):
        parts = readable
    return {f"{metric}/{part}" if part else metric: number for number, part in parts.items()}


def scalable_leaves(names: Sequence[str], rates: Mapping[str, int]) -> dict[str, int]:
    """Returns the leaf of an optimizer's state by which each learning rate can be scaled.

    This is the rate itself if it is constant, and the factor of a `ScalableSchedule`.

    Args:
        names: the paths of all leaves.
        rates: the result of `rate_leaves`.

    Returns:
        Metric names to indices of leaves; rates of other schedules are missing.

    Example:
        >>> from nnx_alexnet.optimizers import scalable_leaves
        >>> scalable_leaves(["x/hyperparams/learning_rate"], {"lr": 0})
        {'lr': 0}
    """
    numbers = {name: number for number, name in enumerate(names)}
    found = {}
    for metric, number in rates.items():
        state = names[number].removesuffix(_RATE) + "hyperparams_states/learning_rate/"
        if state + "scale" in numbers:
            found[metric] = numbers[state + "scale"]
        elif not any(name.startswith(state) for name in names):
            found[metric] = number
    return found


def _num_shared(paths: Sequence[Sequence[str]]) -> int:
    """Returns the length of the longest common prefix of all paths."""
    columns = zip(*paths, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda parts: len({*parts}) == 1, columns))
