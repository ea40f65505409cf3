"""Reads the TensorBoard event files of a run, and removes steps that will be repeated."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nnx_alexnet.dashboard.event_files import PREFIX, event_files
from nnx_alexnet.dashboard.tags import image_tag, scalar_tag
from nnx_alexnet.support import write_whole

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBER = re.compile(r"/[0-9]+$")  # of one of several images


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
    """The newest value of a name.

    Attributes:
        step: the optimizer step at which it was written.
        images: the images of that name.
        text: the text of that name.
    """

    step: int
    images: list[StoredImage]
    text: str


def read_newest(run_dir: Path, names: Sequence[str]) -> dict[str, Newest]:
    """Returns the newest image or text of each name, as TensorBoard would show it.

    Args:
        run_dir: the folder that holds the event files.
        names: the names of images and texts, as passed to the writer.

    Returns:
        The newest value of each name that was found. Files that cannot be read are ignored.
    """
    newest: dict[str, Newest] = {}
    for path in event_files(run_dir):  # in the order in which they were written
        try:
            for _, event in _records(path):
                newest.update(_values(event, names))
        except OSError:
            continue
    return newest


def read_scalars(run_dir: Path, names: Sequence[str]) -> dict[str, dict[int, float]]:
    """Returns the finite values of each name by step; the newest if a step has several.

    Args:
        run_dir: the folder that holds the event files.
        names: the names of numbers, as passed to the writer.

    Returns:
        The values of each name that was found. Files that cannot be read are ignored.
    """
    tags = {scalar_tag(name): name for name in names}
    found: dict[str, dict[int, float]] = {}
    for path in event_files(run_dir):
        with contextlib.suppress(OSError):
            for _, event in _records(path):
                for value in event.summary.value:
                    if value.tag in tags and math.isfinite(value.simple_value):
                        found.setdefault(tags[value.tag], {})[event.step] = value.simple_value
    return found


def drop_steps(run_dir: Path, step: int) -> None:
    """Removes from a run's event files everything written at this step and at later ones.

    A resumed run repeats those steps. (The event that marks a restart also hides them, but only
    from programs that know this event.) The sessions of the HParams tab are also removed, because
    each start begins a new one. In a damaged file, everything from the first damaged record on is
    removed, because TensorBoard does not read it. Other files are not changed.

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


def _values(event: Event, names: Sequence[str]) -> dict[str, Newest]:
    """Returns the images and the texts of an event, by name."""
    tags = {image_tag(name): name for name in names}
    images: dict[str, list[StoredImage]] = {}
    texts: dict[str, str] = {}
    for value in event.summary.value:
        if value.HasField("image"):
            tag = value.tag if value.tag in tags else _NUMBER.sub("", value.tag)
            if tag in tags and (png := value.image.encoded_image_string).startswith(_PNG):
                image = StoredImage(value.image.width, value.image.height, png)
                images.setdefault(tags[tag], []).append(image)
        elif value.tag in names and value.HasField("tensor"):
            texts[value.tag] = b"\n".join(value.tensor.string_val).decode(errors="replace")
    drawn = {name: Newest(event.step, found, "") for name, found in images.items()}
    return drawn | {name: Newest(event.step, [], text) for name, text in texts.items()}
