"""Selects the metrics to draw, in groups: those of the package, and users' own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nnx_alexnet.runs import class_metrics, validation_splits

TRAINING = "Training and validation"
CLASSES = "Classes"
MAX_CLASSES = 10  # of one chart
_OTHERS, _OPTIMIZATION, _PERFORMANCE = "Other metrics", "Optimization", "Performance"
_MAX_CHARTS = 24  # of training and validation, and of users' own metrics
NORMS = {
    "norm/gradients": "norm of the gradients",
    "norm/parameters": "norm of the parameters",
}
_TITLES = NORMS | {
    "lr": "learning rate",
    "auroc": "AUROC",
    "f1": "F1",
    "perf/images_per_second": "examples per second",
    "perf/compile_seconds": "duration of compilation",
    "perf/step_seconds": "duration of a step",
    "perf/data_wait": "share of the time spent waiting for data",
    "perf/mfu": "model FLOPs utilization",
    "perf/training_share": "share of the time spent in training",
    "perf/peak_memory_bytes": "peak memory of the device",
    "perf/host_memory_bytes": "memory of the host",
}


class Chart(NamedTuple):
    """A chart of one metric.

    Attributes:
        title: in words, without a capital.
        metric: the name; that of a metric of training and validation has no prefix.
        splits: the prefixes of the curves: `val`, or those of several validation sets, and `train`;
            or one that is empty.
        from_zero: whether the vertical axis begins at 0, as the ratio of two values matters.
        classes: the classes, if the metric has a value for each of them.
        hint: a remark next to the title.
    """

    title: str
    metric: str
    splits: tuple[str, ...] = ("",)
    from_zero: bool = False
    classes: tuple[str, ...] = ()
    hint: str = ""


class Charts(NamedTuple):
    """The charts of a page.

    Attributes:
        groups: the charts by the titles of their groups, in the order of the page.
        single: users' own metrics without a chart, because they have only one value.
        num_left_out: how many more metrics have no chart, because there are too many.
    """

    groups: dict[str, list[Chart]]
    single: list[str]
    num_left_out: int


def chart_groups(counts: Mapping[str, int], sets: Sequence[str] | None = None) -> Charts:
    """Returns the charts of some metrics.

    Training and all validation sets share a chart. So do the classes of a metric, with the values
    of the first validation set. A user's own metric is in the group of the first part of its name.
    Results of tests have no chart.

    Args:
        counts: the number of steps with a value, by the name of the metric.
        sets: the prefixes of the validation sets (default: those that the names show).

    Example:
        >>> from nnx_alexnet.report.chart_groups import chart_groups
        >>> found = chart_groups({"lr": 9, "fisher/trace": 9, "val/loss": 2, "temperature": 1})
        >>> {title: [chart.metric for chart in charts] for title, charts in found.groups.items()}
        {'Training and validation': ['loss'], 'Fisher': ['fisher/trace'], 'Optimization': ['lr']}
        >>> found.single
        ['temperature']
    """
    names = [name for name, count in counts.items() if count]
    sets = [*dict.fromkeys([*(validation_splits(names) if sets is None else sets), "val"])]
    shared = shared_metrics(names, sets)
    groups: dict[str, list[Chart]] = {
        TRAINING: [
            Chart(_in_words(name), name, (*(s for s in sets if counts.get(f"{s}/{name}")), "train"))
            for name in shared[:_MAX_CHARTS]
        ],
        CLASSES: _of_classes(names, (sets[0], "train"))[:_MAX_CHARTS],
    }
    others = [name for name in counts if not name.startswith(("train/", "val/", "test/"))]
    own = [name for name in others if _group(name) not in (_OPTIMIZATION, _PERFORMANCE)]
    several = [name for name in own if counts[name] > 1]
    for name in sorted(several[:_MAX_CHARTS], key=lambda name: _group(name) == _OTHERS):
        groups.setdefault(_group(name), []).append(Chart(_in_words(name), name))
    for group in (_OPTIMIZATION, _PERFORMANCE):
        known = [name for name in others if _group(name) == group and counts[name]]
        known = [name for name in known if counts[name] > 1 or name in _TITLES]
        groups[group] = [
            Chart(_in_words(name), name, from_zero=name.startswith(("lr", "perf/")))
            for name in known
        ]
    return Charts(
        {title: charts for title, charts in groups.items() if charts},
        [name for name in own if counts[name] == 1],
        max(0, len(shared) - _MAX_CHARTS) + max(0, len(several) - _MAX_CHARTS),
    )


def _of_classes(names: Sequence[str], splits: Sequence[str]) -> list[Chart]:
    """Returns a chart per metric that has a value for each class, of the first split with any."""
    found: dict[str, list[str]] = {}
    for whole, label in class_metrics(names).values():
        found.setdefault(whole, []).append(label)
    charts: dict[str, Chart] = {}
    for split in splits:
        for whole, classes in found.items():
            metric = whole.removeprefix(f"{split}/")
            if metric == whole or metric in charts or "/" in metric:
                continue
            hint = f"{split}, the {MAX_CLASSES} lowest" if len(classes) > MAX_CLASSES else split
            title = f"{_in_words(metric)} per class"
            charts[metric] = Chart(title, metric, (split,), classes=tuple(classes), hint=hint)
    return [*charts.values()]


def shared_metrics(names: Sequence[str], sets: Sequence[str]) -> list[str]:
    """Returns the metrics of training and validation without their prefix, the loss first.

    Example:
        >>> from nnx_alexnet.report.chart_groups import shared_metrics
        >>> names = ["train/top5", "train/loss_step", "val/clean/loss", "val/gap", "lr"]
        >>> shared_metrics(names, ["val/clean", "val"])
        ['loss', 'top5', 'gap']
    """
    left_out = class_metrics(names)
    prefixes = [f"{split}/" for split in ("train", *sorted(sets, key=len, reverse=True))]
    metrics: dict[str, None] = {}
    for name in names:
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None or name in left_out:
            continue
        metric = name.removeprefix(prefix)
        metrics[metric.removesuffix("_step") if prefix == "train/" else metric] = None
    return sorted(metrics, key=lambda name: (name != "loss", name != "accuracy"))


def _group(name: str) -> str:
    """Returns the title of the group of a metric that has no split."""
    first, slash, _ = name.partition("/")
    if first == "lr" or _is_norm(name):
        return _OPTIMIZATION
    if first == "perf":
        return _PERFORMANCE
    return _capital(first.replace("_", " ")) if slash and first.strip("_") else _OTHERS


def _is_norm(name: str) -> bool:
    return re.search(r"(^|[/_])norms?([/_]|$)", name) is not None


def _in_words(name: str) -> str:
    if name.startswith("lr/"):
        return f"learning rate, {name[3:]}"
    return _TITLES.get(name, name.removeprefix("perf/").replace("/", " ").replace("_", " "))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
