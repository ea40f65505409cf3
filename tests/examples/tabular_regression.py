"""Regression on the columns of a table, compared with least squares.

A batch is a dict with one array per column, as a table is usually stored. The targets are
standardised for the loss; `predict` returns them in their own unit.
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from nnx_alexnet import DataModule, Task, Trainer

TARGET = "progression"  # of the disease within a year, from 25 to 346


def load_splits():
    """Returns train, validation and test as dicts of columns, standardised like train."""
    table = load_diabetes(scaled=False)
    columns = dict(zip(table.feature_names, table.data.T, strict=True))
    order = np.random.default_rng(0).permutation(len(table.target))
    train, val, test = order[:310], order[310:354], order[354:]
    columns = {name: (x - x[train].mean()) / x[train].std() for name, x in columns.items()}
    columns[TARGET] = table.target
    columns = {name: x.astype(np.float32) for name, x in columns.items()}
    return [{name: x[rows] for name, x in columns.items()} for rows in (train, val, test)]


class Regressor(nnx.Module):
    def __init__(self, num_columns, *, rngs):
        self.linear = nnx.Linear(num_columns, 1, rngs=rngs)
        self.hidden = nnx.Linear(num_columns, 32, rngs=rngs)
        self.out = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x):
        return (self.linear(x) + self.out(nnx.tanh(self.hidden(x))))[:, 0]  # B


class Regression(Task):
    def __init__(self, columns, mean, std):
        self.columns, self.mean, self.std = columns, mean, std

    def standardised(self, model, batch):
        return model(jnp.stack([batch[name] for name in self.columns], axis=1))

    def outputs(self, model, batch):
        target = (batch[TARGET] - self.mean) / self.std
        return {"loss": optax.squared_error(self.standardised(model, batch), target)}

    def predict(self, model, batch):
        return self.mean + self.std * self.standardised(model, batch)


def make_trainer(*, max_epochs=40, **options):
    train, val, test = load_splits()
    columns = [name for name in train if name != TARGET]
    return Trainer(
        Regressor(len(columns), rngs=nnx.Rngs(0)),
        DataModule(train, val, test, batch_size=32, name="diabetes"),
        task=Regression(columns, float(train[TARGET].mean()), float(train[TARGET].std())),
        optimizer=optax.adamw(2e-3, weight_decay=0.1),
        max_epochs=max_epochs,
        **options,
    )


def main(**options):
    trainer = make_trainer(**options)
    trainer.fit()
    train, _, test = load_splits()
    inputs, test_inputs = (
        np.stack([column for name, column in split.items() if name != TARGET], axis=1)
        for split in (train, test)
    )
    least_squares = LinearRegression().fit(inputs, train[TARGET])
    return {
        "r2": r2_score(test[TARGET], trainer.predict()),
        "r2_of_least_squares": least_squares.score(test_inputs, test[TARGET]),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
