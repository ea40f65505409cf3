import random
import threading
import time

import numpy as np
import pytest
import torch
from data_helpers import CLASSES, Examples, dataset_with
from torch.utils.data import Subset

from nnx_alexnet.data.seeding import restored_generators, seed_example
from nnx_alexnet.data.sources import MapSource


@pytest.mark.parametrize("seed", [3, 2**32 - 1, 2**40])
def test_an_example_has_the_random_numbers_of_its_seed_sequence(seed):
    words = np.random.SeedSequence([seed, 1, 2]).generate_state(4)
    number = int(words[0]) * 2**32 + int(words[1])
    with restored_generators():
        seed_example(seed, 1, 2)
        drawn = np.random.rand(), random.random(), torch.rand(()).item()
    expected = torch.rand((), generator=torch.Generator().manual_seed(number)).item()
    assert drawn == (
        np.random.RandomState(words).rand(),
        random.Random(number).random(),
        expected,
    )


@pytest.mark.parametrize("kind", ["global", "numpy", "python", "torch", "legacy"])
def test_reading_a_sample_restores_every_generator(kind):
    generators = {
        "numpy": np.random.default_rng(5), "python": random.Random(5),
        "torch": torch.Generator().manual_seed(5), "legacy": np.random.RandomState(5),
    }  # fmt: skip
    draws = {
        "global": lambda: np.random.rand() + random.random() + torch.rand(()).item(),
        "numpy": generators["numpy"].random,
        "python": generators["python"].random,
        "torch": lambda: torch.rand((), generator=generators["torch"]).item(),
        "legacy": generators["legacy"].rand,
    }

    def make(index):
        return np.full((2, 2, 1), draws[kind]()), index % 5

    dataset = dataset_with(make, targets=CLASSES, transforms=[generators.get(kind)])
    source = MapSource(Subset(dataset, range(200)))  # reads example 0
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert source.labels() is not None
    source.digest()
    after = draws[kind]()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    if kind == "torch":
        generators["torch"].manual_seed(5)
    elif kind == "legacy":
        generators["legacy"].seed(5)
    elif kind == "python":
        generators["python"].seed(5)
    elif kind == "numpy":
        generators["numpy"].bit_generator.state = np.random.default_rng(5).bit_generator.state
    if kind != "global":
        draws[kind]()  # example 0
    assert after == draws[kind]()


def test_two_threads_read_what_each_would_read_alone():
    """They share the global generators, which are seeded for each example."""

    def make(index):
        first = np.random.rand()
        time.sleep(1e-4)  # leaves the other thread its turn
        return np.full((2, 2, 1), first + np.random.rand() + torch.rand(()).item()), index

    def read(seed, found):
        source = MapSource(Examples(make, 20))
        rows = [source.take(np.arange(20), seed=seed, epoch=epoch) for epoch in range(3)]
        images = [each.fields["image"] for each in rows]
        found[seed] = np.concatenate(images)

    alone, together = {}, {}
    for seed in (1, 2):
        read(seed, alone)
    state = np.random.get_state()[1].copy()
    threads = [threading.Thread(target=read, args=(seed, together)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        np.testing.assert_array_equal(together[seed], alone[seed])
    np.testing.assert_array_equal(np.random.get_state()[1], state)
