"""The lines that `nnx-alexnet verify` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnx_alexnet.support import printable

VERIFY_HEADER = "    step  state    digest of the training state"
_MIN_DIGITS = 16  # of a digest


def verify_line(row: Mapping[str, Any], width: int | None) -> str:
    """Returns the line of a checkpoint, aligned with the header.

    Args:
        row: what `verify_checkpoints` yields.
        width: the largest number of columns. The end of a longer digest is cut off, and a longer
            description of damage is wrapped. None does not limit it.

    Example:
        >>> from nnx_alexnet.cli.verify_output import verify_line
        >>> verify_line({"checkpoint": "checkpoints/40", "step": 40, "digest": "7cc0"}, 80)
        '      40  intact   7cc0'
    """
    step = printable(Path(row["checkpoint"]).name)
    if "digest" not in row:
        state = "damaged" if "damage" in row else "unknown"
        text = row["damage"] if state == "damaged" else f"could not be read: {row['error']}"
        start, rest = f"{step:>8}  {state}  ", " " * 19
        wrapped = textwrap.wrap(
            printable(text), width or 10**9, initial_indent=start, subsequent_indent=rest
        )
        return "\n".join(wrapped)
    start, digest = f"{step:>8}  intact   ", row["digest"]
    if width is not None and len(start + digest) > width:
        digest = f"{digest[: max(_MIN_DIGITS, width - len(start) - 1)]}…"
    return f"{start}{digest}"
