"""The contract of a task is checked over shapes, before anything is compiled or written."""

import random

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from clu.metrics import Accuracy, Average, Collection
from flax import nnx

from nnx_alexnet import Classification, DataModule, Task, Trainer
from nnx_alexnet.task.contract import ContractError, check_metrics, check_outputs, check_predictions
from nnx_alexnet.training import python_side_effects as traced_once

X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
B = 16


def task(loss, metrics=None, predict=None):
    """A task with this loss, a function of the logits `[B, 2]` and the batch."""

    class Mine(Task):
        def outputs(self, model, batch):
            returned = loss(model(batch["image"]), batch)
            return returned if isinstance(returned, dict | str) else {"loss": returned}

        def predict(self, model, image):
            logits = model(image)
            return logits if predict is None else predict(logits)

    if metrics is not None:
        Mine.metrics = metrics
    return Mine()


def trainer_of(mine, *, log_dir=None, num_outputs=2, labels=Y, batch_size=B):
    model = nnx.Linear(4, num_outputs, rngs=nnx.Rngs(0))
    split = (X, labels)
    data = DataModule(split, split, split, batch_size=batch_size)
    return Trainer(model, data, task=mine, max_epochs=1, log_dir=log_dir, progress_bar=False)


@pytest.fixture
def refused(tmp_path):
    """Runs each verb that needs the loss; nothing may be compiled or written."""

    def run(mine, match, verbs=("fit", "validate", "test"), **arguments):
        for verb in verbs:
            trainer = trainer_of(mine, log_dir=tmp_path, **arguments)
            with pytest.raises(ValueError, match=match) as raised:
                getattr(trainer, verb)()
            assert "`model`, `data` and `task` do not fit together" in str(raised.value)
            assert trainer.num_compilations in ({}, {"evaluate": 0})
            assert not any(tmp_path.iterdir())

    return run


# ---- The loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda z, b: z.mean(), r"`loss` of shape \(\) for 16 .*Leave out the mean or sum"),
        (lambda z, b: z.sum(), r"shape \(\) for 16"),
        (lambda z, b: 0.5, r"shape \(\) for 16"),
        (lambda z, b: z[:, :1], r"shape \(16, 1\) for 16 .* loss.mean\(axis=1\)"),
        (lambda z, b: z, r"shape \(16, 2\) for 16"),
        (lambda z, b: z @ z.T, r"shape \(16, 16\) for 16 examples; it must be one float per"),
        (lambda z, b: z[:, :, None], r"shape \(16, 2, 1\) .*loss.mean\(axis=\(1, 2\)\)"),
        (lambda z, b: z.mean(axis=0), r"shape \(2,\) for 16 .*first axis must be that of the b"),
        (lambda z, b: z.reshape(-1), r"shape \(32,\) for 16"),
        (lambda z, b: z.argmax(axis=1), r"dtype int32; it must be floating point"),
        (lambda z, b: z[:, 0] > 0, "dtype bool; it must be floating point"),
        (lambda z, b: z[:, 0] + 1j, "dtype complex64; it must be floating point"),
        (lambda z, b: {"l": z[:, 0]}, r"returned no `loss`, only `l`"),
        (lambda z, b: {}, r"returned no `loss`, only nothing"),
        (lambda z, b: "loss", "returned a str; it must return a dict"),
        (lambda z, b: (z, {}), "returned a `loss` that is a tuple"),
        (lambda z, b: {"loss": z[:, 0], "mask": b["mask"]}, "`mask`, a name that the trainer use"),
        (lambda z, b: {"loss": z[:, 0], "norm": jnp.abs(z).sum()}, r"`norm` of shape \(\) .*paddi"),
        (lambda z, b: {"loss": z[:, 0], "w": {"a": z.T}}, r"`w` of shape \(2, 16\)"),
        (lambda z, b: {"loss": z[:, 0] * b["weight"]}, "there is no 'weight'. A batch has"),
    ],
)  # fmt: skip
def test_a_loss_that_is_not_one_float_per_example_is_refused_by_every_verb(refused, loss, match):
    refused(task(loss), match)


