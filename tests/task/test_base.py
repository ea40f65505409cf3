"""The base class of tasks."""

import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet import Task


def test_a_task_must_override_outputs(refused):
    refused(Task(), r"TypeError: Task must override `outputs\(model, batch\)`")


def test_outputs_of_the_base_class_raises():
    with pytest.raises(TypeError, match="must override `outputs"):
        Task().outputs(None, {})


def test_the_defaults_are_the_loss_and_the_model_outputs():
    task = Task()
    assert list(task.collection({}).__annotations__) == ["loss"]
    loss, mask = jnp.array([1.0, 3.0, np.nan]), jnp.array([True, True, False])
    metrics = task.metrics.single_from_model_output(loss=loss, mask=mask).compute()
    assert float(metrics["loss"]) == 2
    assert task.predict(lambda image: image + 1, {"image": 1, "other": 5}) == 2
    assert task.label_problem(np.zeros(3), {}) is None
