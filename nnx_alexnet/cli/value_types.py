"""The values that an option accepts: their check, their words in messages and in the help.

An annotation such as `int | Literal["auto"] | None` becomes the kinds `("int", "'auto'", "None")`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Kinds = tuple[str, ...]
"""The alternatives of an annotation: names of types, and literals as Python writes them."""

POSITIVE = "positive int"
_NUMBERS = {"int": "an integer", POSITIVE: "a positive integer", "float": "a number"}
_WORDS = {**_NUMBERS, "bool": "true or false", "None": "null"}
_PLACES = {"int": "N", POSITIVE: "N", "float": "X", "bool": "{true,false}"}
_TEXTS = {"str", "Path", "PathLike"}


def kinds_of(annotation: str, look_up: Callable[[str], str | None] | None = None) -> Kinds:
    """Returns the alternatives of an annotation.

    Args:
        annotation: as it is written in the code.
        look_up: returns the definition of a name, or None if it is unknown.

    Example:
        >>> from nnx_alexnet.cli.value_types import kinds_of
        >>> kinds_of("int | Literal['auto'] | None")
        ('int', "'auto'", 'None')
        >>> kinds_of("Mode | None", {"Mode": "Literal['min', 'max']"}.get)
        ("'min'", "'max'", 'None')
    """
    return tuple(dict.fromkeys(_alternatives(ast.parse(annotation, mode="eval").body, look_up)))


def _alternatives(node: ast.expr, look_up: Callable[[str], str | None] | None) -> Iterator[str]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _alternatives(node.left, look_up)
        yield from _alternatives(node.right, look_up)
        return
    if isinstance(node, ast.Subscript):
        name = ast.unparse(node.value).rpartition(".")[2]
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            yield from (ast.unparse(part) for part in parts)
        elif name in ("Union", "Optional"):
            for part in parts:
                yield from _alternatives(part, look_up)
            if name == "Optional":
                yield "None"
        else:
            yield name if name == "PathLike" else ast.unparse(node)
        return
    text = ast.unparse(node)
    definition = None if look_up is None or text in _WORDS else look_up(text)
    if definition is None:
        yield text.rpartition(".")[2] if text.endswith((".PathLike", ".Path")) else text
    else:
        yield from kinds_of(definition, look_up)


def fits(value: str, kinds: Kinds) -> bool:
    """Returns whether an option may accept a value; types that are not listed here accept any.

    Example:
        >>> from nnx_alexnet.cli.value_types import fits
        >>> fits("3", ("int",)), fits("ten", ("int",)), fits("null", ("int", "None"))
        (True, False, True)
    """
    import yaml

    try:
        read: Any = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        read = value
    for kind in kinds:
        if kind[0] in "'\"":
            found = value == ast.literal_eval(kind)
        elif kind == "int":
            found = type(read) is int
        elif kind == POSITIVE:
            found = type(read) is int and read > 0
        elif kind == "float":
            found = type(read) in (int, float) or _is_number(value)
        elif kind == "bool":
            found = type(read) is bool
        elif kind == "None":
            found = read is None
        elif kind.startswith("dict["):
            found = isinstance(read, dict)
        else:
            return True
        if found:
            return True
    return not kinds


def _is_number(value: str) -> bool:
    """Returns whether Python reads a text as a finite number; YAML does not read `1e-3` as one."""
    try:
        return abs(float(value)) < float("inf")
    except ValueError:
        return False


def in_words(kinds: Kinds) -> str:
    """Returns what an option takes, for messages.

    Example:
        >>> from nnx_alexnet.cli.value_types import POSITIVE, in_words
        >>> in_words((POSITIVE, "None")), in_words(("'raise'", "'skip'"))
        ('a positive integer or null', 'raise or skip')
    """
    words = [_word(kind) for kind in kinds]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _word(kind: str) -> str:
    if kind[0] in "'\"":
        return str(ast.literal_eval(kind))
    if kind.startswith(("list[", "Sequence[")):
        return "a list such as [a,b]"
    if kind.startswith(("dict[", "Mapping[")):
        return "a dict such as {a: b}"
    return _WORDS.get(kind, "text" if kind in _TEXTS else kind)


def placeholder(kinds: Kinds) -> str:
    """Returns what stands for the value in the help.

    Example:
        >>> from nnx_alexnet.cli.value_types import placeholder
        >>> placeholder(("int", "'auto'")), placeholder(("'raise'", "'skip'"))
        ('N|auto', '{raise,skip}')
    """
    choices = [kind for kind in kinds if kind != "None"]
    if choices and all(kind[0] in "'\"" for kind in choices):
        return "{" + ",".join(map(_word, choices)) + "}"
    places = dict.fromkeys(map(_place, choices))
    if "PATH" in places:
        places.pop("TEXT", None)
    return "|".join(places) or "TEXT"


def _place(kind: str) -> str:
    if kind[0] in "'\"":
        return _word(kind)
    if kind in ("Path", "PathLike"):
        return "PATH"
    if kind.startswith(("list[", "Sequence[")):
        return "LIST"
    if kind.startswith(("dict[", "Mapping[")):
        return "DICT"
    return _PLACES.get(kind, "TEXT")


def may_have_keys(kinds: Kinds) -> bool:
    """Returns whether a value may be a dict or an object, whose keys are options such as `--a.key`.

    Example:
        >>> from nnx_alexnet.cli.value_types import may_have_keys
        >>> may_have_keys(("dict[str, str]", "None")), may_have_keys(("int", "'auto'"))
        (True, False)
    """
    return any(kind[0] not in "'\"" and kind not in (*_WORDS, *_TEXTS) for kind in kinds)


def with_positive(kinds: Kinds) -> Kinds:
    """Returns the kinds with positive integers in place of integers.

    Example:
        >>> from nnx_alexnet.cli.value_types import with_positive
        >>> with_positive(("int", "None"))
        ('positive int', 'None')
    """
    return tuple(POSITIVE if kind == "int" else kind for kind in kinds)


def shown_default(value: object) -> str:
    """Returns a default as it is written on the command line.

    Example:
        >>> from nnx_alexnet.cli.value_types import shown_default
        >>> shown_default(True), shown_default("adam"), shown_default(0.001)
        ('true', 'adam', '0.001')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def one_of(values: Sequence[str]) -> Kinds:
    """Returns the kinds of an option that accepts only these texts.

    Example:
        >>> from nnx_alexnet.cli.value_types import one_of
        >>> one_of(["text", "json"])
        ("'text'", "'json'")
    """
    return tuple(map(repr, values))
