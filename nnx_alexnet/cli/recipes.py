"""The configurations of this package: `--config recipe:NAME`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

PREFIX = "recipe:"
_FOLDER = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Returns the names of all recipes.

    Example:
        >>> from nnx_alexnet.cli.recipes import recipe_names
        >>> recipe_names()[:2]
        ['digits', 'fashion_mnist']
    """
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Returns the file of a recipe.

    Args:
        name: one of `recipe_names()`.

    Raises:
        ValueError: there is no such recipe.

    Example:
        >>> from nnx_alexnet.cli.recipes import recipe_path
        >>> recipe_path("digits").name
        'digits.yaml'
    """
    known = recipe_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f" Did you mean {PREFIX}{near[0]}?" if near else ""
        raise ValueError(
            f"`--config` (={PREFIX}{name}) is not a recipe.{meant} Recipes: {', '.join(known)}."
        )
    return _FOLDER / f"{name}.yaml"


def with_recipe_files(words: Sequence[str]) -> list[str]:
    """Returns the arguments with the files of recipes in place of `recipe:NAME`.

    Args:
        words: the arguments of the process.

    Raises:
        ValueError: there is no recipe of this name.

    Example:
        >>> from nnx_alexnet.cli.recipes import with_recipe_files
        >>> option, path = with_recipe_files(["--config", "recipe:digits"])
        >>> option, path.endswith("digits.yaml")
        ('--config', True)
    """
    found = list(words)
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        follows = number > 0 and words[number - 1] == "--config"
        given = value if option == "--config" and equals else word if follows else ""
        if given.startswith(PREFIX):
            path = str(recipe_path(given.removeprefix(PREFIX)))
            found[number] = f"{option}={path}" if equals and not follows else path
    return found
