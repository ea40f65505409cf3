"""The TensorBoard tags of a run's values: losses and accuracies come first.

TensorBoard sorts its cards by tag, and opens the first two groups (the part of a tag before `/`).
"""

from __future__ import annotations

import re

_FIRST = ("train/", "val/")
_OF_CLASS = re.compile(r"(train|val)/((?:[^/]+/)?(?:precision|recall|f1)/(?!loss$|accuracy$).+)")
_LAST = ("perf/", "model/")


def scalar_tag(name: str) -> str:
    """Returns the tag of a metric; those of `train/` and `val/` are their names.

    Metrics of single classes, such as `val/f1/cat`, have groups of their own.

    Example:
        >>> from nnx_alexnet.dashboard.tags import scalar_tag
        >>> sorted(map(scalar_tag, ["lr", "perf/data_wait", "test/loss", "train/loss", "val/loss"]))
        ['train/loss', 'val/loss', 'x_lr', 'x_test/loss', 'z_perf/data_wait']
    """
    if found := _OF_CLASS.fullmatch(name):
        return f"x_{found[1]}_classes/{found[2]}"
    if name.startswith(_FIRST):
        return name
    return f"z_{name}" if name.startswith(_LAST) else f"x_{name}"


def image_tag(name: str) -> str:
    """Returns the tag of an image; images follow all metrics except those of `perf/`.

    Example:
        >>> from nnx_alexnet.dashboard.tags import image_tag
        >>> sorted(map(image_tag, ["model/filters", "train/images", "val/mistakes"]))
        ['y_train/images', 'y_val/mistakes', 'z_model/filters']
    """
    return f"z_{name}" if name.startswith(_LAST) else f"y_{name}"


def histogram_tag(name: str) -> str:
    """Returns the tag of a histogram; histograms are among the last.

    Example:
        >>> from nnx_alexnet.dashboard.tags import histogram_tag
        >>> histogram_tag("parameters/conv1/kernel")
        'z_parameters/conv1/kernel'
    """
    return f"z_{name}"
