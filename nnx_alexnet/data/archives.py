"""Unpacks the archives of datasets without writing outside of their folder."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnx_alexnet.support import write_whole


@contextmanager
def safe_extraction() -> Iterator[None]:
    """Keeps every member of a tar archive inside the folder where it is unpacked.

    torchvision unpacks with `tarfile` and its default filter, which follows `../` and links in
    Python before 3.14.

    Example:
        >>> import tarfile
        >>> from nnx_alexnet.data.archives import safe_extraction
        >>> with safe_extraction():
        ...     tarfile.TarFile.extraction_filter.__name__
        'data_filter'
    """
    before = vars(tarfile.TarFile).get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        if before is None:
            del tarfile.TarFile.extraction_filter
        else:
            tarfile.TarFile.extraction_filter = before


def decompress(folder: Path) -> None:
    """Unpacks the .gz files of the MNIST family in their folder, unless that was done before.

    torchvision's download does the same. Its reader accepts only the unpacked files, of at most
    47 MB each.

    Args:
        folder: where the files are; it need not exist.

    Raises:
        ValueError: a file is damaged.
    """
    for packed in sorted(folder.glob("*-ubyte.gz")):
        target = packed.with_suffix("")
        if not target.exists():
            try:
                content = gzip.decompress(packed.read_bytes())
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ValueError(f"{packed} is damaged: {error}. Replace the file.") from error
            write_whole(target, content)
