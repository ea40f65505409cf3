"""Explains keyword arguments that a function does not have, by the names of other trainers."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nnx_alexnet.support import NAMES_ELSEWHERE, NOTES, ONLY_IN_PYTHON, find_names

P = ParamSpec("P")
R = TypeVar("R")

# The Python argument for an option of each group; the braces hold the last part of its name.
_IN_PYTHON = {
    "data": "`{}` of the data (`load_data` or `DataModule`)",
    "model": "`{}` of the model",
    "optimizer": "create_optimizer({}=...) as `optimizer`",
    "task": "Classification({}=...) as `task`",
    "trainer": "`{}` of the Trainer",
    "": "`{}` of the Trainer",
}
_OTHERS = {
    "resume": "fit(resume=...)",
    "resume-weights-only": "load_checkpoint(run, model) before fit()",
}


def explains_unknown_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function name what to use in place of a keyword argument that it does not have.

    Args:
        function: a method, whose signature stays as it is.

    Example:
        >>> from nnx_alexnet.training.unknown_arguments import explains_unknown_arguments
        >>> @explains_unknown_arguments
        ... def fit(*, max_epochs=1): ...
        >>> fit(max_epoch=3)
        Traceback (most recent call last):
        TypeError: fit() has no argument `max_epoch`. Did you mean `max_epochs`?
    """
    parameters = inspect.signature(function).parameters
    known = list(parameters)
    named = [each for each in known if parameters[each].kind is inspect.Parameter.KEYWORD_ONLY]
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > len(known) - len(named):
            raise TypeError(
                f"{name}() takes {', '.join(named)} by name only. The model and the data come "
                "first in Trainer(model, data)."
            )
        for argument in kwargs:
            if argument not in known:
                raise TypeError(f"{name}() has no argument `{argument}`.{_advice(argument, known)}")
        return function(*args, **kwargs)

    return checked


def _advice(argument: str, known: list[str]) -> str:
    if tools := find_names(argument, ONLY_IN_PYTHON):
        return f" Use {tools[0]}."
    if near := difflib.get_close_matches(argument, known, n=1, cutoff=0.85):
        return f" Did you mean `{near[0]}`?"
    for option in [*find_names(argument, NAMES_ELSEWHERE), *_same_name(argument)]:
        if use := _in_python(option):
            return f" Use {use}.{f' {NOTES[option]}' if option in NOTES else ''}"
    near = difflib.get_close_matches(argument, known, n=1, cutoff=0.65)
    return f" Did you mean `{near[0]}`?" if near else ""


def _same_name(argument: str) -> list[str]:
    """Returns the options of other groups that have exactly this name."""
    return [option for option in NAMES_ELSEWHERE if option.rpartition(".")[2] == argument]


def _in_python(option: str) -> str | None:
    """Returns what to use in Python for an option of the command line."""
    if option in _OTHERS:
        return _OTHERS[option]
    if "+=" in option:
        return f"callbacks=[{option.partition('+=')[2]}(...)]"
    group, _, last = option.rpartition(".")
    if not group and last not in _IN_PYTHON and last != "seed":
        return None
    return _IN_PYTHON[group].format(last)
