"""`Preparation`: what is checked and traced before a verb, and when it compiles anew."""

from functools import partial
from unittest.mock import patch

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parts import Parts, batch_of

from nnx_alexnet import Classification, DataModule, Task
from nnx_alexnet.devices import Placement
from nnx_alexnet.training.compiled_steps import CompiledSteps


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_missing_split_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"`data` has no {name} split"):
        Parts().preparation.split(name)


def test_the_splits_are_those_of_the_data():
    parts = Parts(val=(1.0,))
    data = parts.data
    found = [parts.preparation.split(name) for name in ("train", "val", "test")]
    assert found == [data.train, data.val, data.test]


def test_nothing_is_compiled_or_changed_by_tracing():
    parts = Parts(val=(1.0,), weight=3.0)
    parts.preparation.for_training()
    parts.preparation.for_evaluation(parts.data.val)
    parts.preparation.for_prediction(parts.data.test)
    assert parts.arrays.num_compilations == {}
    assert float(parts.model.weight[...]) == 3.0


def test_what_is_known_before_a_fit_is_traced_once():
    parts = Parts()
    evaluation, training = parts.preparation.known(is_running=False)
    again = parts.preparation.known(is_running=False)
    assert again[0] is evaluation
    assert again[1] is training


def test_a_prediction_from_data_of_the_same_form_is_traced_once():
    class Traced(Task):
        num = 0

        def predict(self, model, batch):
            type(self).num += 1
            return model(batch["image"])

    parts = Parts(val=(1.0, 2.0, 3.0), task=Traced())
    parts.preparation.for_prediction(parts.data.test)
    num = Traced.num
    parts.preparation.for_prediction(parts.data.test)
    parts.preparation.for_prediction(parts.data.val)
    assert Traced.num == num > 0
    bad = DataModule({"other": np.ones((2, 1), np.float32)}, batch_size=2).train
    with pytest.raises(ValueError, match="the task reads 'image'"):
        parts.preparation.for_prediction(bad)
    parts.preparation.for_prediction(parts.data.test)
    assert Traced.num > num, "the trace that failed replaced the one before"
    num = Traced.num
    parts.model.extra = 3
    parts.preparation.for_prediction(parts.data.test)
    assert Traced.num > num


def test_a_verb_that_runs_keeps_its_compiled_steps():
    parts = Parts(val=(1.0,))
    parts.preparation.for_prediction(parts.data.test)
    steps = parts.arrays.steps
    parts.model.extra = 3  # as a hook may do
    parts.preparation.known(is_running=True)
    assert parts.arrays.steps is steps


def test_a_rebuilt_model_gets_new_steps():
    parts = Parts()
    evaluation, training = parts.preparation.for_training()
    steps = parts.arrays.steps
    parts.preparation.for_training()
    assert parts.arrays.steps is steps
    parts.model.extra = 3
    other = parts.preparation.known(is_running=False)
    assert parts.arrays.steps is not steps
    assert other[0] is not evaluation
    assert other[1] is not training


def test_a_new_model_forgets_the_training_trace_of_the_old_one():
    parts = Parts(val=(1.0,))
    parts.preparation.for_training()
    parts.model.extra = 3
    parts.preparation.for_evaluation(parts.data.val)
    assert parts.preparation.training is None
    assert parts.preparation.evaluation is not None


def test_the_trace_of_the_train_split_is_the_one_that_is_kept():
    parts = Parts(train=[1.0] * 8, val=[1.0] * 8, data={"batch_size": 4})
    evaluation, training = parts.preparation.for_training()
    assert parts.preparation.evaluation is evaluation
    assert (evaluation.num_rows, training.num_rows) == (4, 4)
    assert evaluation.metric_names == ("loss",)


