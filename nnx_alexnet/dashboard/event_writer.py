"""Writes TensorBoard event files, with the methods of CLU's `MetricWriter`, without TensorFlow.

Events are framed by TensorBoard's `RecordWriter` and written at once, in the calling thread: a
write takes a fraction of a millisecond, a killed run loses nothing, and an `OSError` (a full
disk) reaches the caller. TensorBoard's own `EventFileWriter` writes in a thread that ends at the
first such error and cannot go on, and it imports TensorFlow where that is installed.
"""

import io
import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from nnx_alexnet.dashboard.event_reader import next_event_file

_IMAGE_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # channels to Pillow's name
_DEFAULT_NUM_BUCKETS = 30  # as TensorBoard's own histograms
_file_numbers = itertools.count()


class TensorBoardWriter:
    """Writes one TensorBoard event file; any CLU `MetricWriter` can take its place.

    Several threads may write.

    Args:
        directory: the run's folder, made if it is missing; each writer adds a file of its own.

    Raises:
        OSError: from every method, if the file cannot be written. What was written before stays
            readable, and a later call may succeed.

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
        self._run = _utf8(f"{folder.resolve().parent.name}/{folder.name}")
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
            scalars: name to a number or an array of one element; NaN and infinity are kept.
        """
        summary = Summary()
        for name, value in scalars.items():
            summary.MergeFrom(scalar_pb(_utf8(name), float(value)))
        self._write_summary(step, summary)

    def write_images(self, step: int, images: Mapping[str, ArrayLike]) -> None:
        """Writes images.

        Args:
            step: the optimizer step at which they were produced.
            images: name to [N, H, W, C] or [H, W, C], with C of 1 (grey), 2 (grey, alpha), 3 (RGB)
                or 4 (RGBA); uint8, or float from 0 to 1 (values beyond are clipped).

        Raises:
            ValueError: for another shape or dtype.
        """
        summary = Summary()
        for name, value in images.items():
            pixels = _pixels(name, value)
            height, width = pixels.shape[1:3]
            strings = [str(width).encode(), str(height).encode(), *map(_png, pixels)]
            summary.value.add(
                tag=_utf8(name),
                metadata=image_metadata.create_summary_metadata(None, None),
                tensor=make_tensor_proto(strings, dtype=np.object_),
            )
        self._write_summary(step, summary)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts.

        Args:
            step: the optimizer step at which they were produced.
            texts: name to text; TensorBoard shows it as Markdown.
        """
        summary = Summary()
        for name, text in texts.items():
            summary.MergeFrom(text_pb(_utf8(name), _utf8(text)))
        self._write_summary(step, summary)

    def write_histograms(
        self,
        step: int,
        arrays: Mapping[str, ArrayLike],
        num_buckets: Mapping[str, int] | None = None,
    ) -> None:
        """Writes the distribution of each array's finite values.

        Args:
            step: the optimizer step at which they were produced.
            arrays: name to an array of any shape.
            num_buckets: name to its number of buckets; 30 for a name that is not in it.
        """
        summary = Summary()
        for name, array in arrays.items():
            num = (num_buckets or {}).get(name, _DEFAULT_NUM_BUCKETS)
            summary.value.add(
                tag=_utf8(name),
                metadata=histogram_metadata.create_summary_metadata(None, None),
                tensor=make_tensor_proto(_buckets(array, num), dtype=np.float64),
            )
        self._write_summary(step, summary)

    def write_hparams(
        self, hparams: Mapping[str, Any], *, metric_names: Iterable[str] = ()
    ) -> None:
        """Writes the start of a session of the HParams tab; once for a run.

        Args:
            hparams: name to value; what is no bool, finite number or string is written as text.
            metric_names: the scalars whose last value the tab shows as the session's result.
        """
        values = {_utf8(name): _hparam(value) for name, value in hparams.items()}
        experiment = api_pb2.Experiment(
            hparam_infos=[
                api_pb2.HParamInfo(name=name, type=_hparam_type(value))
                for name, value in values.items()
            ],
            metric_infos=[
                api_pb2.MetricInfo(name=api_pb2.MetricName(tag=_utf8(name)))
                for name in sorted(metric_names)
            ],
            time_created_secs=time.time(),
        )
        summary = _hparams_summary(
            hparams_metadata.EXPERIMENT_TAG,
            plugin_data_pb2.HParamsPluginData(experiment=experiment),
        )
        summary.MergeFrom(hparams_pb(values, trial_id=self._run))
        self._write_summary(0, summary)

    def write_session_end(self, *, success: bool) -> None:
        """Writes the end of the session that `write_hparams` began; CLU has no such method.

        Args:
            success: whether the run came to its end.
        """
        end = plugin_data_pb2.SessionEndInfo(
            status=api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE,
            end_time_secs=time.time(),
        )
        data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        self._write_summary(0, _hparams_summary(hparams_metadata.SESSION_END_INFO_TAG, data))

    def write_layout(self, charts: Mapping[str, Iterable[str]]) -> None:
        """Writes which metrics share a chart of the Custom Scalars tab; CLU has no such method.

        Args:
            charts: a chart's title to the names of its scalars.
        """
        layout = layout_pb2.Layout(
            category=[
                layout_pb2.Category(
                    title="training and validation",
                    chart=[
                        layout_pb2.Chart(
                            title=_utf8(title),
                            multiline=layout_pb2.MultilineChartContent(
                                tag=[f"^{re.escape(_utf8(name))}$" for name in names]
                            ),
                        )
                        for title, names in charts.items()
                    ],
                )
            ]
        )
        summary = Summary()
        summary.value.add(
            tag=layout_metadata.CONFIG_SUMMARY_TAG,
            metadata=layout_metadata.create_summary_metadata(),
            tensor=make_tensor_proto(layout.SerializeToString(), dtype=np.object_),
        )
        self._write_summary(0, summary)

    def flush(self) -> None:
        """Does nothing: every call above has written its event when it returns."""

    def close(self) -> None:
        """Closes the file; may be called twice."""
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
                # A record cut short would make all that follows unreadable.
                self._file.truncate(start)
                self._file.seek(start)
                raise


def _utf8(text: str) -> str:
    """Returns text without lone surrogates, which are bytes of a file name that is not text."""
    return text.encode("utf-8", "backslashreplace").decode()


def _pixels(name: str, value: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(value)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] not in _IMAGE_MODES:
        raise ValueError(
            f"`images[{name!r}]` has the shape {np.shape(value)}; it must be [N, H, W, C] or "
            "[H, W, C] with 1, 2, 3 or 4 channels."
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iub":
        raise ValueError(
            f"`images[{name!r}]` has the dtype {array.dtype}; it must be uint8, or float from 0 "
            "to 1."
        )
    unit = np.clip(np.nan_to_num(array.astype(np.float32)), 0, 1)
    return np.round(unit * 255).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    channels = pixels.shape[-1]
    encoded = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(encoded, format="png")
    return encoded.getvalue()


def _buckets(array: ArrayLike, num_buckets: int) -> NDArray[np.float64]:
    """Returns [num_buckets, 3]: left edge, right edge and count, as TensorBoard reads them."""
    values = np.asarray(array)
    if np.iscomplexobj(values):  # of which a histogram can show the magnitudes
        values = np.abs(values)
    values = values.astype(np.float64).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        return np.zeros((num_buckets, 3))
    counts, edges = np.histogram(values, bins=num_buckets)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)


def _hparam(value: Any) -> bool | float | str:
    if isinstance(value, np.generic):
        value = value.item()
    # TensorBoard sends numbers to the browser as JSON, which has no NaN and no infinity.
    if isinstance(value, str):
        return _utf8(value)
    if isinstance(value, bool) or (isinstance(value, int | float) and np.isfinite(value)):
        return value
    return _utf8(str(value))


def _hparam_type(value: bool | float | str) -> Any:
    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def _hparams_summary(tag: str, data: Any) -> Summary:
    summary = Summary()
    summary.value.add(
        tag=tag,
        metadata=hparams_metadata.create_summary_metadata(data),
        tensor=hparams_metadata.NULL_TENSOR,
    )
    return summary
