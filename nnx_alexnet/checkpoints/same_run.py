"""Compares a run with the one that a checkpoint belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nnx_alexnet.checkpoints.identity import flatten
from nnx_alexnet.support import logger

# Differences that change the order of the examples of an epoch, or its batches.
_ORDER = ("seed", "data.batch_size", "data.drop_last", "data.examples.train")
# Sections that describe the same parts of a run in different ways.
_ALTERNATIVES = ("config", "programs", "hyperparams", "constants")
_ARRAYS = "arrays."  # how the names of differences begin that cannot be accepted
_MAX_LINES = 12
_ABSENT = object()


class Difference(NamedTuple):
    """A value that differs between two runs.

    Attributes:
        name: dotted name of the value, such as "data.batch_size".
        saved: value of the saved run.
        now: value of this run.
    """

    name: str
    saved: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: saved {self.saved}, now {self.now}"

    @property
    def subject(self) -> str:
        """The shortest name by which the difference is accepted."""
        return re.split(r"[./]", self._short_name.removesuffix("_constants"))[0]

    def is_accepted(self, accept: Sequence[str]) -> bool:
        """Whether one of the names is that of the difference, or its beginning."""
        return any(
            name == each or name.startswith((f"{each}.", f"{each}_", f"{each}/"))
            for each in accept
            for name in (self.name, self._short_name)
        )

    @property
    def _short_name(self) -> str:
        section, _, rest = self.name.partition(".")
        return rest if section in _ALTERNATIVES else self.name


def check_same(
    loop: Mapping[str, Any],
    now: Mapping[str, Any],
    run_dir: object,
    accept: Sequence[str] = (),
) -> list[Difference]:
    """Checks that a run is the one that a checkpoint belongs to.

    Args:
        loop: the JSON of the checkpoint, with its `identity` and the position of the run.
        now: result of `identify` for this run.
        run_dir: the folder of the saved run, for the message.
        accept: names of differences to accept, or beginnings of names: "optimizer", "versions".

    Returns:
        The accepted differences.

    Raises:
        ValueError: there are differences that are not accepted, or cannot be accepted; the message
            lists them.
    """
    found, notes = compare(loop["identity"], now)
    accepted = [each for each in found if each.is_accepted(accept)]
    if len(accepted) < len(found):
        raise _refusal(found, run_dir, accept)
    for each in accepted:
        _check_acceptable(each, loop, run_dir, accept)
    if accepted:
        logger.warning(
            "Resuming %s despite these accepted differences: %s",
            run_dir,
            "; ".join(map(str, accepted)),
        )
    if notes:
        logger.info("Not compared with the resumed run: %s.", "; ".join(notes))
    return accepted


def _refusal(found: Sequence[Difference], run_dir: object, accept: Sequence[str]) -> ValueError:
    """Returns the error that lists the differences which are not accepted."""
    refused = [each for each in found if not each.is_accepted(accept)]
    names = ", ".join(dict.fromkeys(repr(each.subject) for each in refused))
    is_traced = any(each.name.startswith("programs.") for each in refused)
    traced = " (`programs` are digests of what is computed)" if is_traced else ""
    unused = [name for name in accept if not any(each.is_accepted([name]) for each in found)]
    stray = f" ({unused} in `accept` match none of them)" if unused else ""
    remedy = f"Undo them, or accept them by name{stray}: fit(resume=..., accept=[{names}])."
    if any(each.name.startswith(_ARRAYS) for each in found):
        remedy = "Undo them: a run cannot continue with other arrays."
    return ValueError(
        f"`resume` cannot continue {run_dir}, which is another run: the differences are "
        f'listed below. {remedy} Or start a new run with resume="never"; to '
        f"start it from these weights, call load_checkpoint(run, model) first. Differences{traced}:"
        "\n  " + "\n  ".join(_shortened(refused))
    )


def _check_acceptable(
    each: Difference, loop: Mapping[str, Any], run_dir: object, accept: Sequence[str]
) -> None:
    """Raises a `ValueError` for a difference that cannot be accepted."""
    if each.name.startswith(_ARRAYS):
        raise ValueError(
            f"`accept` (={list(accept)}) cannot make {run_dir} continue with other arrays: "
            f"{each}. To use its weights in a new run, call load_checkpoint(run, model)."
        )
    if each.name in _ORDER and loop.get("step_in_epoch"):
        raise ValueError(
            f"`accept` (={list(accept)}) cannot make {run_dir} continue with another order of "
            f"the examples in the middle of an epoch: {each}. Resume it unchanged until the "
            "epoch has ended."
        )


def compare(saved: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[Difference], list[str]]:
    """Returns the differences between two identities, and descriptions of what was not compared.

    Args:
        saved: identity of the saved run.
        now: identity of this run.

    Example:
        >>> from nnx_alexnet.checkpoints.same_run import compare
        >>> compare({"seed": 0, "platform": "cpu"}, {"seed": 1, "platform": "cpu"})
        ([Difference(name='seed', saved=0, now=1)], [])
    """
    found = _differences(saved, now)
    differing = {each.name for each in found}
    programs = {name for name in differing if name.startswith("programs.")}
    rows = {name for name in programs if name.startswith("programs.rows.")}
    ignored, notes = {"platform", *rows}, []
    if "platform" in differing or any(name.startswith("versions.") for name in differing):
        how = "on another kind of device" if "platform" in differing else "by other versions"
        notes.append(f"what a step computes, because it was traced {how}")
        ignored |= programs
    elif rows:  # other batches, or the same ones padded for other devices
        notes.append("the train step and the evaluation, because their batches have another size")
        ignored |= {"programs.evaluation", "programs.train_step"}
    for split in _unknown_samples(saved, now):
        notes.append(f"the examples of `{split}`, which may differ each time they are read")
        ignored.add(f"samples.{split}")
    if (differing - ignored) & {"programs.optimizer", "programs.evaluation"}:  # parts of a step
        ignored.add("programs.train_step")
    return [each for each in found if each.name not in ignored], notes


def _unknown_samples(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the splits whose examples are unknown in one of the runs."""
    there, here = saved.get("samples", {}), now.get("samples", {})
    return [
        split
        for split in dict.fromkeys([*there, *here])
        if there.get(split) is None or here.get(split) is None
    ]


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a line for each difference between two nested descriptions, at most twelve.

    Args:
        saved: description in the checkpoint.
        now: description of this run.

    Example:
        >>> from nnx_alexnet.checkpoints.same_run import differences
        >>> differences({"data": {"batch_size": 32}}, {"data": {"batch_size": 64}})
        ['data.batch_size: saved 32, now 64']
    """
    return _shortened(_differences(saved, now))


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    there, here = flatten(saved), flatten(now)
    return [
        Difference(name, there.get(name, "nothing"), here.get(name, "nothing"))
        for name in dict.fromkeys([*there, *here])
        if there.get(name, _ABSENT) != here.get(name, _ABSENT)
    ]


def _shortened(found: Sequence[Difference]) -> list[str]:
    lines = [str(each) for each in found[:_MAX_LINES]]
    rest = len(found) - len(lines)
    return [*lines, f"and {rest} more"] if rest else lines
