"""The columns of TensorBoard's HParams tab: a run's hyperparameters and its final metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from nnx_alexnet.runs import class_metrics

# TensorBoard ticks the first five.
FIRST_HPARAMS = (
    "data.batch_size",
    "model",
    "optimizer.learning_rate",
    "optimizer.name",
    "optimizer.schedule",
)
# These have no effect on the results.
_LEFT_OUT = (
    "data.download",
    "trainer.log_dir",
    "trainer.log_every_n_steps",
    "trainer.progress_bar",
)
_METRIC_ORDER = ("val/", "test/", "train/", "", "perf/images", "perf/", "lr")


def hyperparameters(config: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Returns the bools, numbers and strings of a nested configuration by their dotted names.

    Classes are named without their module, and their arguments as on the command line. Settings
    that do not affect the results, such as `progress_bar`, are left out.

    Example:
        >>> from nnx_alexnet.dashboard.hparams import hyperparameters
        >>> model = {"class_path": "nnx_alexnet.AlexNet", "init_args": {"dropout_rate": 0.5}}
        >>> hyperparameters({"seed": 0, "model": model, "trainer": {"progress_bar": True}})
        {'seed': 0, 'model': 'AlexNet', 'model.dropout_rate': 0.5}
    """
    named = (_named(path, value) for path, value in flatten_dict(dict(config)).items())
    return {
        name: value
        for name, value in named
        if isinstance(value, bool | int | float | str) and name and name not in _LEFT_OUT
    }


def _named(path: tuple[object, ...], value: object) -> tuple[str, object]:
    """Returns the name and the value of an entry as the tab shows them."""
    last = str(path[-1])
    parents = [str(part) for part in path[:-1] if part != "init_args"]
    if last in ("class_path", "class") and isinstance(value, str):
        return ".".join(parents), value.rpartition(".")[2]
    if last == "tags" and isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return ".".join([*parents, last]), value


def metric_columns(names: Iterable[str]) -> list[str]:
    """Returns the metrics to show, those of the validation first; TensorBoard ticks five.

    Values within an epoch, such as `train/loss_step`, and of single classes are left out.

    Example:
        >>> from nnx_alexnet.dashboard.hparams import metric_columns
        >>> metric_columns(["lr", "train/loss", "train/loss_step", "f1", "val/loss"])
        ['val/loss', 'train/loss', 'f1', 'lr']
    """

    def rank(name: str) -> tuple[int, bool, str]:
        found = (n for n, start in enumerate(_METRIC_ORDER) if start and name.startswith(start))
        is_main = name.endswith(("/accuracy", "/loss"))
        return next(found, _METRIC_ORDER.index("")), not is_main, name

    names = [*names]
    left_out = class_metrics(names)
    return sorted((n for n in names if not n.endswith("_step") and n not in left_out), key=rank)
