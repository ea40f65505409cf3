import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from nnx_alexnet.augmentation.affine import affine

IMAGE = np.random.default_rng(0).random((7, 9, 3), dtype=np.float32)


def test_result_is_that_of_scipy():
    matrix, pivot, offset = np.array([[0.8, 0.4], [-0.5, 1.1]]), np.array([3, 5]), [0.3, -1.2]
    start = pivot + offset - 0.5 + matrix @ (0.5 - pivot)
    found = affine(IMAGE, jnp.array(matrix), jnp.array(pivot), jnp.array(offset))
    for channel in range(3):
        wanted = ndimage.affine_transform(
            IMAGE[..., channel], matrix, start, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(found[..., channel], wanted, atol=1e-5)


def test_identity_keeps_every_bit():
    found = affine(jnp.array(IMAGE), jnp.eye(2), jnp.array([3.5, 4.5]), jnp.zeros(2))
    np.testing.assert_array_equal(found, IMAGE)
