"""The names of the metrics that a fit publishes, known before its first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nnx_alexnet.callbacks import CallbackList
from nnx_alexnet.support import as_number, check_metric_name
from nnx_alexnet.training.epoch_metrics import EpochMeter
from nnx_alexnet.training.flops import flops_utilization, peak_memory
from nnx_alexnet.training.tracing import EvaluationTrace, TrainingTrace


def names_at_log_points(evaluation: EvaluationTrace) -> frozenset[str]:
    """Returns the metrics that are published at log points, such as "train/loss_step"."""
    return frozenset(f"train/{name}_step" for name in evaluation.metric_names if "/" not in name)


def names_at_epoch_ends(
    evaluation: EvaluationTrace,
    training: TrainingTrace,
    callbacks: CallbackList,
    *,
    val_sets: Iterable[str],
) -> frozenset[str]:
    """Returns the metrics that can be monitored, including those of callbacks.

    Args:
        evaluation: the forward pass.
        training: the train step.
        callbacks: declare metrics of their own.
        val_sets: the prefixes of the validation splits, such as "val" or "val/clean".
    """
    names = {name for callback in callbacks for name in callback.metric_names}
    names |= {f"train/{metric}" for metric in evaluation.metric_names}
    of_split = [*evaluation.metric_names, *evaluation.split_metrics]
    names |= {f"{split}/{metric}" for split in val_sets for metric in of_split}
    names |= {*training.rate_names, *EpochMeter.names, "perf/compile_seconds"}
    # Not every device reports these.
    if flops_utilization(1.0, training.example_flops) is not None:
        names.add("perf/mfu")
    if peak_memory() is not None:
        names.add("perf/peak_memory_bytes")
    return frozenset(names)


def checked_metrics(
    metrics: Mapping[str, float],
    evaluation: EvaluationTrace | None,
    val_sets: Iterable[str] = (),
) -> dict[str, float]:
    """Returns the metrics that a callback publishes, as numbers.

    Args:
        metrics: by their names.
        evaluation: the forward pass; None if it is not known yet.
        val_sets: as for `names_at_epoch_ends`.

    Raises:
        ValueError: the trainer publishes a name itself.
        TypeError: a name is not text, or a value is not a number.
    """
    own = [] if evaluation is None else [*evaluation.metric_names, *evaluation.split_metrics]
    taken = {f"{split}/{name}" for split in ("train", "val", "test", *val_sets) for name in own}
    taken |= {f"train/{name}_step" for name in own}
    for name in metrics:
        check_metric_name(name)
        if name in taken:
            raise ValueError(
                f"`metrics` has the name {name!r}, which the trainer publishes itself. Log yours "
                "under another name."
            )
    return {name: as_number(name, value) for name, value in metrics.items()}
