"""Points of two classes, a trainer for them, and the statistics that a BatchNorm has after it."""

import numpy as np

from nnx_alexnet import DataModule, Trainer

X = np.random.default_rng(0).normal(3, 1, size=(64, 4)).astype(np.float32)
Y = (X[:, 0] > 3).astype(np.int32)


def fit(model, **arguments):
    arguments = {"max_epochs": 2, "log_dir": None, "progress_bar": False, **arguments}
    trainer = Trainer(model, DataModule((X, Y), (X, Y), batch_size=64), **arguments)
    return trainer, trainer.fit()


def moments(num_steps, momentum=0.9):
    """BatchNorm's running mean and variance after so many steps on all of X."""
    mean, var = np.zeros(4), np.ones(4)
    for _ in range(num_steps):
        mean = momentum * mean + (1 - momentum) * X.mean(axis=0)
        var = momentum * var + (1 - momentum) * X.var(axis=0)
    return mean, var