class Fails(Task):
    def __init__(self, error):
        self.error = error

    def outputs(self, model, batch):
        raise self.error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TypeError("no images"), r"fit together, with examples of `image` float32\[1\], .*"
         "TypeError: no images"),
        (KeyError("target"), "the task reads 'target', which the batch does not have; its"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_what_a_task_raises_over_shapes_is_an_error_of_the_arguments(verb, error, text):
    parts = Parts(val=(1.0,), task=Fails(error))
    trace = parts.preparation.for_training
    if verb == "evaluate":
        trace = partial(parts.preparation.for_evaluation, parts.data.val)
    with pytest.raises(ValueError, match=text) as raised:
        trace()
    assert raised.value.__cause__ is error
    assert parts.arrays.num_compilations == {}


def classifier(labels, *, as_batches=False):
    """Parts of a classification of four classes, from arrays or from batches."""
    parts = Parts(model=nnx.Linear(1, 4, rngs=nnx.Rngs(0)), task=Classification())
    images = np.zeros((len(labels), 1), np.float32)
    split = (images, np.array(labels, np.int32))
    data = DataModule([split] if as_batches else split, batch_size=2)
    parts.data = parts.preparation._data = data
    return parts


def test_a_field_that_the_transform_drops_is_missing_from_the_batch():
    parts = classifier([0, 3])
    drop = lambda batch: {"x": batch["image"], "label": batch["label"]}  # noqa: E731
    split = np.zeros((2, 1), np.float32), np.zeros(2, np.int32)
    parts.preparation._data = DataModule(split, batch_size=2, transform=drop)
    with pytest.raises(ValueError, match=r"reads 'image', .* its keys are index, label, mask, x"):
        parts.preparation.for_training()


def test_splits_with_equal_batches_are_traced_once():
    split = np.zeros((4, 1), np.float32), np.array([0, 1, 2, 3], np.int32)
    other = np.zeros((4, 1), np.float32), np.array([0, 1, 2, 3], np.int8)
    counts = []
    for val in (split, other):
        parts = classifier([0, 1, 2, 3])
        parts.preparation._data = DataModule(split, val, batch_size=2)
        parts.preparation._renew_steps()
        with patch.object(CompiledSteps, "trace_evaluation", autospec=True,
                          side_effect=CompiledSteps.trace_evaluation) as trace:  # fmt: skip
            parts.preparation.for_training()
        counts.append(trace.call_count)
    assert counts == [1, 2]


def test_labels_in_memory_are_checked_before_anything_is_compiled():
    parts = classifier([0, 3, 9, 1])
    with pytest.raises(ValueError, match="`train` has labels from 0 to 9"):
        parts.preparation.for_training()
    assert parts.arrays.num_compilations == {}


def test_labels_of_an_iterable_are_checked_batch_by_batch():
    parts = classifier([0, 3, 1, 1], as_batches=True)
    parts.preparation.for_training()
    check, loader = parts.preparation.check_batch, parts.data.train
    good = batch_of(0.0, 0.0)
    check(loader, good | {"label": np.array([0, 3], np.int32)})
    bad = good | {"label": np.array([0, 4], np.int32)}
    with pytest.raises(ValueError, match="labels from 0 to 4"):
        check(loader, bad)
    check(loader, bad | {"mask": np.array([True, False])})


def test_labels_that_were_checked_as_a_whole_are_not_checked_again():
    parts = classifier([0, 3, 1, 1])
    parts.preparation.for_training()
    bad = batch_of(0.0, 0.0) | {"label": np.array([0, 4], np.int32)}
    parts.preparation.check_batch(parts.data.train, bad)


def test_a_batch_size_that_the_devices_cannot_share_is_refused():
    parts = Parts(train=range(6), data={"batch_size": 3})
    parts.preparation._placement = Placement(2)
    with pytest.raises(ValueError, match=r"`batch_size` \(=3\)"):
        parts.preparation.for_training()


def test_a_metric_of_the_task_is_known_before_the_first_step():
    class Two(Task):
        def outputs(self, model, batch):
            return {"loss": model(batch["image"]), "other": jnp.ones(len(batch["mask"]))}

    evaluation, _ = Parts(task=Two()).preparation.known(is_running=False)
    assert set(evaluation.outputs) == {"loss", "other"}
    assert evaluation.outputs["other"].shape == (2,)
