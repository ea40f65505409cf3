import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import TinyNet

from nnx_alexnet import DataModule, Trainer
from nnx_alexnet.tuning import find_batch_size
from nnx_alexnet.tuning.batch_size import _largest


def linear_data(num=256, features=64, **options):
    split = np.zeros((num, features), np.float32), np.arange(num) % 2
    return DataModule(split, keep_on_device=False, **options)


def step_bytes(size):
    model = nnx.Linear(64, 2, rngs=nnx.Rngs(0))
    options = {"log_dir": None, "progress_bar": False, "steps_per_execution": 1}
    data = linear_data(batch_size=size)
    return Trainer(model, data, optimizer=optax.sgd(0.1), **options).step_memory()


def test_the_memory_of_a_step_grows_by_the_bytes_of_its_examples():
    # 64 floats, label, index and mask. The step takes two batches; temporary arrays come on top.
    sent = 2 * (64 * 4 + 4 + 4 + 1)
    per_example = (step_bytes(128) - step_bytes(64)) / 64
    assert sent <= per_example < 2 * sent


def test_the_size_found_fits_and_its_double_does_not():
    model = nnx.Linear(64, 2, rngs=nnx.Rngs(0))
    before = np.array(model.kernel[...])
    memory = step_bytes(64) + 10
    found = find_batch_size(
        model, linear_data(), optimizer=optax.sgd(0.1), memory=memory, steps_per_execution=1
    )
    assert found.batch_size == 64
    assert found.needed[64] <= memory < found.needed[128]
    assert np.array_equal(model.kernel[...], before)


def test_the_number_of_examples_limits_the_size():
    found = find_batch_size(
        nnx.Linear(64, 2, rngs=nnx.Rngs(0)), linear_data(num=100), memory=10**9,
        steps_per_execution=1,
    )  # fmt: skip
    assert found.batch_size == 64


def test_a_wrong_estimate_is_corrected_by_compiling():
    # A line overestimates the size for a memory that grows with the square.
    assert _largest(lambda size: size**2, memory=256**2, limit=10_000) == 256
    assert _largest(lambda size: 1000 + size // 100, memory=1010, limit=10_000) == 1024


def test_too_little_memory_is_refused_with_what_one_example_needs():
    with pytest.raises(ValueError, match=r"`memory` \(=10, 10.* is too small.*for one example"):
        find_batch_size(nnx.Linear(64, 2, rngs=nnx.Rngs(0)), linear_data(), memory=10)


def test_the_memory_includes_the_state_of_the_optimizer():
    split = np.zeros((16, 8, 8, 1), np.uint8), np.arange(16) % 2
    options = {"log_dir": None, "progress_bar": False}
    model = TinyNet(num_classes=2, rngs=nnx.Rngs(0))
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    data = DataModule(split, batch_size=8)
    sgd = Trainer(model, data, optimizer=optax.sgd(0.1), **options).step_memory()
    adam = Trainer(model, data, optimizer=optax.adam(0.1), **options).step_memory()
    assert adam - sgd >= 2 * num_bytes
