"""Fills caches for `nnx-alexnet cache`, and describes each one in a line."""

from __future__ import annotations

import sys
from datetime import datetime

from tqdm import tqdm

from nnx_alexnet.data import CacheInfo, DataModule, cache_info
from nnx_alexnet.support import format_bytes, format_count, is_terminal, print_result, printable


def fill_cache(data: DataModule) -> None:
    """Fills the caches of `data` and prints a line per cache; a terminal shows a progress bar."""
    disable = not is_terminal(sys.stderr)
    with tqdm(desc="Decoding", unit=" examples", disable=disable, leave=False) as bar:
        folders = data.fill_cache(bar.update)
    for folder in folders:
        info = cache_info(folder)
        if info is not None:  # another process may have removed it
            print_result(cache_line(info))


def cache_line(info: CacheInfo) -> str:
    """Returns a line about a cache: folder, number of examples, size, date and contents.

    Example:
        >>> from pathlib import Path
        >>> from nnx_alexnet.cli.cache_output import cache_line
        >>> from nnx_alexnet.data import CacheInfo
        >>> about = {"data": "folder", "root": "/photos", "record": {"image": "uint8[8, 8, 3]"}}
        >>> info = CacheInfo(Path("/c/0a"), about, num_records=2, num_bytes=5000, modified=0.0)
        >>> cache_line(info).replace("1969-12-31", "1970-01-01")
        '/c/0a  2 examples  5.0 KB  1970-01-01  folder /photos  uint8[8, 8, 3]'
    """
    about = info.about
    contents = " ".join(str(about[name]) for name in ("data", "root") if name in about)
    form = ", ".join(map(str, about.get("record", {}).values()))
    parts = (
        info.folder,
        format_count(info.num_records, "example"),
        format_bytes(info.num_bytes),
        f"{datetime.fromtimestamp(info.modified).astimezone():%Y-%m-%d}",
        contents,
        form,
    )
    return "  ".join(map(printable, parts))
