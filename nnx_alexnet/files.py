"""Files that are written as a whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file by one that holds `content`; a kill or an error leaves the old one.

    Args:
        path: the file, whose folder is there.
        content: all of it.

    Raises:
        OSError: it cannot be written.

    Example:
        >>> import tempfile
        >>> from nnx_alexnet.files import write_whole
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_whole(path, b"text")
        >>> path.read_text()
        'text'
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:  # a full disk, which the rest would keep full
        temporary.unlink(missing_ok=True)
        raise
