"""Metrics that a task may have, and the errors for the others."""

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.metrics import Accuracy, Average, Collection
from flax import nnx
from helpers import linear_trainer, loss_task


@flax.struct.dataclass
class Vector(clu.metrics.Metric):
    total: jax.Array

    @classmethod
    def from_model_output(cls, loss, mask, **_):
        return cls(total=jnp.stack([jnp.where(mask, loss, 0).sum()] * 3))

    @classmethod
    def empty(cls):
        return cls(total=jnp.zeros(3))

    def merge(self, other):
        return type(self)(total=self.total + other.total)

    def compute(self):
        return self.total


@flax.struct.dataclass
class Failing(Vector):
    def compute(self):
        raise RuntimeError("on purpose")


@flax.struct.dataclass
class OnHost(Vector):
    def compute(self):
        return np.sqrt(np.asarray(self.total)).sum()


@flax.struct.dataclass
class Dictionary(Vector):
    def compute(self):
        return {"a": self.total, "b": self.total[1]}


class Undecorated(Vector):
    pass


@flax.struct.dataclass
class OtherWhenEmpty(Vector):
    @classmethod
    def empty(cls):
        return cls(total=None)

    def merge(self, other):
        return other


@flax.struct.dataclass
class Parent(Collection):
    loss: Average.from_output("loss")


@flax.struct.dataclass
class Child(Parent):
    again: Average.from_output("loss")


def postponed():
    """A collection as a file with `from __future__ import annotations` has it."""
    names = {**globals()}
    exec(
        "from __future__ import annotations\n@flax.struct.dataclass\n"
        "class Postponed(Collection):\n    loss: Average.from_output('loss')",
        names,
    )
    return names["Postponed"]


LOSS = Average.from_output("loss")


@pytest.mark.parametrize(
    ("metrics", "match"),
    [
        (lambda: Collection.create(f1=Average.from_output("f1")), "reads the output 'f1', which"),
        (lambda: Collection.create(accuracy=Accuracy), "`accuracy` cannot be computed from the"),
        (postponed, "from __future__ import annotations"),
        (lambda: nnx.MultiMetric(loss=nnx.metrics.Average("loss")), "is a MultiMetric; it must be"),
        (lambda: {"loss": LOSS}, "is a dict; it must be a subclass of clu"),
        (lambda: Collection.create(loss=LOSS).empty(), "is a _InlineCollection; it must be a sub"),
        (lambda: LOSS, "the class FromOutput; it must be a subclass"),
        (lambda: Collection.create(loss="loss"), "`loss` is the string 'loss'"),
        (lambda: Collection.create(loss=3), "`loss` is a int; it must be a class of clu"),
        (lambda: Collection.create(v=Vector), r"`v` computes an array of shape \(3,\); it must c"),
        (lambda: Collection.create(v=Failing), "`v` cannot be merged or computed: Runtime"),
        (lambda: Collection.create(v=Undecorated), "Decorate it with @flax.struct.dataclass"),
        (lambda: Collection.create(v=Dictionary), r"`v/a` computes an array of shape \(3,\)"),
        (lambda: Collection.create(v=OtherWhenEmpty), "`v` has a different structure when"),
        (
            lambda: Collection.create(v=clu.metrics.CollectingMetric.from_outputs(("loss",))),
            "`v` is a CollectingMetric",
        ),
        (lambda: Child, "Child inherits the metrics loss, but CLU does not read"),
        (lambda: Collection.create(loss=LOSS, loss_step=LOSS), "`loss_step` has the name under wh"),
    ],
)  # fmt: skip
def test_a_metric_that_cannot_be_computed_is_refused_by_name(refused, metrics, match):
    mine = loss_task(lambda z, b: {"loss": z.mean(axis=1)}, metrics=metrics())
    refused(mine, match, methods=("fit",))


def test_a_metric_may_compute_with_numpy():
    row = linear_trainer(
        loss_task(lambda z, b: {"loss": z[:, 0] * 0 + 1}, metrics=Collection.create(root=OnHost))
    ).fit()[0]
    assert row["val/root"] == pytest.approx(3 * np.sqrt(32), rel=1e-6)


def test_the_loss_is_always_a_metric():
    mine = loss_task(
        lambda z, b: {"loss": z[:, 0] * 0 + 2, "half": z[:, 0] * 0 + 0.5},
        metrics=Collection.create(half=Average.from_output("half")),
    )
    row = linear_trainer(mine).fit()[0]
    assert (row["val/loss"], row["val/half"]) == (2, 0.5)