def test_a_mean_over_the_batch_is_refused_even_if_it_is_as_long_as_the_batch(refused):
    """With as many classes as examples the shape alone tells nothing."""
    refused(task(lambda z, b: z.mean(axis=0)), r"shape \(16,\) for (?!16)\d+", num_outputs=16)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, b: jnp.square(z[:, :1] - b["label"]).mean(axis=-1),
        lambda z, b: jnp.abs(b["label"] - z[:, :1]).mean(axis=1),
        lambda z, b: optax.sigmoid_binary_cross_entropy(z[:, :1], b["label"]).sum(axis=-1),
        lambda z, b: jax.jit(lambda x, y: optax.huber_loss(x - y))(z[:, :1], b["label"]).mean(-1),
    ],
)
def test_a_mean_over_accidental_pairs_of_examples_is_refused(refused, loss):
    refused(task(loss), r"shape \(B, 1\) and \(B,\).* as in model\(image\)\[:, 0\]")


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, b: jnp.square(z[:, 0] - b["label"]),
        lambda z, b: jnp.square(z[:, :1] - b["label"][:, None]).mean(axis=-1),
        lambda z, b: jax.nn.softplus(z[:, :1] - z[None, :, 0]).mean(axis=-1),
        lambda z, b: jnp.where(b["label"][:, None] == b["label"], z @ z.T, 0.0).mean(axis=-1),
    ],
)
def test_pairs_of_examples_may_be_meant(loss):
    assert trainer_of(task(loss)).fit()


def test_a_loss_that_has_another_shape_in_training_alone_is_refused(tmp_path):
    class Flips(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

        def __call__(self, x, train=False):
            return self.head(x)[:, :, None] if train else self.head(x)

    mine = task(lambda z, b: z.mean(axis=1))
    split = (X, Y)
    trainer = Trainer(
        Flips(), DataModule(split, split, batch_size=B), task=mine, log_dir=tmp_path,
        progress_bar=False,
    )  # fmt: skip
    trainer.validate()
    with pytest.raises(ValueError, match=r"shape \(16, 1\) for 16"):
        trainer.fit()
    assert not any(tmp_path.iterdir())


def test_a_replaced_train_step_is_checked_too():
    class Mine(Trainer):
        def train_step(self, model, optimizer, batch):
            outputs = super().train_step(model, optimizer, batch)
            return {**outputs, "loss": outputs["loss"].mean()}

    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    trainer = Mine(model, DataModule((X, Y), batch_size=B), log_dir=None, progress_bar=False)
    with pytest.raises(ValueError, match=r"`train_step` returned a `loss` of shape \(\)"):
        trainer.fit()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_loss_of_half_precision_is_accumulated_in_float32(dtype):
    """Summed in 16 bits 3,000 losses of 1 + 2**-7 would stop at a few hundred."""
    images = np.ones((3000, 4), np.float32)

    class Half(Task):
        metrics = Collection.create(
            loss=Average.from_output("loss"), hit=Average.from_output("hit")
        )

        def outputs(self, model, batch):
            value = jnp.full(len(batch["image"]), 1 + 2**-7, dtype)
            return {"loss": value + 0 * model(batch["image"])[:, 0].astype(dtype), "hit": value}

    split = (images, np.zeros(3000, np.int32))
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    data = DataModule(split, split, batch_size=1000)
    trainer = Trainer(model, data, task=Half(), max_epochs=1, log_dir=None, progress_bar=False)
    row = trainer.fit()[0]
    for name in ("train/loss", "val/loss", "train/hit", "val/hit"):
        assert row[name] == pytest.approx(1 + 2**-7, rel=1e-6), name


def test_the_gradient_is_that_of_the_mean_over_the_examples():
    x, y = X[:16], (X[:16] @ np.ones((4, 1))).astype(np.float32)
    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    kernel, bias = np.array(model.kernel[...]), np.array(model.bias[...])
    mine = task(lambda z, b: jnp.square(z - b["label"]).mean(axis=1))
    Trainer(
        model, DataModule((x, y), batch_size=16), task=mine, optimizer=optax.sgd(1.0),
        max_epochs=1, log_dir=None, progress_bar=False,
    ).fit()  # fmt: skip
    error = x @ kernel + bias - y
    expected = kernel - 2 * x.T @ error / 16
    np.testing.assert_allclose(model.kernel[...], expected, rtol=1e-5, atol=1e-6)


# ---- Predictions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predict", "match"),
    [
        (lambda z: z.mean(), r"array of shape \(\) for 16 examples"),
        (lambda z: z.mean(axis=0), r"shape \(2,\) for 16"),
        (lambda z: z.T, r"shape \(2, 16\) for 16"),
        (lambda z: {"a": z, "b": z.sum()}, r"shape \(\) at \['b'\] for 16"),
        (lambda z: {}, "returned no array"),
        (lambda z: None, "returned no array"),
    ],
)
def test_predictions_without_a_first_axis_over_the_examples_are_refused(refused, predict, match):
    refused(task(lambda z, b: z.mean(axis=1), predict=predict), match, verbs=("predict",))


