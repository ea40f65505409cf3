"""Reads the TensorBoard event files of a run, and removes steps that will be repeated."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nnx_alexnet.dashboard.event_files import PREFIX, event_files
from nnx_alexnet.support import write_whole

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

_PNG = b"\x89PNG\r\n\x1a\n"


class StoredImage(NamedTuple):
    """An image from an event file.

    Attributes:
        width: in pixels.
        height: in pixels.
        png: the bytes of a PNG file.
    """

    width: int
    height: int
    png: bytes


class Newest(NamedTuple):
    """The newest value of a tag.

    Attributes:
        step: the optimizer step at which it was written.
        images: the images of an image tag.
        text: the text of a text tag.
    """

    step: int
    images: list[StoredImage]
    text: str


def read_newest(run_dir: Path, tags: Sequence[str]) -> dict[str, Newest]:
    """Returns the newest value of each tag, as TensorBoard would show it.

    Args:
        run_dir: the folder that holds the event files.
        tags: the tags of images and texts.

    Returns:
        The newest value of each tag that was found. Files that cannot be read are ignored.
    """
    newest = {}
    for path in event_files(run_dir):  # in the order in which they were written
        try:
            for _, event in _records(path):
                for value in event.summary.value:
                    if value.tag in tags:
                        newest[value.tag] = event.step, list(value.tensor.string_val)
        except OSError:
            continue
    return {tag: _decoded(step, strings) for tag, (step, strings) in newest.items()}


def drop_steps(run_dir: Path, step: int) -> None:
    """Removes from a run's event files everything written at this step and at later ones.

    A resumed run repeats those steps, and TensorBoard would show both values. (There is an event
    that marks a restart, but TensorBoard ignores it for current kinds of summaries.) The sessions
    of the HParams tab are also removed, because each start begins a new one. In a damaged file,
    everything from the first damaged record on is removed, because TensorBoard does not read it.
    Other files are not changed.

    Args:
        run_dir: the folder that holds the event files.
        step: the first optimizer step that will be repeated; 0 removes everything.

    Raises:
        OSError: a file cannot be read or written; that file is unchanged.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    for path in event_files(run_dir):
        if not path.name.startswith(PREFIX):
            continue
        size = path.stat().st_size
        kept = io.BytesIO()
        writer = RecordWriter(kept)
        for record, event in _records(path):
            if _stays(event, step):
                writer.write(record)
        if kept.tell() != size:
            write_whole(path, kept.getvalue())


def _records(path: Path) -> Iterator[tuple[bytes, Event]]:
    """Yields the records of a file, each with its event, up to the first damaged one."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    # The loaders of `tensorboard.backend` import TensorFlow if it is installed.
    from tensorboard.compat.tensorflow_stub import errors
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    try:
        reader = PyRecordReader_New(os.fspath(path))
        while True:
            reader.GetNext()
            yield (record := reader.record()), Event.FromString(record)
    except errors.NotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except (errors.OutOfRangeError, errors.DataLossError, DecodeError):
        return
    except (MemoryError, OverflowError):  # an invalid length, which is read before the data
        return


def _stays(event: Event, step: int) -> bool:
    if event.HasField("file_version"):
        return True
    is_session = any(value.tag.startswith("_hparams_/") for value in event.summary.value)
    return bool(event.step < step and not is_session)


def _decoded(step: int, strings: Sequence[bytes]) -> Newest:
    # An image tag has width and height, then the PNG files; each PNG file also has its own size.
    images = [
        StoredImage(int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big"), png)
        for png in strings
        if png.startswith(_PNG) and len(png) > 24
    ]
    text = "" if images else b"\n".join(strings).decode(errors="replace")
    return Newest(step, images, text)
