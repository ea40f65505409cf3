"""Reads the settings of a run, with one name for each value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnx_alexnet.support import read_whole

_MAX_DEPTH = 50  # of nested groups; deeper ones are shown as text


class Settings(NamedTuple):
    """The settings of a run.

    Attributes:
        values: as text, by their names with dots, as on the command line.
        is_complete: whether the run records all of its settings, as those of the command line do;
            one that is missing is then not set. Runs from Python record only some.
    """

    values: dict[str, str]
    is_complete: bool = True

    def text(self, name: str) -> str:
        """Returns the value of a setting for a reader."""
        value = self.values.get(name)
        if value is None and not self.is_complete:
            return "not recorded"
        return "-" if value in (None, "null") else str(value)


def read_settings(run_dir: Path) -> Settings:
    r"""Returns the settings in the `config.yaml` of a run.

    Classes are named as on the command line: `model` is the class of the model, and
    `model.dropout_rate` one of its arguments.

    Args:
        run_dir: the folder of the run.

    Returns:
        The settings; empty if the file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnx_alexnet.runs.settings import read_settings
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.yaml").write_text("model: {class: Net}\ndata: {root: null}")
        >>> read_settings(folder)
        Settings(values={'model': 'Net', 'data.root': 'null'}, is_complete=False)
    """
    import yaml

    try:
        config = yaml.safe_load(read_whole(run_dir / "config.yaml"))
        values = dict(_flat(config, ()))
    except Exception:  # missing, or not YAML
        return Settings({}, is_complete=False)
    model = config.get("model") if isinstance(config, dict) else None
    return Settings(values, isinstance(model, dict) and "class_path" in model)


def compare_settings(settings: Sequence[Settings]) -> tuple[list[str], list[str]]:
    """Returns the names of the settings that differ, and of those that not all runs record.

    A value that a run does not record is not a difference.

    Example:
        >>> from nnx_alexnet.runs.settings import Settings, compare_settings
        >>> runs = [Settings({"seed": "0", "lr": "0.1"}), Settings({"seed": "1"}, False)]
        >>> compare_settings(runs)
        (['seed'], ['lr'])
    """
    differing, unrecorded = [], []
    for name in dict.fromkeys(name for each in settings for name in each.values):
        recorded = [each for each in settings if each.is_complete or name in each.values]
        texts = {each.text(name) for each in recorded}
        if name in ("model", "task"):
            texts = _classes(texts)
        if len(texts) > 1:
            differing.append(name)
        elif len(recorded) < len(settings):
            unrecorded.append(name)
    return differing, unrecorded


def _classes(names: set[str]) -> set[str]:
    """Drops the names of classes that another one has with its module: Python records no module."""
    return {name for name in names if "." in name or not any(n.endswith(f".{name}") for n in names)}


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value and len(path) < _MAX_DEPTH:
        for key, inner in value.items():
            if key in ("class", "class_path") and path:
                yield from _flat(inner, path)
            elif key == "init_args" and "class_path" in value:
                if inner:
                    yield from _flat(inner, path)
            else:
                # A key with a dot is not the same as a key inside a group.
                yield from _flat(inner, (*path, f'"{key}"' if "." in str(key) else str(key)))
    elif path:
        yield ".".join(path), value if isinstance(value, str) else json.dumps(value, default=str)