@pytest.mark.parametrize("predict", [lambda z: z @ z.T, lambda z: {"all": z[:, None] - z[None]}])
def test_predictions_with_a_second_axis_over_the_batch_are_refused(refused, predict):
    mine = task(lambda z, b: z.mean(axis=1), predict=predict)
    refused(mine, r"only its first axis may depend on the batch size", verbs=("predict",))


def test_predictions_may_be_any_tree_of_rows():
    mine = task(lambda z, b: z.mean(), predict=lambda z: {"a": z, "b": (z[:, 0], z > 0)})
    trainer = trainer_of(mine)  # its loss is wrong, which `predict` does not need
    found = trainer.predict()
    logits = X @ np.array(trainer.model.kernel[...]) + np.array(trainer.model.bias[...])
    np.testing.assert_allclose(found["a"], logits, rtol=1e-5)
    np.testing.assert_allclose(found["b"][0], logits[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(found["b"][1], found["a"] > 0)


# ---- Metrics ----------------------------------------------------------------------------------


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
        return {"a": self.total[0], "b": self.total[1]}


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
        (lambda: Collection.create(loss="loss"), "`loss` is the text 'loss'"),
        (lambda: Collection.create(loss=3), "`loss` is a int; it must be a class of clu"),
        (lambda: Collection.create(v=Vector), r"`v` computes an array of shape \(3,\); it must c"),
        (lambda: Collection.create(v=Failing), "`v` cannot be merged or computed: Runtime"),
        (lambda: Collection.create(v=Undecorated), "Decorate it with @flax.struct.dataclass"),
        (lambda: Collection.create(v=Dictionary), "`v` computes 2 values"),
        (lambda: Collection.create(v=OtherWhenEmpty), "`v` has another structure when it is empty"),
        (
            lambda: Collection.create(v=clu.metrics.CollectingMetric.from_outputs(("loss",))),
            "`v` is a CollectingMetric",
        ),
        (lambda: Child, "Child inherits the metrics loss, which CLU does not see"),
        (lambda: Collection.create(loss=LOSS, loss_step=LOSS), "`loss_step` has the name under wh"),
    ],
)  # fmt: skip
def test_metrics_that_cannot_be_computed_are_refused_by_name(refused, metrics, match):
    mine = task(lambda z, b: {"loss": z.mean(axis=1)}, metrics=metrics())
    refused(mine, match, verbs=("fit",))


def test_a_metric_may_compute_its_value_with_numpy():
    row = trainer_of(
        task(lambda z, b: {"loss": z[:, 0] * 0 + 1}, metrics=Collection.create(root=OnHost))
    ).fit()[0]
    assert row["val/root"] == pytest.approx(3 * np.sqrt(32), rel=1e-6)


def test_the_loss_is_always_among_the_metrics():
    mine = task(
        lambda z, b: {"loss": z[:, 0] * 0 + 2, "half": z[:, 0] * 0 + 0.5},
        metrics=Collection.create(half=Average.from_output("half")),
    )
    row = trainer_of(mine).fit()[0]
    assert (row["val/loss"], row["val/half"]) == (2, 0.5)


def test_the_metrics_of_a_subclass_of_classification_are_used():
    class Mine(Classification):
        metrics = Collection.create(
            error=Average.from_fun(
                lambda logits, labels, **_: (logits.argmax(axis=-1) != labels).astype(jnp.float32)
            )
        )

    trainer = trainer_of(Mine())
    row = trainer.fit()[0]
    assert {name for name in row if name.startswith("val/")} == {"val/loss", "val/error"}
    wrong = trainer.predict().argmax(axis=1) != Y
    assert row["val/error"] == pytest.approx(wrong.mean())


def test_a_task_without_outputs_is_refused(refused):
    refused(Task(), r"TypeError: Task must override `outputs\(model, batch\)`")


