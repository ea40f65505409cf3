"""Checks of what a task returns, before anything is compiled or written."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from clu.metrics import Average, Collection
from flax import nnx
from helpers import X, Y, linear_trainer, loss_task

from nnx_alexnet import DataModule, Task, Trainer
from nnx_alexnet.task import ContractError, check_outputs, check_predictions

B = 16


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
        (lambda z, b: {"loss": z[:, 0] * b["weight"]}, "the task reads 'weight', which"),
    ],
)  # fmt: skip
def test_a_loss_must_be_one_float_per_example(refused, loss, match):
    refused(loss_task(loss), match)


def test_a_mean_over_the_batch_is_refused_with_as_many_classes_as_examples(refused):
    """With as many classes as examples the shape alone tells nothing."""
    refused(loss_task(lambda z, b: z.mean(axis=0)), r"shape \(16,\) for (?!16)\d+", num_outputs=16)


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
    refused(loss_task(loss), r"shape \(B, 1\) and \(B,\).* as in model\(image\)\[:, 0\]")


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, b: jnp.square(z[:, 0] - b["label"]),
        lambda z, b: jnp.square(z[:, :1] - b["label"][:, None]).mean(axis=-1),
        lambda z, b: jax.nn.softplus(z[:, :1] - z[None, :, 0]).mean(axis=-1),
        lambda z, b: jnp.where(b["label"][:, None] == b["label"], z @ z.T, 0.0).mean(axis=-1),
    ],
)
def test_explicit_pairs_of_examples_are_accepted(loss):
    assert linear_trainer(loss_task(loss)).fit()


def test_the_shape_of_the_loss_is_also_checked_in_training_mode(tmp_path):
    class Flips(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

        def __call__(self, x, train=False):
            return self.head(x)[:, :, None] if train else self.head(x)

    mine = loss_task(lambda z, b: z.mean(axis=1))
    split = (X, Y)
    trainer = Trainer(
        Flips(), DataModule(split, split, batch_size=B), task=mine, log_dir=tmp_path,
        progress_bar=False,
    )  # fmt: skip
    trainer.validate()
    with pytest.raises(ValueError, match=r"shape \(16, 1\) for 16"):
        trainer.fit()
    assert not any(tmp_path.iterdir())


def test_the_outputs_of_an_overridden_train_step_are_checked():
    class Mine(Trainer):
        def train_step(self, model, optimizer, batch):
            outputs = super().train_step(model, optimizer, batch)
            return {**outputs, "loss": outputs["loss"].mean()}

    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    trainer = Mine(model, DataModule((X, Y), batch_size=B), log_dir=None, progress_bar=False)
    with pytest.raises(ValueError, match=r"`train_step` returned a `loss` of shape \(\)"):
        trainer.fit()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_half_precision_loss_is_accumulated_in_float32(dtype):
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


def test_the_gradient_is_that_of_the_mean_loss():
    x, y = X[:16], (X[:16] @ np.ones((4, 1))).astype(np.float32)
    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    kernel, bias = np.array(model.kernel[...]), np.array(model.bias[...])
    mine = loss_task(lambda z, b: jnp.square(z - b["label"]).mean(axis=1))
    Trainer(
        model, DataModule((x, y), batch_size=16), task=mine, optimizer=optax.sgd(1.0),
        max_epochs=1, log_dir=None, progress_bar=False,
    ).fit()  # fmt: skip
    error = x @ kernel + bias - y
    expected = kernel - 2 * x.T @ error / 16
    np.testing.assert_allclose(model.kernel[...], expected, rtol=1e-5, atol=1e-6)


def test_outputs_must_be_a_dict(refused):
    class Bare(Task):
        def outputs(self, model, batch):
            return model(batch["image"]).mean(axis=1)

    refused(Bare(), r"returned an array of shape \(16,\); it must return a dict with the `loss`")


def test_a_teacher_model_in_training_mode_is_refused(refused):
    teacher = nnx.Sequential(nnx.BatchNorm(4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(1)))

    class Distillation(Task):
        def outputs(self, model, batch):
            target = jax.nn.softmax(teacher(batch["image"]))
            return {"loss": optax.softmax_cross_entropy(model(batch["image"]), target)}

    refused(Distillation(), r"A second model, such as a teacher, .* call its eval\(\) first")
    teacher.eval()
    assert linear_trainer(Distillation()).fit()


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
def test_predictions_must_have_the_batch_as_first_axis(refused, predict, match):
    refused(loss_task(lambda z, b: z.mean(axis=1), predict=predict), match, methods=("predict",))


@pytest.mark.parametrize("predict", [lambda z: z @ z.T, lambda z: {"all": z[:, None] - z[None]}])
def test_only_the_first_axis_of_predictions_may_be_the_batch(refused, predict):
    mine = loss_task(lambda z, b: z.mean(axis=1), predict=predict)
    refused(mine, r"only its first axis may depend on the batch size", methods=("predict",))


def test_predictions_may_be_any_pytree_of_rows():
    mine = loss_task(lambda z, b: z.mean(), predict=lambda z: {"a": z, "b": (z[:, 0], z > 0)})
    trainer = linear_trainer(mine)  # its loss is wrong, which `predict` does not need
    found = trainer.predict()
    logits = X @ np.array(trainer.model.kernel[...]) + np.array(trainer.model.bias[...])
    np.testing.assert_allclose(found["a"], logits, rtol=1e-5)
    np.testing.assert_allclose(found["b"][0], logits[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(found["b"][1], found["a"] > 0)


# ---- The functions ------------------------------------------------------------------------------


def test_check_outputs_returns_its_argument_with_a_float32_loss():
    outputs = {"loss": jnp.ones(4), "rows": {"a": jnp.zeros((4, 2))}}
    assert check_outputs(outputs, 4, "`f`").keys() == outputs.keys()
    assert check_outputs({"loss": jnp.ones(4, jnp.bfloat16)}, 4, "`f`")["loss"].dtype == jnp.float32


def test_check_predictions_accepts_a_pytree_of_rows():
    check_predictions([jnp.ones((4, 2)), (jnp.ones(4),)], 4, "`f`")
    with pytest.raises(ContractError, match=r"shape \(3,\) for 4"):
        check_predictions(jnp.ones(3), 4, "`f`")
