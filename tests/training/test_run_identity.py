"""What a saved run and the one that continues it must share."""

import numpy as np
import optax
import pytest
from flax import nnx
from parts import Parts, Scale, batch_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import CallbackList, LearningRateMonitor
from nnx_alexnet.checkpoints import check_same
from nnx_alexnet.training import run_identity
from nnx_alexnet.training.run_identity import check_processes_alike, identify_run


def identity(**arguments):
    made = Parts(**arguments).ingredients
    return identify_run(made, made.data.describe())


LOOP = {"step_in_epoch": 0}


def differences(saved, now):
    """The names of what differs, accepting everything."""
    names = ["arrays", "seed", "hyperparams", "data", "samples", "programs", "optimizer", "model"]
    try:
        found = check_same(LOOP | {"identity": saved}, now, "logs/run", names)
    except ValueError as error:
        return str(error)
    return {each.name for each in found}


def test_a_run_is_the_same_as_itself_whatever_the_values_of_its_weights():
    assert differences(identity(weight=1.0), identity(weight=5.0)) == set()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"train": (1.0, 2.0, 3.0, 5.0)}, "samples.train"),
        ({"train": (1.0, 2.0, 3.0, 4.0, 5.0)}, "data.examples.train"),
        ({"data": {"batch_size": 4}}, "data.batch_size"),
        ({"optimizer": optax.adam(0.5)}, "optimizer"),
        ({"rate": 0.25}, "programs.optimizer"),
    ],
    ids=["seed", "values", "examples", "batch size", "optimizer", "rate"],
)
def test_what_changes_the_result_is_a_difference(changes, name):
    assert name in str(differences(identity(), identity(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_epochs": 9}, {"max_steps": 9}, {"log_every_n_steps": 7}, {"steps_per_execution": 3},
        {"validate_every_n_epochs": 2}, {"log_dir": "elsewhere"},
    ],
    ids=str,
)  # fmt: skip
def test_what_changes_no_step_is_none(changes):
    assert differences(identity(), identity(**changes)) == set()


class Stream:
    """Batches with or without a state."""

    def __init__(self, *names):
        self.names = names

    def __iter__(self):
        batch = batch_of(1.0, 2.0)
        del batch["mask"], batch["index"]
        return Batches(batch, self.names)


class Batches:
    """One batch, and methods of these names."""

    def __init__(self, batch, names):
        self.batches = iter([batch])
        vars(self).update(dict.fromkeys(names, lambda *_: None))

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.batches)


def test_the_way_to_find_the_place_in_a_stream_counts():
    def identity_of(*names):
        made, data = Parts().ingredients, DataModule(Stream(*names))
        return identify_run(made._replace(data=data), data.describe())

    grain, torch = ("get_state", "set_state"), ("state_dict", "load_state_dict")
    assert differences(identity_of(*grain), identity_of(*grain)) == set()
    found = differences(identity_of(*grain), identity_of(*torch))
    assert "stream: saved Batches.get_state, now Batches.state_dict" in str(found)
    assert "stream: saved Batches.get_state, now nothing" in str(
        differences(identity_of(*grain), identity_of())
    )


class Shifted(Scale):
    """Adds a constant that no step changes."""

    def __init__(self, shift):
        super().__init__()
        self.shift = nnx.Variable(np.float32(shift))

    def __call__(self, image):
        return super().__call__(image) + self.shift[...]


def test_a_constant_of_the_model_counts_by_its_value():
    same = differences(identity(model=Shifted(1.0)), identity(model=Shifted(1.0)))
    other = differences(identity(model=Shifted(1.0)), identity(model=Shifted(2.0)))
    assert same == set()
    assert "shift" in str(other)


def test_processes_compare_all_that_makes_them_train_the_same_model(monkeypatch):
    compared = []
    monkeypatch.setattr(run_identity, "check_alike", compared.append)

    def parts(weight=1.0, seed=0, callbacks=(), resume="never", **arguments):
        made = Parts(weight=weight, seed=seed, **arguments).ingredients
        check_processes_alike(made, CallbackList(callbacks), resume)
        return compared.pop()

    first = parts()
    assert first.keys() >= {
        "model", "data", "task", "optimizer", "programs", "callbacks", "resume", "seed", "mesh"
    }  # fmt: skip
    assert parts() == first
    assert parts(log_dir="elsewhere") == first

    def changed(**arguments):
        other = parts(**arguments)
        return {name for name in first if first[name] != other[name]}

    assert changed(weight=2.0) == {"model"}, "the processes must start from the same weights"
    assert changed(seed=1) == {"seed"}
    assert changed(resume="auto") == {"resume"}
    assert changed(callbacks=[LearningRateMonitor(3)]) == {"callbacks"}
    assert "optimizer" in changed(rate=0.25)
    assert "data" in changed(train=(1.0, 2.0, 3.0, 4.0, 5.0))
