import inspect
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from fake_trainer import FakeTrainer
from flax import nnx
from helpers import trainer_of

import nnx_alexnet.callbacks as package
from nnx_alexnet.callbacks import Callback, CallbackList, EarlyStopping
from nnx_alexnet.callbacks.base import HOOKS
from nnx_alexnet.data import DataModule

README = Path(package.__file__).parent / "README.md"


def test_every_hook_is_a_documented_no_op():
    assert len(HOOKS) == 30
    for hook in HOOKS:
        assert getattr(Callback, hook).__doc__
    callbacks = CallbackList([Callback()])
    for hook in HOOKS:
        callbacks.call(hook, None)  # overridden by none, hence called on none


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("on_train_epoch_ends", "on_train_epoch_end"), ("on_epoch_end", "on_.*epoch_end")],
)
def test_a_misspelt_hook_is_refused(wrong, right):
    with pytest.raises(TypeError, match=rf"Mine\.{wrong}` is not a hook.*did you mean `{right}`"):
        type("Mine", (Callback,), {wrong: lambda self, trainer: None, "__qualname__": "Mine"})


def test_a_hook_with_other_arguments_is_refused():
    with pytest.raises(TypeError, match=r"must accept \(self, trainer\): missing .*'pl_module'"):

        class Ported(Callback):
            def on_fit_start(self, trainer, pl_module):
                pass


def test_a_hook_may_take_any_arguments():
    class Any(Callback):
        def on_train_batch_end(self, *args):
            pass

        def on_fit_start(self, the_trainer, extra=None):
            pass

    assert Any().batch_period == 1


@pytest.mark.parametrize("period", [0, -1, 2.0, True])
def test_a_wrong_period_is_refused_on_the_class_and_on_the_instance(period):
    with pytest.raises(ValueError, match="`every_n_steps`"):
        type("Mine", (Callback,), {"every_n_steps": period})
    callback = Callback()
    callback.every_n_steps = period
    with pytest.raises(ValueError, match="`every_n_steps`"):
        CallbackList([callback])


class Gradients(Callback):
    def __init__(self):
        self.before, self.after, self.parameters = [], [], []

    def on_train_batch_start(self, trainer, batch, batch_index):
        self.parameters.append(jax.device_get(trainer.parameters()))
        self.before.append(jax.device_get(trainer.gradients(batch)))

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.parameters.append(jax.device_get(trainer.parameters()))
        self.after.append(jax.device_get(trainer.gradients(batch)))


def test_gradients_are_before_the_update_in_start_and_after_it_in_end():
    # One batch of 64 copies of one example: its mean gradient is that of the example.
    images, labels = np.tile(np.array([1, 2], np.float32), (64, 1)), np.ones(64, np.int32)
    model = nnx.Linear(2, 2, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
    gradients = Gradients()
    data = (images, labels), None
    trainer_of(model, data, optimizer=optax.sgd(1.0), callbacks=gradients, max_steps=2).fit()
    # Of the cross-entropy: probabilities minus the one-hot label; these are 1/2 at equal logits.
    by_hand = np.array([0.5, -0.5])
    np.testing.assert_allclose(gradients.before[0]["bias"], by_hand, rtol=1e-6)
    np.testing.assert_allclose(gradients.before[0]["kernel"], np.outer([1, 2], by_hand), rtol=1e-6)
    first, updated = gradients.parameters[:2]
    for name, gradient in gradients.before[0].items():
        np.testing.assert_allclose(updated[name], first[name] - gradient, rtol=1e-6)
    # Now the logits are -3 and 3: the right class has the probability 1 / (1 + exp(-6)).
    wrong = 1 / (1 + np.exp(6))
    np.testing.assert_allclose(gradients.after[0]["bias"], [wrong, -wrong], rtol=1e-4)
    np.testing.assert_allclose(gradients.before[1]["bias"], [wrong, -wrong], rtol=1e-4)


class GradientsAtTheEnd(Callback):
    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.batch = batch

    def on_train_epoch_end(self, trainer):
        self.parameters = jax.device_get(trainer.parameters())
        self.found = jax.device_get(trainer.gradients(self.batch))


def test_gradients_of_a_smaller_last_batch_can_be_read_at_the_end_of_an_epoch():
    images = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)
    data = DataModule((images, np.arange(11) % 2), batch_size=8, drop_last=False)
    model, end = nnx.Linear(4, 2, rngs=nnx.Rngs(0)), GradientsAtTheEnd()
    # Two devices share 8 rows, but not the last 3.
    trainer_of(model, data, callbacks=end, max_epochs=1, devices=2).fit()
    x, labels = end.batch["image"].astype(np.float64), end.batch["label"]
    assert len(x) == 3
    powers = np.exp(x @ end.parameters["kernel"] + end.parameters["bias"])
    errors = powers / powers.sum(axis=1, keepdims=True) - np.eye(2)[labels]
    np.testing.assert_allclose(end.found["kernel"], x.T @ errors / 3, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(end.found["bias"], errors.mean(axis=0), rtol=1e-5, atol=1e-7)


def test_the_readme_lists_every_hook_of_fit_once():
    (block,) = re.findall(r"```text\n(.*?)```", README.read_text(), flags=re.DOTALL)
    listed = [line.split("#")[0].split()[0] for line in block.splitlines() if line.split("#")[0]]
    assert len(listed) == len(set(listed))
    missing = set(HOOKS) - set(listed)
    assert missing == {hook for hook in HOOKS if "test" in hook or "predict" in hook} | {
        "on_exception"
    }


def test_the_fake_trainer_has_the_signatures_of_the_real_one():
    real = trainer_of()
    fake = FakeTrainer()
    own = {"begin", "run_epoch", "run", "run_fit", "end"}  # what drives it
    methods = {name for name in vars(FakeTrainer) if name[0] != "_"} - own
    for name in methods:
        assert inspect.signature(getattr(fake, name)) == inspect.signature(getattr(real, name))
    attributes = {name for name in vars(fake) if name[0] != "_"}
    assert attributes <= set(dir(real)), attributes - set(dir(real))


def test_a_callback_is_shown_as_its_arguments():
    assert repr(EarlyStopping("val/accuracy", mode="max")) == (
        "EarlyStopping(monitor='val/accuracy', mode='max')"
    )
    assert repr(Callback()) == "Callback()"
