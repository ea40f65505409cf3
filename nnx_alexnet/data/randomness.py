"""Seeds the global generators, so that a dataset's own random transforms can be repeated."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch, a function of its arguments alone.

    Args:
        num_examples: examples in the split.
        seed: the seed of the run, not negative.
        epoch: the epoch, from 0.

    Returns:
        A permutation of the indices, int64[num_examples].

    Example:
        >>> from nnx_alexnet.data.randomness import order
        >>> sorted(order(4, seed=0, epoch=1).tolist())
        [0, 1, 2, 3]
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    return np.random.Generator(bits).permutation(num_examples)


def seed_example(seed: int, epoch: int, index: int) -> None:
    """Seeds `random`, `numpy.random` and torch for one example of one epoch.

    Transforms that draw from these give an example the same augmentation whichever worker reads
    it, and also in a resumed run.
    """
    words = np.random.SeedSequence([seed, epoch, index]).generate_state(4)
    number = int(words[0]) << 32 | int(words[1])
    random.seed(number)
    np.random.seed(words)
    if torch := sys.modules.get("torch"):
        # Not torch.manual_seed: that one also visits every accelerator, which is slow.
        torch.default_generator.manual_seed(number)


@contextmanager
def restored_generators() -> Iterator[None]:
    """Puts the state of the global generators back at the end."""
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
