"""The columns of Hugging Face datasets, and the values of one example."""

import numpy as np
import pytest
from PIL import Image

from nnx_alexnet.data.hugging_face_features import plain_example


def test_plain_examples_contain_arrays():
    picture = Image.new("LA", (3, 2), (5, 255))
    example = plain_example({"image": picture, "n": 3, "views": {"a": [1.5]}, "z": np.ones(2)})
    assert example["image"].tolist() == [[[5]] * 3] * 2
    assert (example["n"].shape, example["views"]["a"].tolist()) == ((), [1.5])
    assert example["z"].shape == (2,)


def test_images_of_a_batch_are_stacked():
    grey, red = Image.new("L", (3, 2), 7), Image.new("RGB", (3, 2), (9, 0, 0))
    batch = plain_example({"image": [grey, red]})["image"]
    assert batch.shape == (2, 2, 3, 3)
    assert batch[:, 0, 0].tolist() == [[7, 7, 7], [9, 0, 0]]
    assert plain_example({"image": [grey, grey]})["image"].shape == (2, 2, 3, 1)
    with pytest.raises(ValueError, match=r"the shapes \(1, 3, 1\) and \(2, 3, 1\)"):
        plain_example({"image": [grey, Image.new("L", (3, 1))]})


def test_lists_of_different_lengths_remain_lists():
    assert plain_example({"x": [[1], [2, 3]]}) == {"x": [[1], [2, 3]]}
