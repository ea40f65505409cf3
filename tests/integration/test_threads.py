"""Trainers in several threads of one process do not disturb each other."""

import threading
import time

import numpy as np
from flax import nnx
from helpers import tree_equal

from nnx_alexnet import DataModule, Trainer


def untimed(history):
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in history]


def test_two_trainers_in_two_threads_end_as_each_does_alone():
    """Their datasets draw from the global generators, which both trainers seed."""

    class Random:
        def __len__(self):
            return 24

        def __getitem__(self, index):
            noise = np.random.normal(size=6)
            time.sleep(1e-4)
            return np.float32(noise + np.random.normal(size=6)), index % 4

    def train(seed, found):
        model, data = nnx.Linear(6, 4, rngs=nnx.Rngs(0)), DataModule(Random(), batch_size=8)
        trainer = Trainer(
            model, data, max_epochs=3, seed=seed, log_dir=None, progress_bar=False
        )  # fmt: skip
        history = untimed(trainer.fit())
        found[seed] = nnx.state(model), history

    alone, together = {}, {}
    for seed in (1, 2):
        train(seed, alone)
    threads = [threading.Thread(target=train, args=(seed, together)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        assert tree_equal(together[seed][0], alone[seed][0])
        assert together[seed][1] == alone[seed][1]
