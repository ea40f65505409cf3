"""Writes TensorBoard event files, with the methods of CLU's `MetricWriter`, without TensorFlow.

TensorBoard's `RecordWriter` frames the events. Each event is written immediately, in the calling
thread: a write takes a fraction of a millisecond, a killed run loses nothing, and an `OSError` (a
full disk) reaches the caller. TensorBoard's own `EventFileWriter` writes in a thread that ends at
the first such error and cannot continue. It also imports TensorFlow if that is installed.
"""

import io
import itertools
import os
import socket
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from nnx_alexnet.dashboard.event_files import next_event_file
from nnx_alexnet.dashboard.summaries import (
    columns_summary,
    histogram_summary,
    image_summary,
    layout_summary,
    scalar_summary,
    session_end_summary,
    session_start_summary,
    text_summary,
    utf8,
)

_file_numbers = itertools.count()


class TensorBoardWriter:
    """Writes one TensorBoard event file; any CLU `MetricWriter` can replace it.

    Several threads may use one writer. Names are written under the tags of the module `tags`, so
    that TensorBoard shows losses and accuracies first. A text keeps its name.

    Args:
        directory: the run's folder, created if it is missing; each writer adds its own file.

    Raises:
        OSError: from every method, if the file cannot be written. Earlier events stay readable,
            and a later call may succeed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     writer = TensorBoardWriter(directory)
        ...     writer.write_scalars(10, {"train/loss": 0.5})
        ...     writer.close()
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._run = utf8(f"{folder.resolve().parent.name}/{folder.name}")
        path = next_event_file(
            folder, f"{socket.gethostname()}.{os.getpid()}.{next(_file_numbers)}"
        )
        self._lock = threading.Lock()
        self._file = path.open("xb", buffering=0)
        try:
            self._write_event(
                Event(
                    wall_time=time.time(),
                    file_version="brain.Event:2",
                    source_metadata=SourceMetadata(writer="nnx_alexnet.dashboard.event_writer"),
                )
            )
        except BaseException:
            self._file.close()
            raise

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers, all in one event.

        Args:
            step: the optimizer step at which they were produced.
            scalars: name to a number or an array without dimensions; NaN and infinity are kept.
        """
        self._write_summary(step, scalar_summary(scalars))

    def write_images(self, step: int, images: Mapping[str, ArrayLike]) -> None:
        """Writes images.

        Args:
            step: the optimizer step at which they were produced.
            images: name to [N, H, W, C] or [H, W, C], with C of 1 (grey), 2 (grey, alpha), 3 (RGB)
                or 4 (RGBA); uint8, or float from 0 to 1 (values outside are clipped).

        Raises:
            ValueError: an array has another shape or dtype.
        """
        self._write_summary(step, image_summary(images))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts.

        Args:
            step: the optimizer step at which they were produced.
            texts: name to text, which TensorBoard shows as Markdown.
        """
        self._write_summary(step, text_summary(texts))

    def write_histograms(
        self,
        step: int,
        arrays: Mapping[str, ArrayLike],
        num_buckets: Mapping[str, int] | None = None,
    ) -> None:
        """Writes the distribution of each array's finite values.

        Args:
            step: the optimizer step at which they were produced.
            arrays: name to an array of any shape; complex values are shown by their magnitude.
            num_buckets: name to number of buckets; 30 for other names.
        """
        self._write_summary(step, histogram_summary(arrays, num_buckets))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the start of a session of the HParams tab; call it once per start of a run.

        Args:
            hparams: name to value; values other than bools, finite numbers and strings are written
                as text.
        """
        self._write_summary(0, session_start_summary(self._run, hparams))

    def write_columns(
        self,
        hparams: Mapping[str, Any],
        metric_names: Iterable[str],
        *,
        first: Collection[str] = (),
    ) -> None:
        """Writes the columns of the HParams tab; CLU has no such method.

        Call it once per start of a run, when the names of its metrics are known. TensorBoard leaves
        out of its charts a run without a value for one of the columns.

        Args:
            hparams: as passed to `write_hparams`.
            metric_names: the scalars whose last values the tab shows, in this order.
            first: the hyperparameters to show first.
        """
        self._write_summary(0, columns_summary(hparams, metric_names, first))

    def write_session_end(self, *, success: bool) -> None:
        """Writes the end of the session that `write_hparams` started; CLU has no such method.

        Args:
            success: whether the run finished.
        """
        self._write_summary(0, session_end_summary(success))

    def write_layout(self, charts: Mapping[str, Iterable[str]]) -> None:
        """Writes which metrics share a chart of the Custom Scalars tab; CLU has no such method.

        Args:
            charts: chart title to the names of its scalars.
        """
        self._write_summary(0, layout_summary(charts))

    def write_restart(self, step: int) -> None:
        """Writes the event that marks a start or a restart; CLU has no such method.

        Programs then discard this step and later ones that were written before.

        Args:
            step: the first step that follows.
        """
        start = SessionLog(status=SessionLog.START)
        self._write_event(Event(wall_time=time.time(), step=step, session_log=start))

    def flush(self) -> None:
        """Does nothing, because every method above has written its event when it returns."""

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()

    def _write_summary(self, step: int, summary: Summary) -> None:
        self._write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _write_event(self, event: Event) -> None:
        framed = io.BytesIO()
        RecordWriter(framed).write(event.SerializeToString())
        left = framed.getvalue()
        with self._lock:
            start = self._file.tell()
            try:
                while left:
                    left = left[self._file.write(left) :]
            except OSError:
                # TensorBoard would not read anything after a partial record.
                self._file.truncate(start)
                self._file.seek(start)
                raise
