"""The batches of a split that is an iterable of batches, such as a torch `DataLoader`."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from nnx_alexnet.data.batching import Batch, own_batch
from nnx_alexnet.data.iterable_source import IterableSource
from nnx_alexnet.data.stream_positions import Mark, Positions, digest
from nnx_alexnet.data.stream_state import StateRefusedError
from nnx_alexnet.support import logger


class OtherDataError(ValueError):
    """The batches are not those of the saved run."""


class _Restored(NamedTuple):
    """The rest of an epoch of a resumed run.

    Attributes:
        place: the epoch, and the number of batches before.
        batches: the batches after them.
    """

    place: tuple[int, int]
    batches: Iterator[Batch]


class IterableBatches:
    """Yields the batches of an iterable in its own order and sizes.

    Args:
        source: the batches.
        argument: what the user calls the split, for errors.
    """

    num_examples = None  # not known
    num_left_out = 0
    num_workers = 0
    drop_last = False

    def __init__(self, source: IterableSource, *, argument: str) -> None:
        self._source = source
        self._argument = argument
        self._positions: Positions | None = None  # of the newest pass that records them
        self._end: Any = None  # the state at the end of that pass
        self._restored: _Restored | None = None

    @property
    def batch_size(self) -> int:
        """Rows of the first batch."""
        return self._source.batch_size

    @property
    def num_batches(self) -> int | None:
        """Batches per epoch; see `IterableSource.num_batches`."""
        return self._source.num_batches

    def count(self, number: int, batch: Batch) -> int:
        """Returns how many examples a batch has."""
        return int(np.count_nonzero(batch["mask"]))

    def batches(
        self, epoch: int, start: int, *, multiple: int | None, records: bool
    ) -> Iterator[Batch]:
        """Yields the batches of one epoch; see `Loader.batches`."""
        restored, self._restored = self._restored, None
        if records and restored is not None and restored.place == (epoch, start):
            yield from restored.batches
            return
        if start:
            logger.info("Skipping %d batches of an iterable by reading them.", start)
        batches = self._read(epoch, Mark(), multiple=multiple, records=records)
        yield from itertools.islice(batches, start, None)

    def _read(
        self, epoch: int, start: Mark, *, multiple: int | None = None, records: bool = True
    ) -> Iterator[Batch]:
        """Yields the batches of one epoch, starting at a mark."""
        source, given, position = self._source, start.given, start.examples
        stream, batches = source.open(epoch, start)
        positions = Positions(epoch, start, stream.read_state) if records else None
        if positions is not None:
            self._positions = positions
        try:
            for rows in batches:
                batch = own_batch(
                    rows, position=position, batch_size=source.batch_size, multiple=multiple
                )
                if batch is None:
                    continue
                given, position = given + 1, position + self.count(given, batch)
                if positions is not None:
                    positions.note(given, position, batch)
                yield batch
            if positions is not None:
                self._end = stream.read_state() if stream.lasts else None
        finally:
            stream.close()
        if not given:
            raise ValueError(f"`{self._argument}` yields batches whose masks exclude every row.")
        source.note_count(given)

    # ---- Positions ------------------------------------------------------------------------------

    @property
    def kind(self) -> str | None:
        """The method that returns the state of a pass, or None: "StatefulDataLoader.state_dict"."""
        return self._source.kind

    def check_state(self) -> None:
        """Raises a `ValueError` if a checkpoint cannot hold the state of the iterable."""
        self._source.check_state()

    def position(self, epoch: int, step: int) -> dict[str, Any]:
        """Returns the position after `step` batches of an epoch, for `restore` in another run.

        Args:
            epoch: the newest epoch whose `batches` were read with `records=True`, or the next
                one.
            step: not before the step that `forget_before` was given.

        Returns:
            JSON values.
        """
        mark = Mark(state=self._end)
        if self._positions is not None and self._positions.epoch == epoch:
            mark = self._positions.at(step)
        return {"kind": self.kind, **mark._asdict()}

    def forget_before(self, epoch: int, step: int) -> None:
        """Forgets the positions that no run after `step` batches of an epoch needs."""
        if self._positions is not None and self._positions.epoch == epoch:
            self._positions.forget_before(step)

    def restore(
        self,
        saved: Mapping[str, Any] | None,
        *,
        epoch: int,
        step: int,
        accepts_other: bool = False,
    ) -> bool:
        """Sets the position from which the next call of `batches` with `records=True` continues.

        Args:
            saved: what `position` returned in the saved run; None if its data had another form.
            epoch: the epoch of the position.
            step: batches before it.
            accepts_other: whether the batches may differ from those of the saved run.

        Returns:
            Whether it continues there. If not, the epoch must start again: an iterable without a
            state yields other batches than in the saved run, or the saved run had another iterable.

        Raises:
            ValueError: an iterable with a state does not continue where the saved run stopped.
        """
        if saved is None or saved["kind"] != self.kind:  # the user has accepted other data
            return step == 0
        mark = Mark(*(saved[name] for name in Mark._fields))
        if step == 0:
            self._end = mark.state
            self._restored = _Restored((epoch, 0), self._read(epoch, mark))
            return True
        check = None if accepts_other else mark.check
        starts = [Mark()] if mark.state is None else [mark, Mark()]
        problems = []
        for start in starts:
            try:
                batches = self._continued(epoch, start, step, (mark.given + 1, check))
            except (OtherDataError, StateRefusedError) as error:
                problems.append(str(error))
            else:
                self._restored = _Restored((epoch, step), batches)
                return True
        self._positions = None
        if mark.state is None:
            logger.warning(
                "`%s`: %s. Epoch %d starts again from its first batch.",
                self._argument, problems[0], epoch + 1,
            )  # fmt: skip
            return False
        raise ValueError(
            f"`{self._argument}` cannot continue where the saved run stopped, after batch {step} "
            f"of epoch {epoch + 1}: {problems[0]}. Pass the same loader, with the same number of "
            "workers, over the same data. If its examples change at random, continue with "
            'fit(resume=..., accept=["stream"]).'
        )

    def _continued(
        self, epoch: int, start: Mark, step: int, check: tuple[int, str | None]
    ) -> Iterator[Batch]:
        """Returns the batches after `step` batches of an epoch.

        Args:
            epoch: the epoch.
            start: where reading starts.
            step: batches before the one to return first.
            check: the number of a batch, from 1, and its digest in the saved run.

        Raises:
            OtherDataError: that batch differs, or there are fewer batches.
            StateRefusedError: the iterable does not accept the state.
        """
        if step - start.given > 1:
            logger.info(
                "Reading %d batches of `%s` again, up to the position of the saved run.",
                step - start.given, self._argument,
            )  # fmt: skip
        batches = self._read(epoch, start)
        for number in range(start.given + 1, step + 1):
            batch = next(batches, None)
            if batch is None:
                raise OtherDataError(f"it yields only {number - 1} batches")
            if number == check[0] and check[1] not in (None, digest(batch)):
                raise OtherDataError(f"its batch {number} differs from that of the saved run")
        return batches

    def check_workers(self) -> None:
        """Raises a `ValueError` if this is a `DataLoader` whose workers cannot be started."""
        self._source.check_workers()

    def close(self) -> None:
        """Drops an iterator that was opened to read the first batch."""
        self._source.close()
