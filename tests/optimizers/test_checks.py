"""Tests which optimizers a Trainer accepts, and which arguments they receive."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from linear_runs import by_hand, fit

from nnx_alexnet import DataModule, Task, Trainer
from nnx_alexnet.callbacks import BETWEEN_DISPATCHES, Callback
from nnx_alexnet.optimizers import untouched_parameters


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: optax.chain(
            optax.sgd(0.5), optax.contrib.reduce_on_plateau(factor=0.1, patience=1, rtol=0.5)
        ),
        optax.polyak_sgd,
        pytest.param(optax.lbfgs, marks=pytest.mark.slow),  # it has a test of its own
        lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
    ],
    ids=["plateau", "polyak", "lbfgs", "line search"],
)
def test_optimizers_that_need_the_loss_get_it(optimizer):
    model, history = fit(optimizer(), epochs=5)
    parameters, losses = by_hand(optimizer(), steps=5)
    assert [row["train/loss"] for row in history] == pytest.approx(losses, abs=1e-5)
    np.testing.assert_allclose(model.kernel[...], parameters["kernel"], rtol=1e-3, atol=1e-4)


class Dispatches(Callback):
    """The steps after which the host had control."""

    batch_period = BETWEEN_DISPATCHES

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("num_steps", [pytest.param(1, marks=pytest.mark.slow), 10])  # per dispatch
def test_lbfgs_finds_the_least_squares_solution(num_steps):
    inputs = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    scaled = inputs * np.array([3, 1, 0.5, 1], np.float32)  # far from round
    targets = (inputs @ np.arange(4) + np.sin(inputs[:, 0]) + 1).astype(np.float32)

    class Batches:
        def __iter__(self):
            return itertools.repeat({"x": scaled, "y": targets}, 20)

    class LeastSquares(Task):
        def outputs(self, model, batch):
            return {"loss": jnp.square(model(batch["x"])[:, 0] - batch["y"])}

    dispatches = Dispatches()
    trainer = Trainer(
        nnx.Linear(4, 1, rngs=nnx.Rngs(0)), DataModule(Batches()),
        task=LeastSquares(), optimizer=optax.lbfgs(), max_epochs=1, log_dir=None,
        steps_per_execution=num_steps, progress_bar=False, callbacks=dispatches,
    )  # fmt: skip
    trainer.fit()
    rows = np.column_stack([scaled, np.ones(32)])
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
    found = [*trainer.model.kernel[...][:, 0], trainer.model.bias[...][0]]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert dispatches.steps == [*range(num_steps, 21, num_steps)]


def test_a_line_search_sees_the_dropout_of_its_step():
    """Its loss at the present parameters must be that of the step, or the search is of another."""

    class Dropped(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.dropout, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.dropout(x))

    seen = []

    def update(updates, state, params, *, value, value_fn, **_):
        jax.debug.callback(lambda *pair: seen.append(pair), value, value_fn(params))
        return updates, state

    search = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    fit(optax.chain(search, optax.sgd(0.1)), model=Dropped(), epochs=3)
    jax.effects_barrier()
    assert len(seen) == 3
    for value, again in seen:
        assert float(value) == pytest.approx(float(again), abs=1e-6)


@pytest.mark.parametrize("bare", [True, False])
def test_multi_steps_move_after_every_k_steps(bare):
    optimizer = optax.MultiSteps(optax.sgd(0.5), every_k_schedule=2)
    model, _ = fit(optimizer if bare else optimizer.gradient_transformation(), epochs=4)
    # Each epoch is one batch, so two gradients at the same parameters have their mean.
    parameters, _ = by_hand(optax.chain(optax.sgd(0.5), optax.identity()), steps=2)
    np.testing.assert_allclose(model.kernel[...], parameters["kernel"], rtol=1e-5)


def test_multi_steps_hand_the_loss_on():
    fit(optax.MultiSteps(optax.chain(optax.sgd(0.5), optax.contrib.reduce_on_plateau()), 2))


@pytest.mark.parametrize(
    ("optimizer", "match"),
    [
        (
            optax.partition({"a": optax.sgd(0.1)}, {"kernel": "a", "bias": "a"}),
            "cannot be initialised with the parameters .*lambda parameters: jax.tree.map",
        ),
        (
            optax.GradientTransformation(
                lambda params: (), lambda updates, state, params, *, needed: (updates, state)
            ),
            "cannot be applied to the parameters .*'needed'",
        ),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path, optimizer, match
):
    with pytest.raises(ValueError, match=rf"(?s)`optimizer` {match}"):
        fit(optimizer, log_dir=tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_name_of_an_optimizer_is_answered_with_create_optimizer():
    with pytest.raises(TypeError, match=r" create_optimizer\('adam'\) builds one by name\."):
        fit("adam")


@pytest.mark.parametrize("optimizer", [0.1, "adam", optax.adam, lambda updates: updates])
def test_what_is_no_optimizer_is_refused(optimizer):
    with pytest.raises(TypeError, match=r"`optimizer` .* must be an optax optimizer"):
        fit(optimizer)


def trained_by(optimizer, labels):
    """An optimizer of the parameters labelled "train", which leaves the others as they are."""
    return optax.partition({"train": optimizer, "freeze": optax.set_to_zero()}, labels)


def label_by_path(parameters):
    def label(path, _):
        return "train" if "kernel" in jax.tree_util.keystr(path) else "freeze"

    return jax.tree_util.tree_map_with_path(label, parameters)


def label_by_type(parameters):  # which updates do not have
    def label(leaf):
        return "train" if isinstance(leaf, nnx.Param) else "freeze"

    return jax.tree.map(label, parameters, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (optax.adam(0.1), ([], False)),
        (optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(), ([], False)),
        (optax.lbfgs(), ([], False)),
        (trained_by(optax.sgd(0.1), label_by_path), (["bias"], False)),
        (trained_by(optax.sgd(0.1), label_by_type), (["bias", "kernel"], True)),
        (optax.set_to_zero(), (["bias", "kernel"], True)),
    ],
    ids=["adam", "multi steps", "lbfgs", "by path", "by type", "zero"],
)
def test_parameters_that_an_optimizer_never_moves_are_found(optimizer, expected):
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    assert untouched_parameters(optimizer, model) == expected


def test_parameters_that_stay_as_they_are_are_reported(warnings):
    warnings.set_level("INFO", logger="nnx_alexnet")
    fit(trained_by(optax.sgd(0.1), label_by_path))
    assert "`optimizer` does not change these parameters: bias." in warnings.text
    fit(trained_by(optax.sgd(0.1), label_by_type))
    assert "`optimizer` changes no parameter" in warnings.text