def test_a_loss_alone_is_refused_as_an_array(refused):
    class Bare(Task):
        def outputs(self, model, batch):
            return model(batch["image"]).mean(axis=1)

    refused(Bare(), r"returned an array of shape \(16,\); it must return a dict with the `loss`")


def test_a_teacher_that_changes_when_called_is_refused(refused):
    teacher = nnx.Sequential(nnx.BatchNorm(4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(1)))

    class Distillation(Task):
        def outputs(self, model, batch):
            target = jax.nn.softmax(teacher(batch["image"]))
            return {"loss": optax.softmax_cross_entropy(model(batch["image"]), target)}

    refused(Distillation(), r"A second model, such as a teacher, .* call its eval\(\) first")
    teacher.eval()
    assert trainer_of(Distillation()).fit()


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (lambda z: z > 0, r"returns bool\[16, 2\] for a batch; .* floating-point logits"),
        (lambda z: z.astype(jnp.int32), r"returns int32\[16, 2\].* before any argmax"),
        (lambda z: z + 1j, r"returns complex64\[16, 2\]"),
    ],
)
def test_logits_that_have_no_gradient_are_refused(refused, head, match):
    class Headed(Classification):
        def outputs(self, model, batch):
            return super().outputs(lambda image: head(model(image)), batch)

    refused(Headed(), match)


# ---- Labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels", [Y, Y[:, None].astype(np.float32), (3 * X[:, :1] + 1).astype(np.float32)]
)
def test_a_single_logit_is_refused_with_the_losses_that_fit(refused, labels):
    match = r"one logit per example; .*optax.squared_error.*optax.sigmoid_binary_cross_entropy"
    refused(Classification(), match, num_outputs=1, labels=labels)


ROWS = {
    "regression": 5 * X[:, :3],
    "multi-hot": np.stack([Y, 1 - Y, np.ones(32)], axis=1),
    "none": np.zeros((32, 3)),
    "negative": np.tile([1.5, -0.5, 0.0], (32, 1)),
    "not finite": np.tile([np.nan, 0.5, 0.5], (32, 1)),
}


@pytest.mark.parametrize("model", [nnx.Linear(4, 1, rngs=nnx.Rngs(0)), lambda x: x[:, 0]])
def test_classification_predicts_no_probabilities_from_a_single_logit(model):
    with pytest.raises(ValueError, match=r"`model` returns .*`Classification` takes"):
        Classification().predict(model, X)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_that_are_no_probabilities_are_refused(tmp_path, kind, in_memory):
    rows = np.tile(np.array([0.25, 0.25, 0.5], np.float32), (32, 1))
    rows[-1] = ROWS[kind][-1]  # in the last example of the last batch
    batches = [(X[:16], rows[:16]), (X[16:], rows[16:])]
    data = DataModule((X, rows), batch_size=16) if in_memory else DataModule(batches)
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    trainer = Trainer(model, data, max_epochs=1, log_dir=tmp_path, progress_bar=False)
    with pytest.raises(ValueError, match=r"`train` has floating-point labels .*probabilities"):
        trainer.fit()
    if in_memory:
        assert not any(tmp_path.iterdir())
        assert trainer.num_compilations == {}


class CountsChecks(Classification):
    def __init__(self):
        super().__init__()
        self._sizes = []

    def label_problem(self, labels, outputs):
        self._sizes.append(len(labels))
        return super().label_problem(labels, outputs)


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        ({"train": (X, Y), "batch_size": 16, "keep_on_device": True}, [32]),
        ({"train": (X, Y), "batch_size": 16, "keep_on_device": False}, [32]),
        ({"train": [(X[:16], Y[:16]), (X[16:], Y[16:])]}, [16, 16]),
    ],
)
def test_each_label_is_checked_once(data, sizes):
    task, model = CountsChecks(), nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    arguments = {"task": task, "max_epochs": 1, "log_dir": None, "progress_bar": False}
    Trainer(model, DataModule(**data), **arguments).fit()
    assert task._sizes == sizes


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_rows_that_were_rounded_are_probabilities(dtype):
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(1000), 32).astype(dtype).astype(np.float32)
    outputs = {"logits": jax.ShapeDtypeStruct((32, 1000), jnp.float32)}
    assert Classification().label_problem(rows, outputs) is None


# ---- The functions ------------------------------------------------------------------------------


