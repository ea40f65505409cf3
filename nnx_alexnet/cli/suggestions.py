"""Suggests the option that a user meant: by the names of other tools, and by similarity."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from nnx_alexnet.support import NAMES_ELSEWHERE, NOTES, ONLY_IN_PYTHON, find_names


def suggest(got: str, known: Iterable[str]) -> list[str]:
    """Returns the options that may have been meant, the most likely first; at most three.

    Args:
        got: the name that was given, without dashes.
        known: the names of all options.

    Example:
        >>> from nnx_alexnet.cli.suggestions import suggest
        >>> known = ["data.batch_size", "optimizer.learning_rate", "data.name", "trainer.name"]
        >>> suggest("lr", known), suggest("data.batchsize", known), suggest("name", known)
        (['optimizer.learning_rate'], ['data.batch_size'], ['trainer.name'])
        >>> suggest("xyz", known)
        []
    """
    known = list(dict.fromkeys(known))
    got = got.replace("-", "_").removeprefix("no_")
    last = _last(got)
    same_part = [name for name in known if _last(name) == last]
    elsewhere = find_names(last, NAMES_ELSEWHERE)
    elsewhere = [name for name in elsewhere if name.partition("+=")[0] in known]
    group = got.rpartition(".")[0]
    same_part = [] if elsewhere and "." not in got else same_part
    found = sorted([*elsewhere, *same_part], key=lambda name: name.rpartition(".")[0] != group)
    if group and not (found and found[0].startswith(f"{group}.")):
        found = [*_near(last, [name for name in known if name.startswith(f"{group}.")]), *found]
    # In another group, only a misspelling of the same name is meant.
    found = found or _near(last, known, cutoff=0.85 if group else 0.65)
    return list(dict.fromkeys(found))[:3]


def _near(last: str, known: Sequence[str], cutoff: float = 0.65) -> list[str]:
    """Returns the option whose last part is the nearest."""
    by_part = {_last(name): name for name in reversed(known)}
    return [by_part[part] for part in difflib.get_close_matches(last, by_part, n=1, cutoff=cutoff)]


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()


def hint(names: Sequence[str], *, dashes: str = "--") -> str:
    """Returns the sentence that suggests names, with a leading space, or nothing.

    Example:
        >>> from nnx_alexnet.cli.suggestions import hint
        >>> hint(["trainer.name", "data.name"]), hint([])
        (' Did you mean --trainer.name or --data.name?', '')
    """
    return f" Did you mean {' or '.join(dashes + name for name in names)}?" if names else ""


def advice(got: str, known: Iterable[str]) -> str:
    """Returns the sentences that suggest an option, with a leading space, or nothing.

    Args:
        got: the name that was given, without dashes.
        known: the names of all options.

    Example:
        >>> from nnx_alexnet.cli.suggestions import advice
        >>> advice("trainer.max_epoch", ["trainer.max_epochs"])
        ' Did you mean --trainer.max_epochs?'
        >>> advice("trainer.auto_lr_find", ["trainer.max_epochs"])
        ' Only Python has it: nnx_alexnet.tuning.find_learning_rate.'
    """
    if tools := find_names(_last(got.replace("-", "_")), ONLY_IN_PYTHON):
        return f" Only Python has it: {tools[0]}."
    names = suggest(got, known)
    notes = [f" {NOTES[name]}" for name in names[:1] if name in NOTES]
    return hint(names) + "".join(notes)
