"""What `create_optimizer` builds is what optax builds; which optimizers a Trainer takes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.callbacks import EarlyStopping, LearningRateMonitor
from nnx_alexnet.optimizers import (
    OPTIMIZERS,
    create_optimizer,
    rate_leaves,
    untouched_parameters,
)

PARAMETERS = {"w": jnp.array([1.0, -2.0, 3.0])}
GRADIENTS = {"w": jnp.array([0.1, 0.4, -30.0])}


def run(optimizer, num_steps=5):
    parameters, state, rates = PARAMETERS, optimizer.init(PARAMETERS), []
    for _ in range(num_steps):
        updates, state = optimizer.update(GRADIENTS, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        if hasattr(state, "hyperparams"):
            rates.append(float(state.hyperparams["learning_rate"]))
    return np.asarray(parameters["w"]), rates


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, optax.adam(1e-3)),
        ({"name": "adamw", "weight_decay": 0.1}, optax.adamw(1e-3, weight_decay=0.1)),
        ({"name": "lion"}, optax.lion(1e-3)),
        ({"name": "sgd"}, optax.sgd(1e-3, momentum=0.9, nesterov=True)),
        (
            {"name": "sgd", "clip_norm": 1.0},
            optax.chain(
                optax.clip_by_global_norm(1.0), optax.sgd(1e-3, momentum=0.9, nesterov=True)
            ),
        ),
    ],
)
def test_it_moves_parameters_as_optax_does(arguments, expected):
    np.testing.assert_allclose(run(create_optimizer(**arguments))[0], run(expected)[0], rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_keeps_its_rate_readable(name):
    assert run(create_optimizer(name, 0.25))[1] == [0.25] * 5


def test_the_cosine_rises_over_the_warm_up_and_falls_to_zero():
    rates = run(
        create_optimizer("sgd", 1.0, schedule="cosine", num_steps=6, warmup_steps=2), num_steps=7
    )[1]
    assert rates[:3] == pytest.approx([0, 0.5, 1])
    assert rates == pytest.approx([*rates[:3], *sorted(rates[3:], reverse=True)])
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_the_cosine_warms_up_for_a_tenth_of_the_run_unless_told_otherwise():
    optimizer = create_optimizer("sgd", 1.0, schedule="cosine", num_steps=20)
    assert run(optimizer)[1][:3] == pytest.approx([0, 0.5, 1])


def test_a_warm_up_without_a_cosine_stays_at_the_rate():
    assert run(create_optimizer("sgd", 1.0, warmup_steps=2))[1] == pytest.approx([0, 0.5, 1, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "adm"}, "did you mean 'adam'"),
        ({"schedule": "cos"}, "did you mean 'cosine'"),
        ({"learning_rate": 0.0}, r"`learning_rate` \(=0.0\) must be positive"),
        ({"schedule": "cosine"}, r"`num_steps` \(=None\)"),
        ({"schedule": "cosine", "num_steps": 3, "warmup_steps": 3}, r"`num_steps` \(=3\)"),
        ({"weight_decay": 0.1}, "`weight_decay`.*'adamw' or 'lion'"),
        ({"warmup_steps": -1}, "`warmup_steps`"),
        ({"clip_norm": 0.0}, "`clip_norm`"),
    ],
)
def test_arguments_that_do_not_work_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        create_optimizer(**arguments)


# ---- Optimizers that a Trainer takes ------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


def fit(optimizer, *, log_dir=None, epochs=3, model=None, callbacks=()):
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0)) if model is None else model
    trainer = Trainer(
        model, DataModule((X, Y), batch_size=32), optimizer=optimizer, max_epochs=epochs,
        log_dir=log_dir, progress_bar=False, callbacks=callbacks,
    )  # fmt: skip
    return model, trainer.fit()


def by_hand(optimizer, steps):
    """The parameters and losses of plain optax on the whole batch, in its order."""
    order = np.arange(32)
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    parameters = {"kernel": model.kernel[...], "bias": model.bias[...]}

    def loss_of(parameters):
        logits = X[order] @ parameters["kernel"] + parameters["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, Y[order]).mean()

    state, losses = optimizer.init(parameters), []
    for _ in range(steps):
        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        updates, state = optimizer.update(
            gradients, state, parameters, value=loss, grad=gradients, value_fn=loss_of
        )
        parameters = optax.apply_updates(parameters, updates)
        losses.append(float(loss))
    return parameters, losses


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: optax.chain(
            optax.sgd(0.5), optax.contrib.reduce_on_plateau(factor=0.1, patience=1, rtol=0.5)
        ),
        optax.polyak_sgd,
        optax.lbfgs,
        lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
    ],
    ids=["plateau", "polyak", "lbfgs", "line search"],
)
def test_optimizers_that_need_the_loss_get_it(optimizer):
    model, history = fit(optimizer(), epochs=5)
    parameters, losses = by_hand(optimizer(), steps=5)
    assert [row["train/loss"] for row in history] == pytest.approx(losses, abs=1e-5)
    np.testing.assert_allclose(model.kernel[...], parameters["kernel"], rtol=1e-3, atol=1e-4)


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


@pytest.mark.parametrize("optimizer", [0.1, "adam", optax.adam, lambda updates: updates])
def test_what_is_no_optimizer_is_refused(optimizer):
    with pytest.raises(TypeError, match=r"`optimizer` .* must be an optax optimizer"):
        fit(optimizer)


def partitioned(rates):
    def label(path, _):
        return "kernels" if "kernel" in jax.tree_util.keystr(path) else "biases"

    return optax.partition(
        {name: optax.inject_hyperparams(optax.sgd)(rate) for name, rate in rates.items()},
        lambda parameters: jax.tree_util.tree_map_with_path(label, parameters),
    )


def test_each_group_of_parameters_has_its_learning_rate():
    _, history = fit(partitioned({"kernels": 0.5, "biases": lambda step: 0.25 / (step + 1)}))
    rates = [{k: v for k, v in row.items() if k.startswith("lr")} for row in history]
    assert rates == [
        {"lr/biases": pytest.approx(0.25 / step), "lr/kernels": 0.5} for step in (1, 2, 3)
    ]


def test_a_rate_of_a_group_can_be_monitored_and_lr_cannot():
    optimizer = partitioned({"kernels": 0.5, "biases": 0.25})
    fit(optimizer, callbacks=[EarlyStopping("lr/kernels")])
    with pytest.raises(ValueError, match=r"`monitor` \(='lr'\) is unknown.*'lr/biases'"):
        fit(optimizer, callbacks=[EarlyStopping("lr")])
    with pytest.raises(ValueError, match=r"has several\. .*: lr/biases, lr/kernels\. Remove"):
        fit(optimizer, callbacks=[LearningRateMonitor()])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], {}),
        (["a/mu"], {}),
        (["x/hyperparams/learning_rate", "x/hyperparams/b1"], {"lr": 0}),
        (["0/hyperparams/learning_rate", "1/hyperparams/learning_rate"], {"lr/0": 0, "lr/1": 1}),
        (
            ["in/a/b/s/hyperparams/learning_rate", "mu", "in/c/s/hyperparams/learning_rate"],
            {"lr/a.b": 0, "lr/c": 2},
        ),
        (["hyperparams/learning_rate", "in/hyperparams/learning_rate"], {"lr": 0, "lr/in": 1}),
    ],
)
def test_rates_are_named_by_what_tells_their_paths_apart(names, expected):
    assert rate_leaves(names, [()] * len(names)) == expected


def test_a_rate_that_is_an_array_is_no_metric():
    assert rate_leaves(["x/hyperparams/learning_rate"], [(3,)]) == {}


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


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
def test_the_rate_is_not_rounded_to_the_dtype_of_a_parameter(dtype):
    state = create_optimizer("adam", 1e-3).init({"a": jnp.ones(2, dtype), "b": jnp.ones(2)})
    rate = state.hyperparams["learning_rate"]
    assert (rate.dtype, float(rate)) == (jnp.float32, float(np.float32(1e-3)))
