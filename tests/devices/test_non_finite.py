"""The error for a step that is not finite."""

import jax.numpy as jnp
import numpy as np

from nnx_alexnet.devices.non_finite import non_finite_step

NAN = float("nan")


def batch(image, label=(0.0, 1.0)):
    return {
        "image": np.array(image, np.float32),
        "label": np.array(label),
        "index": np.array([7, 3]),
        "mask": np.array([True, True]),
    }


def test_a_bad_image_is_named_first():
    text = str(non_finite_step(NAN, 5, batch([[1.0], [NAN]]), {"model/w": jnp.array([NAN])}))
    assert text.startswith("Step 5 had a loss of nan. The batch held the examples [7, 3]; ")
    assert "its `image` is not finite for [3]." in text
    assert "model/w" not in text


def test_a_bad_label_is_named():
    text = str(non_finite_step(NAN, 1, batch([[1.0], [2.0]], [np.inf, 0.0]), {}))
    assert "its `label` is not finite for [7]." in text


def test_padding_is_not_listed():
    padded = batch([[1.0], [2.0]]) | {"mask": np.array([True, False])}
    assert "The batch held the examples [7];" in str(non_finite_step(NAN, 1, padded, {}))


def test_otherwise_the_first_bad_array_of_the_state_is_named():
    leaves = {"count": jnp.int32(3), "model/a": jnp.ones(2), "model/b": jnp.array([1.0, jnp.inf])}
    text = str(non_finite_step(NAN, 2, batch([[1.0], [2.0]]), leaves))
    assert "`model/b` is the first array of the state that is not finite." in text


def test_a_finite_loss_with_bad_statistics_is_explained():
    text = str(non_finite_step(0.5, 2, batch([[1.0], [2.0]]), {"model/a": jnp.ones(2)}))
    assert "loss of 0.5, but BatchNorm's statistics are no longer finite." in text
    assert "every array of the state is finite." in text
