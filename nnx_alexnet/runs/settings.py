"""Reads the settings of a run, with one name for each value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnx_alexnet.support import read_whole

_MAX_DEPTH = 50  # of nested groups; deeper ones are shown as text


def read_settings(run_dir: Path) -> dict[str, str]:
    r"""Returns the settings in the `config.yaml` of a run as text.

    Args:
        run_dir: the folder of the run.

    Returns:
        Values by their names with dots, as on the command line; empty if the file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.runs.settings import read_settings
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.yaml").write_text("seed: 0\ndata: {name: digits, root: null}")
        >>> read_settings(folder)
        {'seed': '0', 'data.name': 'digits', 'data.root': 'null'}
    """
    import yaml

    try:
        return dict(_flat(yaml.safe_load(read_whole(run_dir / "config.yaml")), ()))
    except Exception:  # missing, or not YAML
        return {}


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value and len(path) < _MAX_DEPTH:
        for key, inner in value.items():
            yield from _flat(inner, (*path, str(key)))
    elif path:
        yield ".".join(path), value if isinstance(value, str) else json.dumps(value, default=str)