def test_the_checks_return_what_they_are_given():
    outputs = {"loss": jnp.ones(4), "rows": {"a": jnp.zeros((4, 2))}}
    assert check_outputs(outputs, 4, "`f`").keys() == outputs.keys()
    assert check_outputs({"loss": jnp.ones(4, jnp.bfloat16)}, 4, "`f`")["loss"].dtype == jnp.float32
    check_predictions([jnp.ones((4, 2)), (jnp.ones(4),)], 4, "`f`")
    struct = jax.ShapeDtypeStruct((4,), jnp.float32)
    check_metrics(Collection.create(loss=LOSS), {"loss": struct}, jax.ShapeDtypeStruct((4,), bool))
    with pytest.raises(ContractError):
        check_predictions(jnp.ones(3), 4, "`f`")


# ---- What happens in Python happens once ------------------------------------------------------


class Noisy(nnx.Module):
    """A model with something that is no array."""

    def __init__(self, **attributes):
        self.layer = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        for name, value in attributes.items():
            setattr(self, name, value)


class WithGlobalNoise(Noisy):
    def __call__(self, x):
        return self.layer(x + np.random.normal(size=x.shape).astype(np.float32))


class WithOwnGenerator(Noisy):
    def __call__(self, x):
        return self.layer(x) * self.generator.random()


class WithCoin(Noisy):
    def __call__(self, x):
        return self.layer(x if random.random() < 0.5 else -x)


class WithCounter(Noisy):
    def __call__(self, x):
        self.calls += 1
        return self.layer(x) * min(1, self.calls / 10)


class WithTemperature(Noisy):
    def __call__(self, x):
        self.temperature *= 0.99
        return self.layer(x) / self.temperature


class WithSize(Noisy):
    def __call__(self, x):
        self.size = x.shape[0]
        self.is_called = True
        return self.layer(x)


def trainer_with(model, task=None, log_dir=None):
    data = DataModule((X, Y), (X, Y), batch_size=B)
    return Trainer(model, data, task=task, max_epochs=1, log_dir=log_dir, progress_bar=False)


@pytest.mark.parametrize(
    "model",
    [
        WithGlobalNoise(),
        WithOwnGenerator(generator=np.random.default_rng(0)),
        WithOwnGenerator(generator=random.Random(0)),
        WithCoin(),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_model_that_draws_random_numbers_in_python_is_refused(tmp_path, model, verb):
    trainer = trainer_with(model, log_dir=tmp_path)
    with pytest.raises(ValueError, match=r"random numbers that JAX .*model.rngs.noise"):
        getattr(trainer, verb)()
    assert not any(tmp_path.iterdir())


def test_a_model_may_note_the_size_of_its_batch(caplog):
    assert trainer_with(WithSize(size=0, is_called=False)).fit()
    assert not [line for line in caplog.messages if "while a step was traced" in line]


class Changing(Classification):
    """Changes what `change` says whenever it is called."""

    def __init__(self, change, **attributes):
        super().__init__()
        self.change = change
        vars(self).update(attributes)

    def outputs(self, model, batch):
        self.change(self, batch)
        return super().outputs(model, batch)


def count(task, batch):
    task.step += 1


def count_in_a_dict(task, batch):
    task.counts["step"] += 1


def draw(task, batch):
    np.random.permutation(4)


def test_a_task_that_draws_random_numbers_in_python_is_refused(tmp_path):
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="draws random numbers that JAX does not see"):
        trainer_with(model, Changing(draw), tmp_path).fit()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "task", "text"),
    [
        (WithCounter(calls=0), None, "`calls` of the model changed while a step was traced"),
        (WithTemperature(temperature=1.0), None, "`temperature` of the model changed while"),
        (WithSize(), Changing(count, step=0), "`step` of Changing changed while a step was traced"),
        (WithSize(), Changing(count_in_a_dict, counts={"step": 3}), "`counts` of Changing changed"),
    ],
)
def test_what_is_counted_in_python_is_reported_once(caplog, model, task, text):
    traced_once._report.cache_clear()
    for _ in range(2):
        assert trainer_with(model, task).fit()
    (line,) = [line for line in caplog.messages if text in line]
    assert "nnx.Variable" in line


def test_a_task_may_cache_what_it_computes_from_its_arguments():
    def cache(task, batch):
        task.cached = np.ones(2)

    assert trainer_with(
        nnx.Linear(4, 2, rngs=nnx.Rngs(0)), Changing(cache, names={1: "a", "b": 2})
    ).fit()
