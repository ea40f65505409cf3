import jax
import numpy as np

from nnx_alexnet.augmentation.regions import central_region, draw_region


def test_regions_lie_inside_and_reach_the_borders():
    keys = jax.random.split(jax.random.key(0), 500)
    region = jax.vmap(lambda key: draw_region(key, (6, 8), (0.2, 1.0), (0.75, 1.33)))(keys)
    start, end = np.asarray(region.start), np.asarray(region.start + region.size)
    assert region.found.all()
    assert start.min(axis=0).tolist() == [0, 0]
    assert end.max(axis=0).tolist() == [6, 8]


def test_impossible_regions_are_not_found():
    region = draw_region(jax.random.key(0), (4, 100), (1.0, 1.0), (1.0, 1.0))
    assert not region.found


def test_central_region_of_a_tall_image_has_the_smallest_ratio():
    region = central_region((24, 9), (0.75, 4 / 3))
    assert (region.start.tolist(), region.size.tolist()) == ([6, 0], [12, 9])
