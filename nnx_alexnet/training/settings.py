"""`Settings`: the plain arguments of a run, checked once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from nnx_alexnet.runs import check_name
from nnx_alexnet.support import check_integer
from nnx_alexnet.training.steps_per_dispatch import StepsPerExecution

DEFAULT_EPOCHS = 10  # enough for AlexNet to learn the digits


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of a `Trainer` that are plain values; see `Trainer` for their meaning.

    Raises:
        ValueError: a value is out of range.

    Example:
        >>> from nnx_alexnet.training.settings import Settings
        >>> Settings(name="digits", log_dir=None).log_every_n_steps
        50
        >>> Settings(name="digits", log_dir=None, max_steps=0)
        Traceback (most recent call last):
        ValueError: `max_steps` (=0) must be a positive integer or None.
    """

    name: str
    log_dir: str | Path | None = "logs"
    max_epochs: int | None = None
    max_steps: int | None = None
    seed: int = 0
    log_every_n_steps: int = 50
    validate_every_n_epochs: int = 1
    validate_every_n_steps: int | None = None
    num_micro_batches: int = 1
    steps_per_execution: StepsPerExecution = "auto"
    check_finite: bool | int = True
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        check_integer("max_epochs", self.max_epochs, also=(None,))
        check_integer("max_steps", self.max_steps, also=(None,))
        check_integer("seed", self.seed, minimum=0)
        check_integer("log_every_n_steps", self.log_every_n_steps)
        check_integer("validate_every_n_epochs", self.validate_every_n_epochs)
        check_integer("validate_every_n_steps", self.validate_every_n_steps, also=(None,))
        check_integer("num_micro_batches", self.num_micro_batches)
        check_integer("check_finite", self.check_finite, also=(True, False))
        check_integer("steps_per_execution", self.steps_per_execution, also=("auto",))

    @property
    def max_skipped(self) -> int:
        """The number of consecutive steps that may be skipped because they are not finite."""
        return 0 if isinstance(self.check_finite, bool) else self.check_finite

    def shared(self) -> dict[str, str]:
        """Returns the settings that must be equal in all processes of a run, as text."""
        values = dataclasses.asdict(self)
        del values["log_dir"]
        return {name: str(value) for name, value in values.items()}


def as_name(name: str | os.PathLike[str]) -> str:
    """Returns the name of a run, which may be given as a path.

    Raises:
        TypeError: it is neither text nor a path.
    """
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(text, str):
        raise TypeError(f"`name` (={name!r}) must be a str, such as 'sweep/adam'.")
    return text


def as_tags(tags: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the tags of a run as a tuple.

    Args:
        tags: one tag, or several.

    Raises:
        TypeError: `tags` is neither a str nor a list of str.
        ValueError: a tag is empty.

    Example:
        >>> from nnx_alexnet.training.settings import as_tags
        >>> as_tags("baseline"), as_tags(["baseline", "wide"])
        (('baseline',), ('baseline', 'wide'))
    """
    found = (tags,) if isinstance(tags, str) else tuple(tags)
    if not all(isinstance(tag, str) for tag in found):
        raise TypeError(f"`tags` (={tags!r}) must be a str or a list of str, such as ['baseline'].")
    if not all(tag.strip() for tag in found):
        raise ValueError(f"`tags` (={tags!r}) must not contain an empty tag.")
    return found
