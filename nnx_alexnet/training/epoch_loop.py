"""`EpochLoop`: trains on the batches of an epoch.

Each dispatch reads its batches, saves a checkpoint if a hook requested one, calls
`on_train_batch_start`, runs the compiled steps, advances all counters, and calls
`on_train_batch_end`.
"""

from __future__ import annotations

from typing import Any

import jax

from nnx_alexnet.data import Batch, example_batch
from nnx_alexnet.devices import check_alike
from nnx_alexnet.training.batch_groups import BatchGroups
from nnx_alexnet.training.dispatcher import Dispatcher, max_in_flight
from nnx_alexnet.training.evaluation_loop import CheckBatch
from nnx_alexnet.training.hooks import Hooks
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests
from nnx_alexnet.training.run import Run
from nnx_alexnet.training.run_identity import Ingredients
from nnx_alexnet.training.saver import Saver
from nnx_alexnet.training.validation import Validation


class EpochLoop:
    """Trains on the batches of an epoch, in dispatches that end where the host has work to do.

    Args:
        ingredients: data, settings and devices.
        progress: the counters.
        requests: the requests of hooks, signals and other processes.
        hooks: the callbacks.
        run: its checkpoints report errors of background saves.
        dispatcher: sends the steps.
        saver: saves between two dispatches.
        check_batch: raises if the task cannot learn from the labels of a batch.
        validation: validates within the epoch.
    """

    def __init__(
        self,
        *,
        ingredients: Ingredients,
        progress: Progress,
        requests: Requests,
        hooks: Hooks,
        run: Run,
        dispatcher: Dispatcher,
        saver: Saver,
        check_batch: CheckBatch,
        validation: Validation,
    ) -> None:
        self._settings = ingredients.settings
        self._data = ingredients.data
        self._placement = ingredients.placement
        self._progress = progress
        self._requests = requests
        self._hooks = hooks
        self._run = run
        self._dispatcher = dispatcher
        self._saver = saver
        self._check_batch = check_batch
        self._validation = validation
        self._loader = ingredients.data.train
        self._groups = BatchGroups(
            self._loader,
            ingredients.settings,
            hooks.callbacks,
            ingredients.evaluation,
            num_devices=ingredients.placement.num_devices,
        )

    @property
    def is_stopping(self) -> bool:
        """Whether no further step may follow.

        Do not add another limit here, because each process would evaluate it on its own: add a
        callback that calls `Trainer.stop`.
        """
        max_steps = self._settings.max_steps
        is_enough = max_steps is not None and self._progress.global_step >= max_steps
        has_reason = self._progress.stop_reason is not None
        return self._requests.interrupted or has_reason or is_enough

    def take_data(self, *, trains: bool = True) -> None:
        """Puts the train split on the devices if it is kept there, and limits the dispatches.

        Meanwhile, a thread compiles the train step.

        Args:
            trains: whether a step will follow (default True); else nothing is compiled.
        """
        stays = self._data.stays_on_device()
        check_alike({"keep_on_device": stays})  # the memory of the processes may differ
        self._groups.begin_training(sends_indices=stays)
        if trains and self._requests.is_alone and self._loader.has_whole_batch:
            self._dispatcher.compile_early(self.lowered(sends_indices=stays))
        data = self._data.on_device(self._placement.replicated) if stays else {}
        self._dispatcher.use_data(data)

    def lowered(self, *, sends_indices: bool | None = None) -> Any:
        """Returns the train step for whole batches, lowered but not compiled.

        Args:
            sends_indices: whether the data are on the device, so that only indices are sent
                (default: decided as for training).
        """
        if sends_indices is None:
            sends_indices = self._data.stays_on_device()
            self._groups.begin_training(sends_indices=sends_indices)
        loader, whole = self._loader, self._placement.replicated
        spec, data = loader.element_spec(), {}
        batch = example_batch(spec, loader.batch_size)
        max_steps = self._groups.max_steps(loader.batch_size, self._groups.lengths(batch))
        if sends_indices:
            data = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    (loader.num_examples, *leaf.shape), leaf.dtype, sharding=whole
                ),
                spec,
            )
            batch = {name: batch[name] for name in ("index", "mask")}
        return self._dispatcher.lowered(data, batch, max_steps=max_steps)

    def run(self) -> bool:
        """Trains on the remaining batches of the epoch; returns whether none is left."""
        progress, groups = self._progress, self._groups
        key = self._dispatcher.augmentation_key()
        batches = self._loader.batches(
            epoch=progress.epoch,
            seed=self._settings.seed,
            start=progress.step_in_epoch,
            reads=not self._dispatcher.data,
            part=self._placement.rows,
            records=self._settings.log_dir is not None,
        )
        groups.begin_epoch(batches, start=progress.step_in_epoch)
        try:
            while not self.is_stopping:
                if self._loader.stream is not None:
                    self._loader.stream.forget_before(progress.epoch, progress.step_in_epoch)
                group = groups.next_group(progress.global_step, self._dispatcher.note_wait)
                if not group:
                    groups.report_sizes()
                    return True
                if self._validation.is_due_by_step:  # at the end of the epoch, `FitLoop` validates
                    self._validation.run_within_epoch()
                if not self.is_stopping:
                    self._saver.save_if_asked()
                if self.is_stopping:  # requested since the last dispatch
                    groups.give_back(group)
                    break
                num_trained = self._train_group(group, key)
                groups.give_back(group[num_trained:])
            return groups.is_at_end(progress.step_in_epoch)
        finally:
            groups.end_epoch()

    def send_ahead(self) -> None:
        """Dispatches the first steps of the next epoch if their batches are only indices.

        Call it after the results of an epoch have been read, and before the host ends the epoch.
        """
        progress, groups, epoch = self._progress, self._groups, self._progress.epoch + 1
        if epoch == self._settings.max_epochs or self.is_stopping:
            return
        if not self._dispatcher.data or not self._requests.is_alone:
            return
        batches = self._loader.batches(
            epoch=epoch, seed=self._settings.seed, reads=False, part=self._placement.rows
        )
        groups.begin_epoch(batches, start=0)
        group = groups.next_group(progress.global_step, lambda _: None)
        groups.end_epoch()
        num_rows, lengths = groups.count(0, group[0]), groups.lengths(group[0])
        max_steps = groups.max_steps(num_rows, lengths)
        self._dispatcher.send_ahead(group, num_rows, lengths, max_steps=max_steps)

    def _train_group(self, group: list[Batch], key: jax.Array) -> int:
        """Dispatches a step for each batch; returns how many of them it trained on."""
        progress, hooks, groups = self._progress, self._hooks, self._groups
        step, index = progress.global_step, progress.step_in_epoch
        num_rows, lengths = groups.count(index, group[0]), groups.lengths(group[0])
        # Before a hook computes gradients of the batch.
        self._dispatcher.begin_group(num_rows, lengths)
        is_due, is_due_by_step = hooks.callbacks.is_due, hooks.callbacks.is_due_by_step
        if is_due("on_train_batch_start", step + 1):
            first = self._loader.complete(group[0])
            hooks.train_batch("on_train_batch_start", step + 1, first, index)
            if is_due_by_step("on_train_batch_start", step + 1):
                self._requests.settle()
            if self.is_stopping or self._requests.is_save_asked:  # both take effect after one step
                group = group[:1]
        for batch in group:
            self._check_batch(self._loader, batch)
        if self._run.checkpoints is not None:
            self._run.checkpoints.check()  # raises the error of a background save
        max_steps = groups.max_steps(num_rows, lengths)
        last = self._dispatcher.send(
            group,
            key,
            num_examples=sum(groups.count(index + n, batch) for n, batch in enumerate(group)),
            max_steps=max_steps,
        )
        if self._run.checkpoints is not None:
            self._run.checkpoints.prepare()
        at_most = max_in_flight(max_steps)
        if is_due("on_train_batch_end", progress.global_step):
            batch = self._loader.complete(group[-1])
            hooks.train_batch(
                "on_train_batch_end", progress.global_step, last, batch, progress.step_in_epoch - 1
            )
            if is_due_by_step("on_train_batch_end", progress.global_step):
                at_most = 0  # requests made at this step take effect at this step
        self._requests.settle(at_most=at_most)
        return len(group)
