"""The parts of a trainer around a model whose every step can be computed by hand.

The model has one weight, and the loss of an example is its value times that weight. So a step of
SGD subtracts the rate times the mean of the values in its batch from the weight.
"""

from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nnx_alexnet import DataModule, Task
from nnx_alexnet.callbacks import CallbackList
from nnx_alexnet.devices import Placement
from nnx_alexnet.training import (
    Hooks,
    ModelArrays,
    ModuleSteps,
    Settings,
    eval_step,
    predict_step,
    train_step,
)
from nnx_alexnet.training.dispatcher import Dispatcher
from nnx_alexnet.training.evaluation_loop import EvaluationLoop
from nnx_alexnet.training.preparation import Preparation
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests
from nnx_alexnet.training.run_identity import Ingredients
from nnx_alexnet.training.step_functions import State, StepFunctions


class Scale(nnx.Module):
    def __init__(self, weight: float = 1.0) -> None:
        self.weight = nnx.Param(jnp.float32(weight))

    def __call__(self, image):
        return image[:, 0] * self.weight[...]


class Product(Task):
    def outputs(self, model, batch):
        return {"loss": model(batch["image"])}


def batch_of(*values, start=0):
    """A batch as the loader makes it; the examples count from `start`."""
    num = len(values)
    return {
        "image": np.array(values, np.float32)[:, None],
        "label": np.zeros(num, np.int32),
        "mask": np.ones(num, bool),
        "index": np.arange(start, start + num, dtype=np.int32),
    }


def split_of(*values):
    """A split of arrays."""
    batch = batch_of(*values)
    return batch["image"], batch["label"]


class Parts:
    """All parts but those that write, put together as the trainer does; hooks get this object.

    Args:
        train: the values of the train split.
        val: those of the other splits.
        weight: of the model before training.
        rate: of SGD.
        callbacks: any.
        model: instead of `Scale`.
        optimizer: instead of SGD.
        task: instead of `Product`.
        data: arguments of the `DataModule`.
        **settings: of `Settings`.
    """

    def __init__(
        self,
        *,
        train=(1.0, 2.0, 3.0, 4.0),
        val=None,
        weight=1.0,
        rate=0.5,
        callbacks=(),
        model=None,
        optimizer=None,
        task=None,
        data=None,
        **settings: Any,
    ) -> None:
        splits = [split_of(*train)] if val is None else [split_of(*v) for v in (train, val, val)]
        self.data = DataModule(*splits, **{"batch_size": 2, **(data or {})})
        self.settings = Settings(**{"name": "run", "log_dir": None, **settings})
        self.model = Scale(weight) if model is None else model
        self.optimizer = optax.sgd(rate) if optimizer is None else optimizer
        self.task = Product() if task is None else task
        self.placement = Placement(1)
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.progress = Progress(lambda metrics, step: self.logged.append((step, dict(metrics))))
        self.requests = Requests(self.progress.stop)
        self.hooks = Hooks(CallbackList(callbacks), self)
        self.arrays = ModelArrays(self.model, self.placement)
        steps = [partial(step, self.task) for step in (train_step, eval_step, predict_step)]
        self.preparation = Preparation(
            data=self.data, task=self.task, arrays=self.arrays, transformation=self.optimizer,
            steps=lambda: ModuleSteps(*steps), placement=self.placement,
        )  # fmt: skip
        self.evaluation = EvaluationLoop(
            arrays=self.arrays, progress=self.progress, requests=self.requests, hooks=self.hooks,
            placement=self.placement, check_batch=self.preparation.check_batch, passes=iter([1, 2]),
        )  # fmt: skip

    @cached_property
    def ingredients(self) -> Ingredients:
        """What the preparation gives; there is an optimizer from then on."""
        evaluation, training = self.preparation.for_training()
        self.arrays.begin_training(self.preparation.optimizers)
        return Ingredients(
            self.arrays, self.data, self.task, self.preparation.optimizers, self.settings, {},
            self.placement, evaluation, training,
        )  # fmt: skip

    @cached_property
    def dispatcher(self) -> Dispatcher:
        made = self.ingredients
        return Dispatcher(
            arrays=self.arrays, progress=self.progress, settings=self.settings,
            placement=self.placement, evaluation=made.evaluation, training=made.training,
            complete=self.data.train.complete,
        )  # fmt: skip

    def send(self, *batches, max_steps=1):
        """Sends the batches in one dispatch."""
        size = len(batches[0]["index"])
        self.dispatcher.begin_group(size)
        return self.dispatcher.send(
            [*batches], self.dispatcher.augmentation_key(),
            num_examples=size * len(batches), max_steps=max_steps,
        )  # fmt: skip

    @property
    def weight(self) -> float:
        """The newest weight."""
        return float(self.arrays.parameters()["weight"])


def _plain(batch, key=None):
    return batch


class StepParts:
    """The step functions of a model, and a state of it and of its optimizer."""

    def __init__(self, model=None, task=None, optimizer=None, transform=_plain):
        self.model = Scale(1.0) if model is None else model
        self.task = Product() if task is None else task
        steps = (partial(step, self.task) for step in (train_step, eval_step, predict_step))
        self.functions = StepFunctions(
            self.model, transform, ModuleSteps(*steps), placement=Placement(1)
        )
        self.optimizer = nnx.Optimizer(self.model, optimizer or optax.sgd(0.5), wrt=nnx.Param)
        layout = self.functions.take_optimizer(self.optimizer)
        model_arrays = self.functions.model.copied(self.model)
        self.state = State(model_arrays, layout.copied(self.optimizer))
        mask = jax.ShapeDtypeStruct((2,), bool)
        outputs = {"loss": jax.ShapeDtypeStruct((2,), jnp.float32)}
        self.empty = self.functions.choose_metrics(self.task, outputs, mask).empty()

    def update(self, batch):
        return self.functions.update(self.state, self.empty, batch, jax.random.key(0))
