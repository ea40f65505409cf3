"""`trainable_filter`: which parameters a run trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx

from nnx_alexnet.support import shown

Path = tuple[Any, ...]
Trainable = str | Sequence[str] | Callable[..., Any] | None
"""Prefixes of the paths of parameters, or an nnx filter; None selects all parameters."""
_MAX_NAMES = 30  # in a message


@dataclasses.dataclass(frozen=True)
class HasPath:
    """A filter of the variables at some paths; unlike a function, it is equal to its copies."""

    paths: frozenset[Path]

    def __call__(self, path: Path, value: object) -> bool:
        """Returns whether a variable is at one of the paths."""
        return path in self.paths


def trainable_filter(model: nnx.Module, trainable: Any) -> Any:
    """Returns the nnx filter of the parameters that are trained.

    Args:
        model: its variables are read, not its values.
        trainable: see `Trainer`.

    Returns:
        `nnx.Param` if all parameters are trained, else a filter of their paths.

    Raises:
        ValueError: no parameter is selected; the message lists the paths.
        TypeError: `trainable` is neither text, a list of text, nor an nnx filter.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.training.trainable import trainable_filter
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> trainable_filter(model, "ker")
        HasPath(paths=frozenset({('kernel',)}))
        >>> trainable_filter(model, "head")
        Traceback (most recent call last):
        ValueError: `trainable` (='head') selects no parameter. A text selects the paths that ...
    """
    if trainable is None:
        return nnx.Param
    variables = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    names = {path: "/".join(map(str, path)) for path in variables}
    selected = _selector(trainable, names)
    try:
        chosen = frozenset(path for path, value in variables.items() if selected(path, value))
    except Exception as error:  # whatever a function of the user raises
        raise _not_a_filter(trainable, f" It raised {type(error).__name__}: {error}") from error
    if not chosen:
        raise _selects_nothing(trainable, [*names.values()])
    return nnx.Param if len(chosen) == len(variables) else HasPath(chosen)


def _selector(trainable: Any, names: Mapping[Path, str]) -> Callable[[Path, Any], bool]:
    """Returns the argument as a function of the path and the variable."""
    prefixes = [trainable] if isinstance(trainable, str) else trainable
    if isinstance(prefixes, list | tuple) and all(isinstance(each, str) for each in prefixes):
        for prefix in prefixes:
            if not any(name.startswith(prefix) for name in names.values()):
                raise _selects_nothing(prefix, [*names.values()])
        return lambda path, _: names[path].startswith(tuple(prefixes))
    try:
        select: Callable[[Path, Any], bool] = nnx.filterlib.to_predicate(trainable)
    except (TypeError, ValueError) as error:
        raise _not_a_filter(trainable) from error
    return select


def _not_a_filter(given: object, reason: str = "") -> TypeError:
    return TypeError(
        f"`trainable` (={shown(given)}) must be a prefix of the paths of parameters, such as "
        "'dense3', a list of prefixes, or an nnx filter, such as a function of the path (a tuple) "
        f"and the variable.{reason}"
    )


def _selects_nothing(given: object, names: Sequence[str]) -> ValueError:
    more = len(names) - _MAX_NAMES
    tail = f" and {more} more" if more > 0 else ""
    return ValueError(
        f"`trainable` (={shown(given)}) selects no parameter. A text selects the paths that begin "
        f"with it; the parameters of the model are {', '.join(names[:_MAX_NAMES])}{tail}."
    )
