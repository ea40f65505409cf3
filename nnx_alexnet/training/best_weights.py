"""`BestWeights`: lets `fit` end with the best weights in the model, for `restore_best`."""

from __future__ import annotations

from collections.abc import Iterable

from nnx_alexnet.callbacks import Callback, EarlyStopping, ModelCheckpoint
from nnx_alexnet.checkpoints import read_checkpoint
from nnx_alexnet.devices import on_main
from nnx_alexnet.support import logger
from nnx_alexnet.training.model_arrays import ModelArrays
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.run import Run


class BestWeights:
    """Keeps or reads the best weights of a run for the callback that asks for them.

    For `EarlyStopping`, the weights are copied to the host at each improvement. For
    `ModelCheckpoint`, they are read from its best checkpoint at the end of the run.

    Args:
        callbacks: at most one of them has `restore_best`.
        arrays: the arrays of the model.
        progress: the counters.
        run: the checkpoints.

    Raises:
        ValueError: several callbacks have `restore_best`.
    """

    def __init__(
        self, callbacks: Iterable[Callback], arrays: ModelArrays, progress: Progress, run: Run
    ) -> None:
        found = [
            each
            for each in callbacks
            if isinstance(each, EarlyStopping | ModelCheckpoint) and each.restore_best
        ]
        if len(found) > 1:
            raise ValueError(
                f"`callbacks` holds {' and '.join(map(repr, found))}, but the model can end with "
                "the best weights of only one. Set `restore_best` in one of them."
            )
        self._owner = found[0] if found else None
        self._arrays = arrays
        self._progress = progress
        self._run = run

    def keep(self) -> None:
        """Copies the weights to the host if this validation or epoch has improved the metric."""
        owner, step = self._owner, self._progress.global_step
        if isinstance(owner, EarlyStopping) and owner.best_step == step:
            self._arrays.keep_best()

    def use(self) -> None:
        """Puts the best weights into the model, after the end of the training."""
        owner = self._owner
        if isinstance(owner, EarlyStopping):
            step, value, monitor = owner.best_step, owner.best, owner.monitor
            is_found = step is not None and self._arrays.use_best()
        elif owner is not None:
            step, value = on_main(self._best_checkpoint)
            monitor, is_found = owner.ranked_by or "", step is not None
            if step is not None:
                self._read(step)
        else:
            return
        if is_found:
            text = "The model has the weights of step %s, the best by %s (%.4g)."
            logger.info(text, step, monitor, value)
        else:
            text = "`restore_best`: no weights with a finite %s were kept; the model has the last."
            logger.warning(text, monitor)

    def _best_checkpoint(self) -> tuple[int | None, float | None]:
        """Returns the step and the value of the best checkpoint, in the first process."""
        checkpoints = self._run.checkpoints
        return (
            (None, None) if checkpoints is None else (checkpoints.best_step, checkpoints.best_value)
        )

    def _read(self, step: int) -> None:
        assert self._run.run_dir is not None, "a ModelCheckpoint needs a folder"
        folder = self._run.run_dir / "checkpoints" / str(step)
        saved = read_checkpoint(folder, items=("model", "evaluation"))
        arrays = saved.evaluated_model()
        self._arrays.restore_model({f"model/{name}": array for name, array in arrays.items()})
        self._arrays.lend()
