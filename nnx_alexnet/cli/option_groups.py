"""The options of `fit` by group, as the help lists them.

The options are read from the source of the functions and classes that receive them, so that
neither they nor JAX are imported. Only the user's own data and classes are.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nnx_alexnet.cli.signatures import (
    REQUIRED,
    Argument,
    Signature,
    inspect_signature,
    read_signature,
)
from nnx_alexnet.cli.suggestions import hint, suggest
from nnx_alexnet.cli.value_types import Kinds, shown_default, with_positive

# The arguments of a model that the data determine.
GIVEN_BY_DATA = ("num_classes", "image_size", "in_channels")
# The arguments of the trainer that other groups or the command set.
NOT_OF_TRAINER = ("model", "data", "task", "optimizer", "seed", "config")
# The defaults of `fit` that differ from the library's. They were chosen for the digits, on 432
# training images held out for that purpose.
RECIPE = {
    "data.batch_size": 32,
    "optimizer.schedule": "cosine",
    "task.label_smoothing": 0.1,
}
MODEL, TASK = "nnx_alexnet.AlexNet", "nnx_alexnet.Classification"
# Arguments that must be positive, although their annotations accept any integer.
_POSITIVE = {
    "batch_size", "image_size", "max_epochs", "max_steps", "log_every_n_steps",
    "validate_every_n_epochs", "validate_every_n_steps", "overfit_batches", "num_micro_batches",
    "steps_per_execution", "num_processes", "every_n_steps",
    "every_n_epochs", "patience",
}  # fmt: skip
# The shapes that `summary` assumes.
SHAPES = {"num_classes": 10, "image_size": 96, "in_channels": 1, "batch_size": 10}
_PACKAGE = Path(__file__).parents[1]
_BASES = ("MetricMonitor", "WeightAveraging")  # base classes of callbacks


class Option(NamedTuple):
    """An option without its dashes, such as `data.batch_size`."""

    name: str
    kinds: Kinds
    help: str
    value: str | None = None
    """The placeholder of the value in the help (default: None, derived from `kinds`)."""


class Group(NamedTuple):
    """Options that belong together, with the heading of the help."""

    title: str
    options: list[Option]


def option_groups(
    data: str | None = None, model: str | None = None, task: str | None = None
) -> list[Group]:
    """Returns the groups of `fit`.

    Args:
        data: the import path of the user's own data; None is `load_data`.
        model: the import path of the model's class; None is AlexNet.
        task: the import path of the task's class; None is `Classification`.

    Raises:
        ValueError: one of them cannot be imported.

    Example:
        >>> from nnx_alexnet.cli.option_groups import option_groups
        >>> [group.title for group in option_groups()][:2]
        ['Data', 'Model: AlexNet']
    """
    optimizer = read_signature("optimizers/create.py", "create_optimizer")
    trainer = read_signature("trainer.py", "Trainer")
    processes = read_signature("devices/join_job.py", "initialize_distributed")
    return [
        data_group(data),
        class_group("model", model or MODEL),
        class_group("task", task or TASK),
        Group("Optimizer", _options("optimizer", optimizer)),
        Group("Trainer", _options("trainer", trainer, NOT_OF_TRAINER)),
        Group("Several processes", _options("distributed", processes)),
    ]


def data_group(import_path: str | None) -> Group:
    """Returns the options `--data.x`: those of `load_data`, or of the user's own data."""
    if import_path is None:
        return Group("Data", _options("data", read_signature("data/datasets.py", "load_data")))
    from nnx_alexnet.cli.own_data import imported

    target = imported(import_path)
    options = _options("data", inspect_signature(target)) if callable(target) else []
    text = "A function that returns a DataModule, a subclass, or an instance."
    return Group(f"Data: {import_path}", [*options, Option("data.import_path", ("str",), text)])


def class_group(group: str, class_path: str, name: str | None = None) -> Group:
    """Returns the options of a model, task or callback.

    Args:
        group: `"model"`, `"task"` or `"trainer.callbacks"`.
        class_path: the import path of the class, or the name of a class of this package.
        name: the heading (default: the group and the class).
    """
    title = name or f"{group.rpartition('.')[2].capitalize()}: {class_path.rpartition('.')[2]}"
    skip = ("rngs", *GIVEN_BY_DATA) if group == "model" else ()
    return Group(title, _options(group, class_signature(group, class_path), skip))


