import jax.numpy as jnp
import numpy as np
from flax import nnx
from helpers import loss_task, trainer_of

from nnx_alexnet import DataModule
from nnx_alexnet.report.notable import Example
from nnx_alexnet.report.saliency import saliency


class Corner(nnx.Module):
    """Its logit of class 1 depends on the upper left quarter alone."""

    def __init__(self) -> None:
        self.weight = nnx.Param(jnp.ones(()))

    def __call__(self, image):
        total = image[:, :8, :8].sum(axis=(1, 2, 3)) * self.weight
        return jnp.stack([jnp.zeros_like(total), total], axis=1)


def example(image, predicted=1):
    fields = {"image": image, "label": np.zeros(1, np.int32)}
    return Example(0, 0, predicted, 0.9, 0, 0.1, fields)


def split(num=16):
    return np.zeros((num, 16, 16, 1), np.uint8), np.arange(num, dtype=np.int32) % 2


def test_only_the_pixels_that_the_logit_depends_on_are_bright():
    trainer = trainer_of(Corner(), DataModule(split(), split(8), batch_size=8))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (1, 16, 16, 1), np.uint8) for _ in range(2)]
    first, second = saliency(trainer, [example(images[0]), example(images[1], predicted=0)])
    np.testing.assert_allclose(first[:8, :8], 1)
    np.testing.assert_allclose(first[8:], 0)
    np.testing.assert_allclose(second, 0)  # a constant logit


def test_a_task_without_logits_has_no_saliency():
    task = loss_task(lambda outputs, batch: outputs[:, 0])
    trainer = trainer_of(Corner(), DataModule(split(), split(8), batch_size=8), task=task)
    assert saliency(trainer, [example(np.ones((1, 16, 16, 1), np.uint8))]) == []
    assert saliency(trainer, []) == []
