"""Masks that move with their images through a whole run."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from clu.metrics import Average, Collection
from flax import nnx

from nnx_alexnet import Task, Trainer
from nnx_alexnet.data import DataModule, ImageTransform

IMAGES = np.where(np.random.default_rng(0).random((64, 8, 8, 1)) > 0.5, 255, 0).astype(np.uint8)
MASKS = (IMAGES[..., 0] > 0).astype(np.float32)


class Threshold(nnx.Module):
    """A perfect segmenter: an object is where the image is bright."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones(()))

    def __call__(self, image):
        return (image[..., 0] - 0.5) * 20 * self.weight[...]


class Segmentation(Task):
    metrics = Collection.create(
        loss=Average.from_output("loss"), accuracy=Average.from_output("accuracy")
    )

    def outputs(self, model, batch):
        logits, label = model(batch["image"]), batch["label"]
        return {
            "loss": optax.sigmoid_binary_cross_entropy(logits, label).mean((1, 2)),
            "accuracy": ((logits > 0) == (label > 0.5)).astype(jnp.float32).mean((1, 2)),
        }


def history_of(transform, masks=MASKS):
    split = IMAGES, masks
    data = DataModule(split, split, batch_size=16, transform=transform)
    trainer = Trainer(
        Threshold(), data, task=Segmentation(), optimizer=optax.sgd(0.0), max_epochs=1,
        log_dir=None, progress_bar=False,
    )  # fmt: skip
    return trainer.fit()[0]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"flip": True}, {"translate": 0.2}, {"crop": 0.75, "translate": 0.1, "flip": True}],
    ids=str,
)
def test_a_perfect_segmenter_stays_perfect_under_augmentation(arguments):
    history = history_of(ImageTransform(**arguments, masks=("label",)))
    assert (history["train/accuracy"], history["val/accuracy"]) == (1, 1)


def test_a_function_that_mirrors_both_keeps_a_segmenter_perfect():
    def mirror(batch, key=None):
        image, label = batch["image"] / 255, batch["label"]
        if key is not None:
            image, label = image[:, :, ::-1], label[:, :, ::-1]
        return {**batch, "image": image, "label": label}

    history = history_of(mirror)
    assert (history["train/accuracy"], history["val/accuracy"]) == (1, 1)


def test_without_the_declaration_the_run_is_refused():
    for arguments in ({"flip": True}, {"translate": 0.2}):
        with pytest.raises(ValueError, match=r"not `label`: .*masks=\('label',\)"):
            history_of(ImageTransform(**arguments))
