"""The TensorBoard event files that a run has left: what they show, and what is taken out again."""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnx_alexnet.support import read_whole, write_whole

_PREFIX = "events.out.tfevents."
_STAMP = re.compile(rf"{re.escape(_PREFIX)}(\d{{10}})\.", re.ASCII)
_PNG = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """A PNG file.

    Attributes:
        width: in pixels.
        height: in pixels.
        png: the file's bytes.
    """

    width: int
    height: int
    png: bytes


class Newest(NamedTuple):
    """What was last written under a tag.

    Attributes:
        step: the optimizer step at which it was written.
        pictures: those of an image tag.
        text: that of a text tag.
    """

    step: int
    pictures: list[Picture]
    text: str


def read_newest(run_dir: Path, tags: Sequence[str]) -> dict[str, Newest]:
    """Returns what was last written under each tag, as TensorBoard would show it.

    Args:
        run_dir: the folder that holds the event files.
        tags: of pictures and of texts.

    Returns:
        The tags that are there; none if the files cannot be read.
    """
    newest = {}
    for path in event_files(run_dir):  # a later file has what was written later
        try:
            content = read_whole(path)
        except OSError:
            continue
        for _, event in _records(content):
            for value in event.summary.value:
                if value.tag in tags:
                    newest[value.tag] = event.step, list(value.tensor.string_val)
    return {tag: _shown(step, strings) for tag, (step, strings) in newest.items()}


def _shown(step: int, strings: Sequence[bytes]) -> Newest:
    is_text = not any(map(_is_png, strings))
    text = b"\n".join(strings).decode(errors="replace") if is_text else ""
    return Newest(step, list(_pictures(strings)), text)


def event_files(run_dir: Path) -> list[Path]:
    """Returns the event files of a folder in the order in which TensorBoard reads them.

    Links, and what else is no regular file, are left out.

    Args:
        run_dir: the folder; may be missing.
    """
    try:
        with os.scandir(run_dir) as entries:
            names = [
                each.name
                for each in entries
                if "tfevents" in each.name and each.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []
    return [run_dir / name for name in sorted(names)]


def next_event_file(run_dir: Path, suffix: str) -> Path:
    """Returns the path of a new event file that TensorBoard reads after those that are there.

    It reads files in the order of their names, which begin with a time; the clock may have been
    set back since the last one was written, or show the same second still.

    Args:
        run_dir: the folder that holds the event files.
        suffix: tells apart the writers of the same second.
    """
    names = [path.name for path in event_files(run_dir)]
    times = [int(found[1]) for name in names if (found := _STAMP.match(name))]
    stamp = max([int(time.time()), *(there + 1 for there in times)])
    name = f"{_PREFIX}{stamp:010d}.{suffix}"
    if names and name <= names[-1]:  # another program gave that name
        name = f"{names[-1]}.{suffix}"
    return run_dir / name


def drop_steps(run_dir: Path, step: int) -> None:
    """Takes out of a run's event files what it wrote of this step and later ones.

    A resumed run takes those steps again, and TensorBoard would show both. (There is an event that
    marks a restart, but of the kinds written today TensorBoard shows all the same.) The sessions
    of the HParams tab, which each start begins anew, are taken out too, and so is a record that a
    kill has cut short. A file that need not change is left as it is.

    Args:
        run_dir: the folder that holds the event files.
        step: the first optimizer step that is taken again; 0 takes out everything.

    Raises:
        OSError: a file cannot be read or written; it stays as it was.
    """
    for path in event_files(run_dir):
        if not path.name.startswith(_PREFIX):
            continue
        content = read_whole(path)
        kept = b"".join(record for record, event in _records(content) if _stays(event, step))
        if kept != content:
            write_whole(path, kept)


def _records(content: bytes) -> Iterator[tuple[bytes, Any]]:
    """Yields each whole record as it is, and its event.

    A record is the length of its data, a checksum, the data and another checksum:
    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    start = 0
    while start + 12 <= len(content):
        length, checksum = struct.unpack_from("<QI", content, start)
        end = start + 12 + length + 4
        # Nothing behind a damaged length is read by TensorBoard. (A power cut may leave zeros.)
        if end > len(content) or masked_crc32c(content[start : start + 8]) != checksum:
            return
        try:
            event = Event.FromString(content[start + 12 : end - 4])
        except DecodeError:
            return
        yield content[start:end], event
        start = end


def _stays(event: Any, step: int) -> bool:
    if event.HasField("file_version"):
        return True
    is_session = any(value.tag.startswith("_hparams_/") for value in event.summary.value)
    return event.step < step and not is_session


def _pictures(strings: Sequence[bytes]) -> Iterator[Picture]:
    """The event holds width and height, then a PNG a picture; each says its own size again."""
    for png in filter(_is_png, strings):
        yield Picture(int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big"), png)


def _is_png(string: Any) -> bool:
    return bool(string[:8] == _PNG) and len(string) > 24
