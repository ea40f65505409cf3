"""The trainer as callbacks see it, without training: a test says what is published, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from nnx_alexnet.callbacks import Callback, CallbackList


class FakeTrainer:
    def __init__(
        self,
        callbacks: Iterable[Callback] = (),
        *,
        run_dir: Path | None = None,
        max_epochs: int | None = 6,
        max_steps: int | None = None,
        steps_per_epoch: int | None = 10,
        config: Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
    ):
        self.callbacks = CallbackList(callbacks)
        self.run_dir = run_dir
        self.log_dir = "logs"
        self.max_epochs = max_epochs
        self.max_steps = max_steps
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = 8
        self.config = dict(config or {})
        self.data = SimpleNamespace(val_sets={"val": None})
        self.evaluated_split: str | None = "val"
        self.validate_every_n_epochs = 1
        self.epoch = 0
        self.step_in_epoch = 0
        self.global_step = 0
        self.metrics: dict[str, float] = {}
        self.metric_steps: dict[str, int] = {}
        self.metric_names = frozenset(
            {"train/loss", "train/loss_step", "train/accuracy", "val/loss", "val/accuracy", "lr"}
        )
        self.epoch_metric_names = self.metric_names - {"train/loss_step"}
        self.stop_reason: str | None = None
        self.interrupted = False
        self.is_validating_within_epoch = False
        self.checkpoints: Any = None
        self.history: list[dict[str, Any]] = []
        self.num_examples = 0
        self._learning_rate = learning_rate
        self._requests: list[int] = []  # the steps at which a save was asked for

    def learning_rate(self) -> float | None:
        return self._learning_rate

    def learning_rates(self) -> dict[str, float]:
        return {} if self._learning_rate is None else {"lr": self._learning_rate}

    def scale_learning_rates(self, factors: Mapping[str, float]) -> None:
        for factor in factors.values():
            assert self._learning_rate is not None
            self._learning_rate *= factor

    def parameters(self) -> dict[str, jax.Array]:
        return {}

    def stop(self, reason: str | None) -> None:
        self.stop_reason = reason

    def request_checkpoint(self, *, gives_way: bool = False) -> None:
        self._requests.append(self.global_step)

    def current_value(self, name: str | None) -> float | None:
        is_current = name is not None and self.metric_steps.get(name) == self.global_step
        return self.metrics[name] if is_current else None

    def log(self, metrics: Mapping[str, float]) -> None:
        self.metrics.update(metrics)
        self.metric_steps.update(dict.fromkeys(metrics, self.global_step))
        self.callbacks.call("on_log", self, metrics, self.global_step)

    def begin(self, states: Mapping[str, dict[str, Any]] | None = None) -> None:
        """Starts a fit; `states` are those of a checkpoint to resume."""
        self.callbacks.call("setup", self, "fit")
        self.callbacks.call("on_fit_start", self)
        if states is not None:
            self.callbacks.load_state_dict(states)
        self.callbacks.call("on_train_start", self)

    def run_epoch(self, metrics: Mapping[str, float], *, steps: int | None = None) -> None:
        """One epoch without batches but for their hooks, at whose end `metrics` are published."""
        outputs = {"loss": jnp.float32(9)}
        self.callbacks.call("on_train_epoch_start", self)
        for batch_index in range(steps if steps is not None else self.steps_per_epoch or 1):
            self.global_step += 1
            self.step_in_epoch += 1
            self.callbacks.train_batch(
                "on_train_batch_end", self.global_step, self, outputs, {}, batch_index
            )
        if metrics:
            self.log(metrics)
        self.callbacks.call("on_train_epoch_end", self)
        self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def run(self, epochs: Iterable[Mapping[str, float]]) -> int:
        """Epochs until one asks to stop; returns how many were run."""
        count = 0
        for metrics in epochs:
            self.run_epoch(metrics)
            count += 1
            if self.stop_reason is not None:
                break
        return count

    def run_fit(
        self, epochs: Iterable[Mapping[str, float]], *, exception: BaseException | None = None
    ) -> int:
        """A whole fit, which `exception` ends if one is given; returns how many epochs were run."""
        self.begin()
        count = self.run(epochs)
        self.end(exception)
        return count

    def end(self, exception: BaseException | None = None) -> None:
        """Ends a fit, by an exception if one is given."""
        if exception is None:
            self.callbacks.call("on_train_end", self)
            self.callbacks.call("on_fit_end", self)
        else:
            self.callbacks.call("on_exception", self, exception)
        self.callbacks.call("teardown", self, "fit")