def class_signature(group: str, class_path: str) -> Signature:
    """Returns the signature of a model, task or callback.

    Raises:
        ValueError: the class cannot be imported.

    Example:
        >>> from nnx_alexnet.cli.option_groups import class_signature
        >>> class_signature("trainer.callbacks", "EarlyStopping").summary
        'Stops training when a metric has stopped improving.'
    """
    module, _, name = class_path.rpartition(".")
    known = known_classes(group)
    if name in known and (not module or module.split(".")[0] == "nnx_alexnet"):
        return read_signature(known[name], name)
    if not module:
        raise ValueError(not_a_class(group, class_path))
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--{group} (={class_path}) cannot be imported: {error}.") from error
    if not isinstance(target, type):
        raise ValueError(not_a_class(group, class_path))
    return inspect_signature(target)


def not_a_class(group: str, got: str) -> str:
    """Returns the message for a value that names no class."""
    near = suggest(got, known_classes(group))
    example = {"model": "MyModel", "task": "MyTask"}.get(group, "MyCallback")
    return (
        f"--{group} takes the import path of a class, such as my_package.{example}, got {got!r}."
        f"{hint(near, dashes='')}"
    )


@cache
def known_classes(group: str) -> dict[str, str]:
    """Returns the classes of this package that have short names, with the files of their code.

    Example:
        >>> from nnx_alexnet.cli.option_groups import known_classes
        >>> known_classes("model")
        {'AlexNet': 'models/alexnet.py'}
    """
    if group == "model":
        return {"AlexNet": "models/alexnet.py"}
    if group == "task":
        return {
            "Classification": "task/classification.py",
            "BinaryClassification": "task/binary.py",
            "MultiLabelClassification": "task/binary.py",
        }
    return {
        name: f"callbacks/{file.name}"
        for file in sorted((_PACKAGE / "callbacks").glob("*.py"))
        for name in re.findall(
            rf"^class (\w+)\((?:Callback|{'|'.join(_BASES)})\)",
            file.read_text(encoding="utf-8"),
            re.M,
        )
        if name not in _BASES
    }


def _options(group: str, signature: Signature, skip: tuple[str, ...] = ()) -> list[Option]:
    names = {argument.name for argument in signature.arguments} - {*skip}
    return [
        Option(
            f"{group}.{argument.name}",
            with_positive(argument.kinds) if argument.name in _POSITIVE else argument.kinds,
            _text(group, argument, names - {argument.name}),
            "NAME" if argument.name == "name" else None,
        )
        for argument in signature.arguments
        if argument.name not in skip
    ]


def _text(group: str, argument: Argument, names: set[str]) -> str:
    """Returns the help of an option: the text of the docstring in the words of the command line."""
    name = f"{group}.{argument.name}"
    default = RECIPE.get(name, argument.default)
    has_default = default is not REQUIRED and default is not None and default != ()
    text = argument.help
    if has_default:
        text = re.sub(r' \(default `?"?[\w./]+"?`?\)', "", text)
    if name in RECIPE:
        text = re.sub(r"\(default [^;)]*; ", "(", text)

    def in_backticks(match: re.Match[str]) -> str:
        return f"--{group}.{match[1]}" if match[1] in names else match[1]

    text = re.sub(r"`([^`]*)`", in_backticks, text)
    for python, yaml in {"None": "null", "True": "true", "False": "false"}.items():
        text = re.sub(rf"\b{python}\b", yaml, text)
    text = text[:1].upper() + text[1:]
    text = text if not text or text.endswith(".") else f"{text}."
    if has_default and "default" not in text.lower():
        text = f"{text} (default: {shown_default(default)})".lstrip()
    return text


def values_of(words: Any, option: str) -> list[str]:
    """Returns the values that an option has on the command line.

    Example:
        >>> from nnx_alexnet.cli.option_groups import values_of
        >>> values_of(["--model", "a.B", "--model=c.D"], "--model")
        ['a.B', 'c.D']
    """
    found = []
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option and (equals or number + 1 < len(words)):
            found.append(value if equals else words[number + 1])
    return found
