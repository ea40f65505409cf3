"""Segmentation with augmentation: which pixels belong to discs, and not to squares?

`ImageTransform` moves and mirrors an image and, by the same geometry, the fields that are declared
as its masks. The loss of an example is the mean over its pixels. (The name `mask` is reserved: in a
batch it tells which rows are padding.)
"""

import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average, Collection
from flax import nnx

from nnx_alexnet import DataModule, Task, Trainer
from nnx_alexnet.data import ImageTransform

SIZE = 24


def make_split(num, seed):
    """Returns noisy images of discs and squares, and the masks of the discs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    images = np.zeros((num, SIZE, SIZE), np.float32)
    discs = np.zeros((num, SIZE, SIZE), bool)
    for row in range(num):
        # Two shapes, each in a quarter of its own.
        for is_disc, quarter in zip((True, False), rng.permutation(4), strict=False):
            centre_y, centre_x = 6 + 12 * np.array(divmod(quarter, 2)) + rng.uniform(-1.5, 1.5, 2)
            radius = rng.uniform(3, 4)
            dy, dx = np.abs(y - centre_y), np.abs(x - centre_x)
            shape = np.hypot(dy, dx) < radius if is_disc else np.maximum(dy, dx) < 0.9 * radius
            images[row, shape] = 0.7
            discs[row] |= shape & is_disc
    images += rng.normal(0.15, 0.1, images.shape)
    return images.clip(0, 1).astype(np.float32)[..., None], discs


class Segmenter(nnx.Module):
    def __init__(self, width=16, *, rngs):
        self.down = nnx.Conv(1, width, (4, 4), strides=2, rngs=rngs)
        self.near = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.far = nnx.Conv(width, width, (3, 3), kernel_dilation=2, rngs=rngs)
        self.up = nnx.ConvTranspose(width, 8, (4, 4), strides=2, rngs=rngs)
        self.out = nnx.Conv(9, 1, (3, 3), rngs=rngs)

    def __call__(self, image):
        x = nnx.relu(self.down(image))  # B 12 12 width
        x = nnx.relu(self.norm(self.near(x)))
        x = nnx.relu(self.far(x))
        x = nnx.relu(self.up(x))  # B 24 24 8
        return self.out(jnp.concatenate([x, image], axis=-1))[..., 0]  # B 24 24


def intersection_over_union(found, discs):
    """Returns the metric of each example; 1 if both masks are empty."""
    common, either = (found & discs).sum(axis=(1, 2)), (found | discs).sum(axis=(1, 2))
    return (common + (either == 0)) / (either + (either == 0))


class Segmentation(Task):
    metrics = Collection.create(loss=Average.from_output("loss"), iou=Average.from_output("iou"))

    def outputs(self, model, batch):
        logits, discs = model(batch["image"]), batch["discs"]
        losses = optax.sigmoid_binary_cross_entropy(logits, discs.astype(jnp.float32))
        found = logits > 0
        return {"loss": losses.mean(axis=(1, 2)), "iou": intersection_over_union(found, discs)}

    def predict(self, model, batch):
        return nnx.sigmoid(model(batch["image"]))


def make_trainer(*, max_epochs=8, **options):
    data = DataModule(
        make_split(640, seed=0),
        make_split(100, seed=1),
        make_split(200, seed=2),
        fields=("image", "discs"),
        transform=ImageTransform(flip=True, translate=0.1, masks=("discs",)),
        batch_size=32,
        name="shapes",
    )
    return Trainer(
        Segmenter(rngs=nnx.Rngs(0)),
        data,
        task=Segmentation(),
        optimizer=optax.adam(5e-3),
        max_epochs=max_epochs,
        **options,
    )


def main(**options):
    trainer = make_trainer(**options)
    trainer.fit()
    image, discs = make_split(200, seed=2)
    return {
        "iou": trainer.test()["test/iou"],
        "iou_of_bright_pixels": intersection_over_union(image[..., 0] > 0.5, discs).mean(),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
