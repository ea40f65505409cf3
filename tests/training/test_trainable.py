"""Which parameters are trained, and that the others take no part in a step."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import TinyNet
from small_runs import FlatNet, tiny_trainer

from nnx_alexnet.callbacks import Callback
from nnx_alexnet.devices import named_leaves
from nnx_alexnet.training.flops import product_flops
from nnx_alexnet.training.trainable import HasPath, trainable_filter


def names(model, trainable):
    return [*named_leaves(nnx.state(model, trainable_filter(model, trainable)))]


def is_dense(path, value):
    return path[0] == "dense" and isinstance(value, nnx.Param)


DENSE = ["dense/bias", "dense/kernel"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("dense", DENSE),
        ("dense/k", ["dense/kernel"]),
        (["bn", "dense/bias"], ["bn/bias", "bn/scale", "dense/bias"]),
        (is_dense, DENSE),
        ((is_dense, nnx.PathContains("bn")), ["bn/bias", "bn/scale", *DENSE]),
        (nnx.All(nnx.Param, nnx.PathContains("dense")), DENSE),
    ],
)
def test_trained_parameters_are_selected_by_path_or_filter(given, expected):
    assert names(TinyNet(4, rngs=nnx.Rngs(0)), given) == expected


def test_filters_with_the_same_paths_are_equal():
    model = TinyNet(4, rngs=nnx.Rngs(0))
    assert trainable_filter(model, "dense") == trainable_filter(model, is_dense)
    assert isinstance(trainable_filter(model, "dense"), HasPath)
    for everything in (None, "", nnx.Param, True):
        assert trainable_filter(model, everything) is nnx.Param


@pytest.mark.parametrize("given", ["head", ["dense", "head"], nnx.Cache, [], False])
def test_a_filter_that_selects_nothing_is_refused_with_the_paths(given):
    with pytest.raises(ValueError, match=r"selects no parameter\. .* are bn/bias, .* dense/kernel"):
        tiny_trainer(trainable=given)


def test_another_type_is_refused_with_what_would_work():
    with pytest.raises(TypeError, match=r"`trainable` \(=3\) must be a prefix of the paths"):
        tiny_trainer(trainable=3)


class Look(Callback):
    """Keeps the names of the gradients, and those of all arrays of the state."""

    def on_train_start(self, trainer):
        self.before = jax.tree.map(np.array, nnx.state(trainer.model, (nnx.Param, nnx.BatchStat)))

    def on_train_batch_start(self, trainer, batch, batch_index):
        self.gradients = [*trainer.gradients(batch)]

    def on_train_end(self, trainer):
        self.names = [*trainer._arrays.named()]


@pytest.mark.parametrize("given", [lambda path: True, lambda path, value: path.x])
def test_a_function_that_fails_is_refused_with_its_error(given):
    with pytest.raises(TypeError, match=r"`trainable` .* nnx filter, .* It raised \w+Error: "):
        trainable_filter(TinyNet(4, rngs=nnx.Rngs(0)), given)


def test_frozen_parameters_keep_their_bits_and_have_no_state():
    look = Look()
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    trainer = tiny_trainer(trainable="dense", optimizer=optimizer, callbacks=[look], max_steps=2)
    trainer.fit()
    after = named_leaves(trainer.model)
    changed = [
        name for name, leaf in named_leaves(look.before).items() if (leaf != after[name]).any()
    ]
    # BatchNorm's statistics are no parameters: they follow the data.
    assert changed == ["bn/mean", "bn/var", *DENSE]
    assert look.gradients == DENSE
    moments = [name.partition("mu/")[2] for name in look.names if "/mu/" in name]
    assert moments == DENSE


def test_a_step_computes_no_gradients_of_frozen_parameters():
    flops = {}
    for trainable in (None, "dense"):
        trainer = tiny_trainer(trainable=trainable)
        evaluation, training = trainer._verbs.preparation.for_training()
        flops[trainable] = sum(product_flops(training.program).values())
        forward = sum(evaluation.forward_flops.values()) * training.num_rows
    dense = 2 * 16 * 8 * 4  # one product for the gradient of the kernel
    assert flops["dense"] == forward + dense
    assert flops[None] > 1.5 * forward
    counted = sum(training.example_flops.values()) * training.num_rows  # for `perf/mfu`
    assert counted == forward + dense


def test_a_run_resumes_only_with_the_same_trained_parameters(tmp_path):
    arguments = {"log_dir": tmp_path, "optimizer": optax.sgd(0.1), "max_epochs": 1}
    run = tiny_trainer(model=FlatNet(), trainable="dense", **arguments)
    run.fit()
    with pytest.raises(ValueError, match=r"trainable: saved \['dense/bias', .*\], now all"):
        tiny_trainer(model=FlatNet(), **arguments).fit(resume=run.run_dir)
    longer = {**arguments, "max_epochs": 2}
    accepting = tiny_trainer(model=FlatNet(), **longer)
    accepting.fit(resume=run.run_dir, accept=["trainable", "optimizer", "programs"])
    assert accepting.global_step == 2 * run.global_step


def test_frozen_runs_agree_for_any_dispatch_and_resume(tmp_path):
    arguments = {"trainable": "dense", "optimizer": optax.adam(0.01), "devices": 2}
    whole = tiny_trainer(model=FlatNet(), steps_per_execution=4, max_epochs=3, **arguments)
    whole.fit()
    half = tiny_trainer(model=FlatNet(), log_dir=tmp_path, max_epochs=1, **arguments)
    half.fit()
    rest = tiny_trainer(model=FlatNet(), log_dir=tmp_path, max_epochs=3, **arguments)
    rest.fit(resume=half.run_dir)
    for name, leaf in rest.parameters().items():
        assert np.array_equal(leaf, whole.parameters()[name]), name
