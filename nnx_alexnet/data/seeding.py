"""The order and the random draws of an epoch, which repeat in another run."""

import os
import random
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# One reader at a time uses the global generators, whatever thread it runs in.
_reading = threading.RLock()


def _renew_lock() -> None:
    global _reading  # noqa: PLW0603  # a forked child has no thread that would release it
    _reading = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch, a function of its arguments alone.

    Args:
        num_examples: examples in the split.
        seed: the seed of the run, not negative.
        epoch: the epoch, from 0.

    Returns:
        A permutation of the indices, int64[num_examples].

    Example:
        >>> from nnx_alexnet.data.seeding import order
        >>> sorted(order(4, seed=0, epoch=1).tolist())
        [0, 1, 2, 3]
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    return np.random.Generator(bits).permutation(num_examples)


def seed_example(seed: int, epoch: int, index: int) -> None:
    """Seeds `random`, `numpy.random` and torch for one example of one epoch.

    Transforms that draw from these generators then give an example the same augmentation in every
    worker and in a resumed run. Call it inside `restored_generators`.
    """
    parts: Any = [seed, epoch, index]
    if max(parts) < 2**32:  # the same sequence in less time
        parts = np.array(parts, np.uint32)
    words = np.random.SeedSequence(parts).generate_state(4)
    number = int(words[0]) << 32 | int(words[1])
    random.seed(number)
    np.random.seed(words)
    if torch := sys.modules.get("torch"):
        # torch.manual_seed is slow: it also seeds every accelerator.
        torch.default_generator.manual_seed(number)


@contextmanager
def restored_generators() -> Iterator[None]:
    """Locks the global generators, and restores their states at the end.

    Trainers in several threads of a process share these generators. Without the lock, one would
    seed them while another reads an example, and the examples would differ from run to run.
    """
    with _reading:
        torch = sys.modules.get("torch")
        states = random.getstate(), np.random.get_state()
        torch_state = torch.default_generator.get_state() if torch else None
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            if torch:
                torch.default_generator.set_state(torch_state)


@contextmanager
def restored_generators_of(dataset: object) -> Iterator[None]:
    """Restores the generators that a dataset has itself, for reads outside of any epoch.

    Args:
        dataset: its attributes are searched, and those of the datasets and transforms in it.
    """
    restores = [_restore(generator) for generator in _generators_of(dataset, depth=3, seen=set())]
    try:
        yield
    finally:
        for restore in restores:
            restore()


def generator_states(*holders: object) -> list[Any]:
    """Returns the states of the global generators, and of those that objects have themselves.

    Args:
        holders: see `restored_generators_of`.

    Returns:
        Values to be pickled and compared.
    """
    torch = sys.modules.get("torch")
    states = [random.getstate(), np.random.get_state()]
    if torch:
        states.append(torch.default_generator.get_state().numpy())
    for holder in holders:
        for generator in _generators_of(holder, depth=3, seen=set()):
            if isinstance(generator, np.random.Generator):
                states.append(generator.bit_generator.state)
            elif isinstance(generator, random.Random):
                states.append(generator.getstate())
            else:
                state = generator.get_state()
                states.append(state if isinstance(state, tuple | dict) else state.numpy())
    return states


def _generators_of(value: Any, *, depth: int, seen: set[int]) -> Iterator[Any]:
    if id(value) in seen or depth < 0:
        return
    seen.add(id(value))
    torch = sys.modules.get("torch")
    kinds = (np.random.Generator, np.random.RandomState, random.Random)
    if isinstance(value, kinds) or (torch is not None and isinstance(value, torch.Generator)):
        yield value
        return
    if isinstance(value, (list, tuple)):
        parts = [*value[:64]]
    elif isinstance(value, (type, types.ModuleType)) or not hasattr(value, "__dict__"):
        return
    else:
        parts = [*vars(value).values()]
    for part in parts:
        yield from _generators_of(part, depth=depth - 1, seen=seen)


def _restore(generator: Any) -> Any:
    """Returns a function that restores the present state of a generator."""
    if isinstance(generator, np.random.Generator):
        bits, state = generator.bit_generator, generator.bit_generator.state
        return lambda: setattr(bits, "state", state)
    if isinstance(generator, random.Random):
        inner = generator.getstate()
        return lambda: generator.setstate(inner)
    kept = generator.get_state()
    return lambda: generator.set_state(kept)
