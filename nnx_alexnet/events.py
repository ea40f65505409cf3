"""Reads the newest pictures and texts of a run from its TensorBoard event files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

    Steps that a resumed run has taken again count once.

    Args:
        run_dir: the folder that holds the event files.
        tags: of pictures and of texts.

    Returns:
        The tags that are there; none if the files cannot be read.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it reports each resume
    # The last event of each tag is kept, whatever the size of the sample.
    events = EventAccumulator(str(run_dir), size_guidance={"tensors": 1})
    try:
        events.Reload()
    except Exception as error:  # a damaged record; what it raises says nothing
        logging.getLogger(__name__).debug("The event files of %s: %s", run_dir, error)
    there = set(events.Tags()["tensors"])
    newest = {}
    for tag in tags:
        for event in events.Tensors(tag)[-1:] if tag in there else ():
            strings = list(event.tensor_proto.string_val)
            text = (
                "" if any(map(_is_png, strings)) else b"\n".join(strings).decode(errors="replace")
            )
            newest[tag] = Newest(event.step, list(_pictures(strings)), text)
    return newest


def _pictures(strings: Sequence[bytes]) -> Iterator[Picture]:
    """The event holds width and height, then a PNG a picture; each says its own size again."""
    for png in filter(_is_png, strings):
        yield Picture(int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big"), png)


def _is_png(string: Any) -> bool:
    return bool(string[:8] == _PNG) and len(string) > 24
