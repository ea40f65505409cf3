"""The names of the metrics that a fit publishes, known before its first step."""

from __future__ import annotations

from collections.abc import Iterable

from nnx_alexnet.callbacks import CallbackList
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


def own_names(evaluation: EvaluationTrace | None, val_sets: Iterable[str] = ()) -> set[str]:
    """Returns the metrics that only the trainer may publish."""
    names = [] if evaluation is None else [*evaluation.metric_names, *evaluation.split_metrics]
    at_ends = {f"{split}/{name}" for split in ("train", "val", "test", *val_sets) for name in names}
    return at_ends | {f"train/{name}_step" for name in names}
