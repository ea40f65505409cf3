"""Describes a `Trainer` for `repr` and for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnx_alexnet.callbacks import run_facts
from nnx_alexnet.support import format_count, format_value

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer


def trainer_text(trainer: Trainer, model: str) -> str:
    """Returns the model, the data and the state of a trainer on one line.

    Args:
        trainer: may be running; its arrays stay where they are.
        model: the name of the model's class.
    """
    text = f"Trainer of {model} on {trainer.data.name!r}: {_state(trainer)}"
    return text if trainer.run_dir is None else f"{text}, in {trainer.run_dir}"


def trainer_facts(trainer: Trainer) -> list[tuple[str, str]]:
    """Returns what a trainer will do, and how far it is, with their labels."""
    facts = [*run_facts(trainer), ("task", type(trainer.task).__name__)]
    facts += [("callbacks", ", ".join(map(repr, trainer.callbacks))), ("state", _state(trainer))]
    newest = {
        name: value
        for name, value in trainer.metrics.items()
        if name.startswith(("train/", "val/", "test/")) and not name.endswith("_step")
    }
    if newest:
        values = (f"{name} {format_value(value)}" for name, value in newest.items())
        facts.append(("metrics", ", ".join(values)))
    return facts


def _state(trainer: Trainer) -> str:
    if not trainer.global_step:
        return "not trained"
    text = f"{format_count(trainer.epoch, 'epoch')} done, step {trainer.global_step:,}"
    if trainer.interrupted:
        return f"{text}, interrupted"
    return text if trainer.stop_reason is None else f"{text}, stopped: {trainer.stop_reason}"
