"""Describes an object by the arguments of its constructor."""

from __future__ import annotations

import inspect
from pathlib import PurePath

_PLAIN = (str, int, float, PurePath, type(None))  # bool is an int


def constructor_text(instance: object) -> str:
    """Returns the class and the arguments that differ from their defaults.

    Only arguments that the instance keeps under their own names are known. Those that are not plain
    values, such as arrays, are left out.

    Args:
        instance: an object of any class.

    Example:
        >>> from nnx_alexnet.support.descriptions import constructor_text
        >>> class Stop:
        ...     def __init__(self, monitor, patience=3):
        ...         self.monitor, self.patience = monitor, patience
        >>> constructor_text(Stop("val/loss")), constructor_text(Stop("val/loss", patience=5))
        ("Stop(monitor='val/loss')", "Stop(monitor='val/loss', patience=5)")
    """
    kind = type(instance)
    values = getattr(instance, "__dict__", {})
    try:
        parameters = [*inspect.signature(kind).parameters.values()]
    except (TypeError, ValueError):  # a constructor of an extension
        parameters = []
    shown = [
        f"{name}={values[name]!r}"
        for name, parameter in ((each.name, each) for each in parameters)
        if isinstance(values.get(name, _OMITTED), _PLAIN) and values[name] != parameter.default
    ]
    return f"{kind.__name__}({', '.join(shown)})"


_OMITTED = object()  # not a plain value
