"""Prints the options of a model, task or callback: `--model.help`, `--trainer.callbacks.help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from nnx_alexnet.cli.base_parser import Parser
from nnx_alexnet.cli.option_groups import (
    MODEL,
    TASK,
    class_group,
    class_signature,
    known_classes,
)

_DEFAULTS = {"model": MODEL, "task": TASK, "trainer.callbacks": None}
_OWN = {
    "model": "The data provide num_classes, image_size and in_channels if the class accepts them.\n"
    "Your own: --model my_package.MyModel, an nnx.Module whose __init__ accepts rngs.\n"
    "Its options: --model.help my_package.MyModel",
    "task": "Your own: --task my_package.MyTask, a subclass of Task.\n"
    "Its options: --task.help my_package.MyTask",
    "trainer.callbacks": "Your own: --trainer.callbacks+=my_package.MyCallback, a subclass of "
    "Callback.",
}


class ClassHelp(argparse.Action):
    """Prints the options of the given class, or of the chosen one, and exits."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, group: str, metavar: str):
        what = (
            "the callbacks, or the options of one"
            if _DEFAULTS[group] is None
            else f"the {group}'s options"
        )
        super().__init__(
            option_strings, dest, nargs="?", metavar=metavar, default=argparse.SUPPRESS,
            help=f"Print {what}.",
        )  # fmt: skip
        self.group = group

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Prints the help and exits with 0."""
        given = values or getattr(namespace, self.group, None) or _DEFAULTS[self.group]
        print(class_help(self.group, given), end="")
        parser.exit()


def class_help(group: str, name: str | None) -> str:
    """Returns the help for a class, or the list of the callbacks.

    Args:
        group: `"model"`, `"task"` or `"trainer.callbacks"`.
        name: its import path, or the name of a class of this package; None lists the callbacks.

    Raises:
        ValueError: the class cannot be imported.

    Example:
        >>> from nnx_alexnet.cli.class_help import class_help
        >>> class_help("trainer.callbacks", "EarlyStopping").splitlines()[:3]
        ['EarlyStopping', '', 'Stops training when a metric has stopped improving.']
    """
    if name is None:
        rows = {each: class_signature(group, each).summary for each in known_classes(group)}
        lines = [f"  {each:<20}  {text.replace('`', '')}" for each, text in rows.items()]
        example = "--trainer.callbacks+=EarlyStopping --trainer.callbacks.patience 5"
        ends = [f"Options of one: --{group}.help EarlyStopping", f"Example: {example}", _OWN[group]]
        return "\n".join(["Callbacks:", *lines, "", *ends, ""])
    signature = class_signature(group, name)
    short = name.rpartition(".")[2]
    parser = Parser(usage=argparse.SUPPRESS, add_help=False)
    parser._optionals.title = "Options"
    for option in class_group(group, name).options:
        parser.add_option(parser, f"--{option.name}", kinds=option.kinds, help=option.help)
    summary = signature.summary.replace("`", "")
    heading = f"{short}\n\n{summary}"
    rest = parser.format_help().strip() or "It has no options."
    return f"{heading}\n\n{rest}\n\n{_OWN[group]}\n"
