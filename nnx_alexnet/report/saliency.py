"""Computes how much each pixel of an image matters for its predicted class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from nnx_alexnet.data import transformed_batch
from nnx_alexnet.models import define, pass_arguments
from nnx_alexnet.report.notable import Example

if TYPE_CHECKING:
    from nnx_alexnet.trainer import Trainer

_NUM_SAMPLES = 16  # noisy copies of each image
_NOISE = 0.15  # standard deviation, as a share of the range of the image


def saliency(trainer: Trainer, examples: Sequence[Example]) -> list[NDArray[np.float32]]:
    """Returns how much each pixel matters for the predicted class.

    This is the absolute gradient of the logit of that class, with the largest value over the
    channels, averaged over copies of the image with noise (SmoothGrad).

    Args:
        trainer: has the model, the task and the transform.
        examples: the examples, with equal shapes.

    Returns:
        `float32[H, W]` from 0 to 1 for each example, in the size of the transformed image. Empty
        if the images are not floating-point images after the transform, or the task returns no
        `logits`.

    Source: Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", 2013,
    arXiv:1312.6034; Smilkov et al., "SmoothGrad", 2017, arXiv:1706.03825.
    """
    if not examples:
        return []
    fields = jax.tree.map(
        lambda *rows: np.concatenate(rows), *[dict(each.fields) for each in examples]
    )
    num = len(examples)
    fields |= {"mask": np.ones(num, bool), "index": np.arange(num, dtype=np.int32)}
    batch = transformed_batch(trainer.data.transform, fields)
    batch.pop("views", None)  # a task would average them instead of reading the image
    image = batch.get("image")
    if not isinstance(image, jax.Array) or image.ndim != 4 or image.dtype.kind != "f":
        return []
    copy = nnx.merge(*nnx.split(trainer.model))
    pass_arguments(copy, training=False, key=jax.random.key(0))
    definitions = define(copy)
    classes = np.array([example.predicted for example in examples])

    def total(image: jax.Array, state: Any) -> jax.Array:
        model: nnx.Module = nnx.merge(definitions.evaluation, state)
        logits = trainer.task.outputs(model, {**batch, "image": image})["logits"]
        if logits.ndim == 1:  # of class 1
            logits = jnp.stack([-logits, logits], axis=-1)
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

    gradient = jax.jit(jax.grad(total))
    span = jnp.ptp(image, axis=(1, 2, 3), keepdims=True)
    added = np.zeros(image.shape[:3], np.float32)
    try:
        for key in jax.random.split(jax.random.key(0), _NUM_SAMPLES):
            noise = _NOISE * span * jax.random.normal(key, image.shape, image.dtype)
            found = gradient(image + noise, definitions.state)
            added += np.abs(np.asarray(found, np.float32)).max(axis=-1)
    except KeyError:  # a task without logits
        return []
    return [_unit(values) for values in added]


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales to 0..1; the largest percent becomes 1, so that one pixel does not hide the others.

    A blur removes the grid that strided convolutions and pools leave in their gradients.
    """
    side = max(1, max(values.shape) // 24)
    blurred = jnp.asarray(values)[..., None]
    for _ in range(2):
        blurred = nnx.avg_pool(blurred, (side, side), padding="SAME", count_include_pad=False)
    values = np.asarray(blurred[..., 0])
    top = np.percentile(values, 99)
    return np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)
