"""`RunSummary`: logs what a run will do, and at its end what it did."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from nnx_alexnet.callbacks.base import Callback, Stage, last_step
from nnx_alexnet.callbacks.model_checkpoint import ModelCheckpoint
from nnx_alexnet.models import readable_size
from nnx_alexnet.support import (
    Mode,
    absolute_path,
    best_first,
    format_count,
    format_duration,
    from_working_directory,
    is_better,
    logger,
    printable,
)

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer

_LABEL_WIDTH = 8


class RunSummary(Callback):
    """Logs the devices, model, data, length and folder of a run, and at its end the outcome.

    The outcome is why the run ended, the best value, where it is saved, and the time. Facts that
    are not known, such as the size of an iterable, are omitted. After an exception there is no
    outcome. The Trainer adds this callback together with a `ProgressBar`.

    Example:
        >>> from nnx_alexnet.callbacks import RunSummary
        >>> callbacks = [RunSummary()]  # also with Trainer(..., progress_bar=False)
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._first_step = self._num_examples = 0
        self._seconds = 0.0  # of training on those examples

    def setup(self, trainer: Trainer, stage: Stage) -> None:
        """Starts the clock."""
        if stage == "fit":
            self._began = time.perf_counter()

    def on_fit_start(self, trainer: Trainer) -> None:
        """Forgets an earlier fit."""
        self._reset()

    def on_train_start(self, trainer: Trainer) -> None:
        """Logs what the run will do; the data and the restored state are in place."""
        self._first_step = trainer.global_step
        parameters = [*trainer.parameters().values()]
        _log("device", _device, trainer)
        _log("model", _model, trainer, parameters)
        _log("data", _data, trainer)
        _log("run", _length, trainer)
        _log("folder", _folder, trainer)

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        """Adds the speed of the epoch, which excludes compilation and validation."""
        if speed := trainer.current_value("perf/images_per_second"):
            self._num_examples += trainer.num_examples
            self._seconds += trainer.num_examples / speed

    def on_fit_end(self, trainer: Trainer) -> None:
        """Logs the outcome; the last checkpoint has been written."""
        _log("ended", _ending, trainer, self._first_step)
        for label, text in _best(trainer):
            _log(label, str, text)
        took = format_duration(time.perf_counter() - self._began)
        if self._num_examples:
            took += f", training at {self._num_examples / self._seconds:,.0f} examples/s"
        _log("time", str, took)
        if trainer.interrupted and trainer.run_dir is not None:
            _log("resume", _how_to_resume, trainer)


def run_facts(trainer: Trainer) -> list[tuple[str, str]]:
    """Returns the model, the data, the length and the folder of a run, with their labels.

    Facts that are not known are omitted. Nothing is computed, and no batch is read.
    """
    parameters = [*trainer.parameters().values()]
    described: list[tuple[str, Callable[[], str]]] = [
        ("model", lambda: _model(trainer, parameters)),
        ("data", lambda: _examples(trainer)),
        ("run", lambda: _length(trainer)),
        ("folder", lambda: "" if trainer.run_dir is None else _short(trainer.run_dir)),
    ]
    facts = []
    for label, describe in described:
        with suppress(Exception):  # models and tasks may be of any kind
            facts.append((label, describe()))
    return [(label, text) for label, text in facts if text]


def _log(label: str, describe: Callable[..., str], *arguments: Any) -> None:
    """Logs one line, unless the description fails: models and tasks may be of any kind."""
    try:
        text = describe(*arguments)
    except Exception as error:
        logger.debug("The summary has no line %r: %r", label, error)
    else:
        logger.info("%s%s", label.ljust(_LABEL_WIDTH), printable(text))


def _device(trainer: Trainer) -> str:
    placement = trainer.placement
    device, available = placement.mesh.devices.flat[0], jax.device_count()
    backend = "" if device.device_kind == device.platform else f" ({device.platform})"
    count = f"{placement.num_devices} of " if placement.num_devices < available else ""
    text = f"{device.device_kind}{backend}, {count}{format_count(available, 'device')}"
    if jax.process_count() > 1:
        text += f" in {jax.process_count()} processes"
    if placement.num_devices > 1:
        text += f": {placement.describe()}"
        text += ", state split over data" if placement.shard_state else ""
    return text


def _model(trainer: Trainer, parameters: list[jax.Array]) -> str:
    model = trainer.model
    size = readable_size(sum(array.nbytes for array in parameters))
    shape = trainer.data.image_shape
    items = [type(model).__name__]
    if shape is not None:
        items[0] += f" on {'x'.join(map(str, shape))}"
    items += [f"{sum(array.size for array in parameters):,} parameters", size]
    stored = {array.dtype.name for array in parameters} - {"float32"}
    dtypes = [getattr(module, "dtype", None) for _, module in nnx.iter_modules(model)]
    computed = {name for dtype in dtypes if (name := _dtype_name(dtype))} - {"float32"}
    if computed:
        items.append(f"computed in {', '.join(sorted(computed))}")
    if stored:
        items.append(f"stored in {', '.join(sorted(stored))}")
    return ", ".join(items)


