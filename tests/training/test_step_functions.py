"""`StepFunctions`: one step, from arrays to arrays, run here without compiling it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from clu.metrics import Average, Collection
from flax import nnx
from parts import Product, Scale, StepParts, batch_of

from nnx_alexnet import Task
from nnx_alexnet.task import ContractError
from nnx_alexnet.training import train_step


def test_an_update_is_one_step_of_the_optimizer():
    made = StepParts()
    state, metrics, info = made.update(batch_of(1.0, 3.0))
    assert [leaf.tolist() for leaf in state.model] == [0.0]
    assert float(metrics.compute()["loss"]) == 2.0
    assert float(info["loss"]) == 2.0
    assert bool(info["is_finite"])
    assert float(made.model.weight[...]) == 1.0


def test_metrics_add_up_over_masked_batches():
    made = StepParts()
    batch = batch_of(1.0, 3.0)
    metrics = made.functions.measured(made.empty, {"loss": jnp.array([1.0, 3.0])}, batch)
    half = batch | {"mask": np.array([True, False])}
    metrics = made.functions.measured(metrics, {"loss": jnp.array([11.0, np.nan])}, half)
    assert float(metrics.compute()["loss"]) == 5.0


def test_sums_of_16_bits_are_added_in_float32():
    made, num = StepParts(), 515  # which bfloat16 rounds to 516
    losses = {"loss": jnp.ones(num, jnp.bfloat16)}
    metrics = made.functions.measured(made.empty, losses, batch_of(*[0.0] * num))
    assert float(metrics.loss.total) == 515.0


class Norm(nnx.Module):
    """BatchNorm whose result a maximum hides."""

    def __init__(self):
        self.norm = nnx.BatchNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
        self.weight = nnx.Param(jnp.float32(1.0))

    def __call__(self, image):
        return jnp.nan_to_num(self.norm(image)[:, 0]) * self.weight[...]


def test_statistics_that_are_not_finite_are_noticed_though_the_loss_is():
    made = StepParts(Norm())
    assert bool(made.update(batch_of(1.0, 3.0))[2]["is_finite"])
    _, _, info = made.update(batch_of(1.0, np.nan))
    assert np.isfinite(float(info["loss"]))
    assert not bool(info["is_finite"])


def test_statistics_move_in_training_and_stay_in_evaluation():
    made = StepParts(Norm())
    batch = batch_of(1.0, 3.0)
    state, _, _ = made.update(batch)
    names = made.functions.model.names
    moved = dict(zip(names, state.model, strict=True))
    assert moved["norm/mean"].tolist() == [1.0]  # half of the batch's mean, 2
    made.functions.carried["evaluate"] = []
    outputs, carried = made.functions.evaluated("evaluate", made.state.model, [], batch)
    assert carried == []
    np.testing.assert_allclose(outputs["loss"], [1.0, 3.0], rtol=1e-4)


def test_the_rates_that_an_optimizer_keeps_are_those_of_the_step():
    made = StepParts(optimizer=optax.inject_hyperparams(optax.sgd)(lambda step: 0.5 + step))
    assert made.functions.rate_names == ("lr",)
    state, _, info = made.update(batch_of(1.0, 3.0))
    assert float(info["lr"]) == 0.5
    assert float(made.functions.learning_rates(state)["lr"]) == 0.5
    assert [leaf.tolist() for leaf in state.model] == [0.0]


def test_before_a_group_of_steps_there_is_room_for_the_scalars_of_each():
    made = StepParts(optimizer=optax.inject_hyperparams(optax.sgd)(0.5))
    infos = made.functions.no_info(made.state, 3)
    assert {name: (array.shape, array.dtype.name) for name, array in infos.items()} == {
        "loss": ((3,), "float32"), "is_finite": ((3,), "bool"), "lr": ((3,), "float32")
    }  # fmt: skip
    assert infos["is_finite"].all(), "steps that were not taken are no failure"


def test_training_images_are_transformed_with_the_key_and_their_index():
    def transform(batch, key=None):
        return (
            batch if key is None else {**batch, "image": batch["image"] + batch["index"][:, None]}
        )

    made = StepParts(transform=transform)
    _, _, info = made.update(batch_of(1.0, 3.0, start=10))
    assert float(info["loss"]) == 12.5
    made.functions.carried["predict"] = []
    batch = batch_of(1.0, 3.0, start=10)
    predictions, _ = made.functions.evaluated("predict", made.state.model, [], batch)
    assert predictions.tolist() == [1.0, 3.0]


def test_fields_that_a_transform_adds_reach_the_task():
    class Added(Product):
        def outputs(self, model, batch):
            assert "label" not in batch
            inner = batch["added"]["twice"]
            return super().outputs(model, {**batch, "image": inner})

    def transform(batch, key=None):
        return {"added": {"twice": 2 * batch["image"]}, "image": batch["image"]}

    made = StepParts(task=Added(), transform=transform)
    _, _, info = made.update(batch_of(1.0, 3.0))
    assert float(info["loss"]) == 4.0


def test_a_transform_cannot_change_which_rows_count():
    def transform(batch, key=None):
        return {**batch, "mask": ~batch["mask"], "index": -batch["index"]}

    made = StepParts(transform=transform)
    _, _, info = made.update(batch_of(1.0, 3.0) | {"mask": np.array([True, False])})
    assert float(info["loss"]) == 1.0


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda batch, key: batch["image"], "must return the batch, a dict"),
        (lambda batch, key: {"mask": batch["mask"]}, "a batch without arrays"),
        (lambda batch, key: {"image": batch["image"][:1]}, r"shape \(1, 1\) for a batch of 2"),
    ],
)
def test_results_of_a_transform_that_are_no_batch_are_rejected(transform, message):
    made = StepParts(transform=transform)
    made.functions.carried["predict"] = []
    with pytest.raises(ValueError, match=message):
        made.update(batch_of(1.0, 3.0))
    with pytest.raises(ValueError, match=message):
        made.functions.evaluated("predict", made.state.model, [], batch_of(1.0, 3.0))


def test_rows_on_the_device_are_looked_up_by_index():
    data = {"image": jnp.array([[1.0], [2.0], [5.0]]), "label": jnp.array([0, 1, 2])}
    batch = {"index": jnp.array([2, 0]), "mask": jnp.ones(2, bool)}
    completed = StepParts().functions.completed(data, batch)
    assert completed["image"].tolist() == [[5.0], [1.0]]
    assert completed["label"].tolist() == [2, 0]
    assert completed["index"].tolist() == [2, 0]


def test_gradients_are_those_of_the_mean_loss():
    made = StepParts(Scale(4.0))
    (gradient,) = made.functions.gradients(
        made.state.model, batch_of(1.0, 5.0), jax.random.key(0)
    )  # fmt: skip
    assert float(gradient) == 3.0


class Scored(Task):
    metrics = Collection.create(score=Average.from_output("loss"))

    def outputs(self, model, batch):
        return {"loss": model(batch["image"])}


def test_the_loss_is_always_among_the_metrics():
    assert set(StepParts(task=Scored()).empty.__annotations__) == {"score", "loss"}


def test_the_first_choice_of_metrics_stays():
    made = StepParts()
    outputs = {"loss": jax.ShapeDtypeStruct((2,), jnp.float32)}
    mask = jax.ShapeDtypeStruct((2,), bool)
    assert made.functions.choose_metrics(Scored(), outputs, mask) is type(made.empty)


class TwoLosses(Task):
    def outputs(self, model, batch):
        return {"loss": jnp.stack([model(batch["image"])] * 2, axis=1)}


def test_a_loss_of_another_shape_is_refused_in_training():
    made = StepParts()
    made.functions._steps = made.functions._steps._replace(train=partial(train_step, TwoLosses()))
    with pytest.raises(ContractError, match="loss"):
        made.update(batch_of(1.0, 3.0))
