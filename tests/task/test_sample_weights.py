"""The batch key `weight`."""

import numpy as np
import pytest
from flax import nnx
from helpers import X, Y

from nnx_alexnet import Classification, DataModule, Trainer
from nnx_alexnet.task.sample_weights import batch_weights, weight_problem


def test_a_batch_without_weights_has_no_outputs_for_them():
    assert batch_weights({"image": X}, None) == {}
    assert [*batch_weights({"image": X}, np.ones(32))] == ["weight"]


@pytest.mark.parametrize("weight", [np.ones((32, 2)), np.ones(32, complex)])
def test_a_weight_is_one_real_number_per_example(weight):
    split = {"image": X, "label": Y, "weight": weight}
    trainer = Trainer(
        nnx.Linear(4, 2, rngs=nnx.Rngs(0)), DataModule(split, batch_size=16), log_dir=None,
        task=Classification(), progress_bar=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"`data` has a `weight` of shape"):
        trainer.fit()
    assert trainer.num_compilations == {}


def test_only_a_split_needs_a_positive_weight():
    assert weight_problem(np.zeros(4)) is None
    split = {"image": X, "label": Y, "weight": np.zeros(len(X), np.float32)}
    trainer = Trainer(
        nnx.Linear(4, 2, rngs=nnx.Rngs(0)), DataModule((X, Y), split, batch_size=16),
        log_dir=None, task=Classification(), progress_bar=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="`val` has a `weight` of 0 for every example"):
        trainer.fit()
    assert trainer.num_compilations == {}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("value", "shown"), [(-1, "from -1 to 1"), (np.nan, "from nan to nan")])
def test_a_negative_weight_or_nan_is_refused_by_its_key(value, shown, in_memory):
    weight = np.where(np.arange(len(X)) == 20, value, 1.0).astype(np.float32)
    split = {"image": X, "label": Y, "weight": weight}
    rows = [{name: values[k] for name, values in split.items()} for k in range(len(X))]
    data = DataModule(split if in_memory else rows, (X, Y), batch_size=32)
    trainer = Trainer(
        nnx.Linear(4, 2, rngs=nnx.Rngs(0)), data,
        log_dir=None, task=Classification(), progress_bar=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"`train` has a `weight` {shown}"):
        trainer.fit()


def test_weights_that_are_all_0_are_refused():
    split = {"image": X, "label": Y, "weight": np.zeros(len(X))}
    trainer = Trainer(
        nnx.Linear(4, 2, rngs=nnx.Rngs(0)), DataModule(split, batch_size=16), log_dir=None,
        progress_bar=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="`train` has a `weight` of 0 for every example"):
        trainer.fit()