def _dtype_name(dtype: Any) -> str | None:
    """Returns the name of a dtype, None if the attribute is something else."""
    try:
        return None if dtype is None else str(jnp.dtype(dtype).name)
    except TypeError:
        return None


def _data(trainer: Trainer) -> str:
    if trainer.data_is_on_device:
        return _examples(trainer, "on the device")
    if num_workers := trainer.data.train.num_workers:
        return _examples(trainer, f"read by {format_count(num_workers, 'worker')}")
    return _examples(trainer, "sent batch by batch")


def _examples(trainer: Trainer, *how: str) -> str:
    data = trainer.data
    items = [
        f"{loader.num_examples:,} {name}"
        for name, loader in data.splits.items()
        if loader.num_examples is not None
    ]
    return f"{data.name}: {', '.join([*items, *how])}"


def _length(trainer: Trainer) -> str:
    steps, last, first = trainer.steps_per_epoch, last_step(trainer), trainer.global_step
    if last is None:
        text = f"from step {first:,}, steps" if first else "steps"
    elif first >= last:
        text = f"done: {format_count(last, 'step')}"
    else:
        text = f"steps {first + 1:,} to {last:,}" if first else format_count(last, "step")
    text += f" of {format_count(trainer.batch_size, 'example')}"
    if trainer.max_epochs is not None:
        text += f", {format_count(trainer.max_epochs, 'epoch')}"
        text += "" if steps is None else f" of {format_count(steps, 'step')}"
    elif steps is not None:
        text += f", {steps:,} per epoch"
    if left_out := trainer.data.train.num_left_out:
        text += f" ({left_out:,} unused)"
    return text


def _folder(trainer: Trainer) -> str:
    if trainer.run_dir is None:
        return "none: nothing is written"
    root = absolute_path(trainer.log_dir or trainer.run_dir, "log_dir")
    runs = root if trainer.run_dir.is_relative_to(root) else trainer.run_dir.parent
    command = f"tensorboard --logdir {shlex.quote(_short(runs))}"
    return f"{_short(trainer.run_dir)}; to view it: {command}"


def _ending(trainer: Trainer, first_step: int) -> str:
    step = trainer.global_step
    if trainer.interrupted:
        why = "interrupted"
    elif trainer.stop_reason is not None:
        why = trainer.stop_reason
    elif trainer.max_steps is not None and step >= trainer.max_steps:
        why = "max_steps reached"
    else:
        why = f"{format_count(trainer.epoch, 'epoch')} done"
    where = f"at step {step:,}"
    if trainer.step_in_epoch:
        where += f", in epoch {trainer.epoch + 1}"
    was_done = step == first_step and not trainer.interrupted
    return f"{where}: {why}" + ("; nothing was left to train" if was_done else "")


def _best(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Yields labels and texts: the best value and, if it is elsewhere, the last checkpoint."""
    saver = next((c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)), None)
    epochs = {row["step"]: row["epoch"] for row in trainer.history}
    ranked_by = None if saver is None else saver.ranked_by
    name = ranked_by or f"{next(iter(trainer.data.val_sets), 'val')}/loss"
    mode: Mode = saver.mode if ranked_by and saver is not None else "min"
    rows = {row["step"]: row for row in trainer.history if name in row}
    ranked = best_first({step: row[name] for step, row in rows.items()}, mode=mode)
    row = rows[ranked[0]] if ranked else None
    if saver is not None and saver.best_path is not None and saver.best_value is not None:
        step = int(saver.best_path.name)
        if row is None or not is_better(row[name], saver.best_value, mode=mode):
            best = f"{name} {saver.best_value:.4g} {_position(step, epochs.get(step))}"
            yield "best", f"{best}, in {_short(saver.best_path)}"
            return
    if row is not None:
        best = f"{name} {row[name]:.4g} {_position(row['step'], row['epoch'])}"
        last = None if saver is None else saver.last_path
        is_kept = last is None or last.with_name(str(row["step"])).is_dir()
        yield "best", best + ("" if is_kept else ", not kept")
    if saver is not None and saver.last_path is not None:
        yield "saved", _short(saver.last_path)


def _position(step: int, epoch: int | None) -> str:
    return f"at step {step:,}" + ("" if epoch is None else f", epoch {epoch + 1}")


def _how_to_resume(trainer: Trainer) -> str:
    # Only the command line writes configurations with import paths.
    if "class_path" in (trainer.config.get("model") or {}):
        return f"nnx-alexnet fit --resume {shlex.quote(_short(trainer.run_dir))}"
    return 'fit(resume="auto")'


def _short(path: Path | None) -> str:
    assert path is not None
    return str(from_working_directory(path))
