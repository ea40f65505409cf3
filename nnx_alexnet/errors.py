"""Error texts shared by every module: what was got, the rule, and what would work."""

import difflib
from collections.abc import Iterable


def unknown(argument: str, got: object, known: Iterable[str]) -> ValueError:
    """Returns a `ValueError` for a name that is not one of the known ones.

    Args:
        argument: the argument's name, as the caller wrote it.
        got: the value that was passed.
        known: the names that would work.

    Returns:
        The error, to be raised by the caller. It names the nearest known name, if one is near.

    Example:
        >>> from nnx_alexnet.errors import unknown
        >>> print(unknown("mode", "maxx", ["min", "max"]))
        `mode` (='maxx') is unknown; did you mean 'max'? Known: 'max', 'min'.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(got), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return ValueError(
        f"`{argument}` (={got!r}) is unknown{hint} Known: {', '.join(map(repr, names))}."
    )


def check_positive(**arguments: object) -> None:
    """Raises a `ValueError` for an argument that is neither a positive integer nor None.

    Example:
        >>> from nnx_alexnet.errors import check_positive
        >>> check_positive(max_epochs=3, max_steps=None)
        >>> check_positive(max_epochs=0)
        Traceback (most recent call last):
        ValueError: `max_epochs` (=0) must be a positive integer.
    """
    for argument, value in arguments.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"`{argument}` (={value!r}) must be a positive integer.")


def first_line(error: BaseException) -> str:
    r"""Returns the beginning of an error's text: those of TensorStore are pages long.

    Example:
        >>> from nnx_alexnet.errors import first_line
        >>> first_line(ValueError("too long\nand so on")), first_line(KeyError())
        ('too long', 'KeyError')
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
