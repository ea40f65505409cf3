import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from nnx_alexnet.augmentation import Lighting, pca_lighting

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)


def test_change_is_the_equation_of_the_paper():
    light = Lighting(0.1)
    batch = {"image": jnp.zeros((4, 2, 2, 3)), "index": jnp.arange(4)}
    found = np.asarray(light(batch, jax.random.key(0))["image"])
    keys = [jax.random.fold_in(jax.random.key(0), n) for n in range(4)]
    amounts = np.stack([0.1 * jax.random.normal(key, (3,)) for key in keys])
    wanted = (amounts * np.array(light.eigenvalues)) @ np.array(light.eigenvectors).T
    np.testing.assert_allclose(
        found, np.broadcast_to(wanted[:, None, None], found.shape), rtol=1e-5
    )


def test_eigenvalues_are_those_of_scikit_learn():
    light, pca = pca_lighting(IMAGES, 0.2), PCA().fit(IMAGES.reshape(-1, 3) / 255)
    assert light.sigma == 0.2
    np.testing.assert_allclose(light.eigenvalues, pca.explained_variance_)
    vectors = np.array(light.eigenvectors).T
    signs = np.sign((vectors * pca.components_).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(vectors * signs, pca.components_, atol=1e-9)


def test_floating_point_images_are_not_scaled():
    wanted, found = pca_lighting(IMAGES), pca_lighting(IMAGES / 255)
    np.testing.assert_allclose(wanted.eigenvalues, found.eigenvalues)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="2 eigenvalues need 2 rows of as many"):
        Lighting(0.1, (1, 2), ((1, 0, 0),))
    with pytest.raises(ValueError, match=r"`images` has shape \(6, 6, 3\)"):
        pca_lighting(IMAGES[0])
