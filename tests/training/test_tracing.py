"""What is known of the steps before anything is compiled, by hand."""

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from parts import Parts

from nnx_alexnet import Classification, DataModule, Task, Trainer
from nnx_alexnet.task import ContractError
from nnx_alexnet.training.step_functions import StepFunctions


class Net(nnx.Module):
    """Five features from three, normalised, to four classes."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(1, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.head = nnx.Linear(5, 4, rngs=rngs)
        self.fixed = nnx.Variable(jnp.arange(3.0))

    def __call__(self, image):
        return self.head(self.norm(self.first(image)))


def traces_of(**arguments):
    return Parts(**{"model": Net(), "task": Classification(), **arguments}).preparation


def test_the_flops_of_an_example_are_those_of_its_products():
    evaluation, _ = traces_of().for_training()
    # 1 x 5 and 5 x 4 multiplications, each with its addition, whatever the batch.
    assert evaluation.forward_flops == {"float32": 2.0 * (5 + 20)}
    assert evaluation.num_rows == 2
    larger, _ = traces_of(train=[0.0] * 8, data={"batch_size": 8}).for_training()
    assert larger.forward_flops == evaluation.forward_flops


def test_the_metrics_are_those_of_the_task_and_empty():
    evaluation, _ = traces_of().for_training()
    assert evaluation.metric_names == ("loss", "accuracy")
    assert all(float(leaf) in (0, 1) for leaf in jax.tree.leaves(evaluation.empty))
    assert evaluation.outputs["logits"].shape == (2, 4)


@flax.struct.dataclass
class Total(clu.metrics.Metric):
    """Counts in another dtype before it has seen anything."""

    total: jax.Array

    @classmethod
    def empty(cls):
        return cls(total=jnp.zeros((), jnp.int32))

    @classmethod
    def from_model_output(cls, loss, mask, **_):
        return cls(total=jnp.where(mask, loss, 0.0).sum())

    def merge(self, other):
        return type(self)(total=self.total + other.total)

    def compute(self):
        return self.total


def test_an_empty_metric_has_the_dtype_of_a_filled_one():
    class Totalled(Classification):
        def collection(self, outputs):
            return clu.metrics.Collection.create(total=Total)

    evaluation, _ = traces_of(task=Totalled()).for_training()
    assert set(evaluation.metric_names) == {"total", "loss"}
    assert evaluation.empty.total.total.dtype == jnp.float32


def test_a_network_without_convolutions_can_be_looped_over():
    evaluation, _ = traces_of().for_training()
    assert evaluation.can_loop_on_device


def test_convolutions_are_not_looped_over_on_a_cpu():
    class Conv(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(1, 4, (1,), rngs=nnx.Rngs(0))

        def __call__(self, image):
            return self.conv(image[:, :, None]).reshape(len(image), -1)

    evaluation, _ = traces_of(model=Conv()).for_training()
    assert not evaluation.can_loop_on_device


INJECTED = optax.inject_hyperparams(optax.sgd)(0.1)


def by_layer(parameters):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "head" if "head" in jax.tree_util.keystr(path) else "rest", parameters
    )


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (optax.sgd(0.1), ()),
        (INJECTED, ("lr",)),
        (optax.chain(optax.clip_by_global_norm(1.0), INJECTED), ("lr",)),
        (
            optax.partition({"head": INJECTED, "rest": INJECTED}, by_layer),
            ("lr/head", "lr/rest"),
        ),
        (optax.partition({"head": INJECTED, "rest": optax.sgd(0.1)}, by_layer), ("lr",)),
    ],
    ids=["none", "one", "chain", "two parts", "one part"],
)
def test_the_rates_are_those_that_the_optimizer_keeps(optimizer, names):
    _, training = traces_of(optimizer=optimizer).for_training()
    assert training.rate_names == names


def test_statistics_that_a_step_moves_are_not_still():
    _, training = traces_of().for_training()
    assert training.still_statistics == []
    assert training.constants == ["fixed"]


def test_the_statistics_of_a_frozen_layer_are_still():
    model = Net()
    model.norm.eval()
    _, training = traces_of(model=model).for_training()
    assert training.still_statistics == ["norm/mean", "norm/var"]


def test_neither_parameters_nor_keys_are_constants():
    class Drops(nnx.Module):
        def __init__(self):
            self.unused = nnx.Param(jnp.ones(2))
            self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(1, 4, rngs=nnx.Rngs(0))

        def __call__(self, image):
            return self.dropout(self.head(image))

    _, training = traces_of(model=Drops()).for_training()
    assert training.constants == []


def test_the_calls_of_the_layers_are_those_of_an_evaluation():
    (evaluation, _) = traces_of(model=Net()).for_training()
    assert evaluation.calls[""][0] == "float32[2,1]"


def carried(model, verb):
    """Which arrays of a model a pass carries from batch to batch."""
    parts = Parts(model=model, task=Classification(), val=(1.0, 2.0))
    if verb == "evaluate":
        parts.preparation.for_evaluation(parts.data.val)
    else:
        parts.preparation.for_prediction(parts.data.val)
    functions = parts.arrays.steps._functions
    return [functions.model.names[number] for number in functions.carried[verb]]


class Samples(nnx.Module):
    def __init__(self):
        self.head = nnx.Linear(1, 4, rngs=nnx.Rngs(0))
        self.rngs = nnx.Rngs(0)

    def __call__(self, image):
        return self.head(image) + jax.random.normal(self.rngs(), (len(image), 4))


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_a_pass_carries_the_keys_of_a_model_that_samples_alone(verb):
    assert carried(Net(), verb) == []
    assert carried(Samples(), verb) == ["rngs/default/count", "rngs/default/key"]


class Wrong(Task):
    """Returns predictions of a shape that a function makes of the images."""

    def __init__(self, shaped):
        self.shaped = shaped

    def outputs(self, model, batch):
        return {"loss": model(batch["image"])[:, 0]}

    def predict(self, model, batch):
        return self.shaped(batch["image"])


@pytest.mark.parametrize(
    "shaped", [lambda x: x.sum(), lambda x: jnp.ones((2, 4)), lambda x: x.T],
    ids=["a scalar", "as long as the batch by accident", "transposed"],
)  # fmt: skip
def test_predictions_whose_first_axis_is_not_the_batch_are_refused(shaped):
    parts = Parts(model=Net(), task=Wrong(shaped), val=(1.0, 2.0))
    with pytest.raises(ValueError, match="`predict`") as raised:
        parts.preparation.for_prediction(parts.data.val)
    assert isinstance(raised.value, ContractError) or isinstance(
        raised.value.__cause__, ContractError
    )


@pytest.mark.parametrize("keep_on_device", [True, False])
def test_a_run_uses_the_trace_that_was_made_before_it(monkeypatch, keep_on_device):
    update, traced = StepFunctions.update, []
    monkeypatch.setattr(
        StepFunctions, "update", lambda *arguments: traced.append(1) or update(*arguments)
    )
    split = np.zeros((8, 3), np.float32), np.zeros(8, np.int32)
    data = DataModule(split, batch_size=4, keep_on_device=keep_on_device)
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    Trainer(model, data, max_epochs=1, devices=1, log_dir=None, progress_bar=False).fit()
    assert len(traced) == 1
