"""Reads the arguments of functions and classes, from their source or from the objects.

Reading the source imports nothing, so that the help and the errors of the command appear without
loading JAX.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nnx_alexnet.cli.value_types import Kinds, kinds_of

_PACKAGE = Path(__file__).parents[1]
REQUIRED = inspect.Parameter.empty
"""The default of an argument that has none."""


class Argument(NamedTuple):
    """One argument of a function."""

    name: str
    kinds: Kinds
    default: Any
    help: str


class Signature(NamedTuple):
    """The first line of a docstring, and the arguments."""

    summary: str
    arguments: tuple[Argument, ...]


@cache
def read_signature(path: str, name: str) -> Signature:
    """Returns the signature of a function or class of this package, without importing it.

    Args:
        path: the path of its module in the package, such as `"data/datasets.py"`.
        name: the name of the function or class.

    Example:
        >>> from nnx_alexnet.cli.signatures import read_signature
        >>> found = read_signature("optimizers/create.py", "create_optimizer")
        >>> found.arguments[0].name, found.arguments[0].default
        ('name', 'adam')
    """
    tree = ast.parse((_PACKAGE / path).read_text(encoding="utf-8"))
    found = next(node for node in tree.body if getattr(node, "name", None) == name)
    assert isinstance(found, ast.FunctionDef | ast.ClassDef)
    function: ast.stmt | None = found
    if isinstance(found, ast.ClassDef):
        named = (node for node in found.body if getattr(node, "name", None) == "__init__")
        function = next(named, None)
    summary, texts = _documentation(ast.get_docstring(found) or "")
    if not isinstance(function, ast.FunctionDef):
        return Signature(summary, ())
    arguments = function.args
    positional = arguments.posonlyargs + arguments.args
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*missing, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return Signature(
        summary,
        tuple(
            Argument(
                argument.arg,
                _kinds(argument.annotation, tree),
                REQUIRED if default is None else _value(default),
                texts.get(argument.arg, ""),
            )
            for argument, default in pairs
            if argument.arg != "self"
        ),
    )


def read_keys(path: str, name: str) -> list[str]:
    """Returns the keys of a dict of this package, without importing it.

    Args:
        path: the path of its module in the package.
        name: the name of the dict.

    Example:
        >>> from nnx_alexnet.cli.signatures import read_keys
        >>> read_keys("optimizers/registry.py", "OPTIMIZERS")
        ['adam', 'adamw', 'lamb', 'lars', 'lion', 'polyak_sgd', 'schedule_free_adamw', ...]
    """
    tree = ast.parse((_PACKAGE / path).read_text(encoding="utf-8"))
    for node in tree.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)):
            continue
        if ast.unparse(node.target) == name:
            return [str(ast.literal_eval(key)) for key in node.value.keys if key is not None]
    raise KeyError(name)


def inspect_signature(target: Any) -> Signature:
    """Returns the signature of a function or class.

    Example:
        >>> from nnx_alexnet.cli.signatures import inspect_signature
        >>> def images(size: int = 8):
        ...     '''Makes images.
        ...
        ...     Args:
        ...         size: side in pixels.
        ...     '''
        >>> inspect_signature(images).arguments
        (Argument(name='size', kinds=('int',), default=8, help='side in pixels.'),)
    """
    summary, texts = _documentation(inspect.getdoc(target) or "")
    is_class = isinstance(target, type)
    function = vars(target).get("__init__", target.__init__) if is_class else target
    if is_class and function.__doc__:
        texts = {**_documentation(inspect.getdoc(function) or "")[1], **texts}
    names = getattr(inspect.unwrap(function), "__globals__", {})

    def look_up(name: str) -> str | None:
        found = names.get(name)
        is_class = found is None or isinstance(found, type)
        return None if is_class else inspect.formatannotation(found)

    rows = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = parameter.annotation
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        kinds = () if annotation is parameter.empty else kinds_of(text, look_up)
        rows.append(Argument(name, kinds, parameter.default, texts.get(name, "")))
    return Signature(summary, tuple(rows))


def _documentation(text: str) -> tuple[str, dict[str, str]]:
    """Returns the first line of a docstring in Google's style, and the texts of its arguments."""
    summary = text.partition("\n")[0]
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        return summary, {}
    rows = re.findall(r"^    (\w+).*?: ((?:.*\n?)(?:     +.*\n?)*)", section[1], re.MULTILINE)
    return summary, {name: " ".join(words.split()) for name, words in rows}


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _kinds(annotation: ast.expr | None, tree: ast.Module) -> Kinds:
    def look_up(name: str) -> str | None:
        imported = _imports(tree).get(name)
        return None if imported is None else _definition(imported, name)

    return () if annotation is None else kinds_of(ast.unparse(annotation), look_up)


def _imports(tree: ast.Module) -> Mapping[str, str]:
    """Returns the modules of this package from which names are imported."""
    return {
        alias.asname or alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nnx_alexnet.")
        for alias in node.names
        if node.module is not None
    }


@cache
def _definition(module: str, name: str) -> str | None:
    """Returns the annotation for which a name of a module of this package stands, or None."""
    place = _PACKAGE.joinpath(*module.split(".")[1:])
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    for file in files:
        found = re.findall(rf"^(?:    )?{name} = (.+)$", file.read_text(encoding="utf-8"), re.M)
        if found:  # the last one is not for type checkers only
            return str(found[-1])
    return None
