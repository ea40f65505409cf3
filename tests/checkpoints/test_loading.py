"""Loading a model from a checkpoint."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from saved_runs import arrays_of, linear

from nnx_alexnet import load_checkpoint
from nnx_alexnet.checkpoints import Checkpoints
from nnx_alexnet.checkpoints.integrity import DamagedError


def test_a_freshly_built_model_takes_the_saved_values(run):
    model = linear(9)
    assert load_checkpoint(run, model)["global_step"] == 10
    np.testing.assert_array_equal(model.kernel[...], linear(10).kernel[...])
    np.testing.assert_array_equal(model.bias[...], linear(10).bias[...])


def test_a_model_of_another_architecture_is_refused_with_the_differences(run):
    with pytest.raises(ValueError, match=r"kernel: saved float32\[20, 30\], now float32\[20, 31\]"):
        load_checkpoint(run, nnx.Linear(20, 31, rngs=nnx.Rngs(0)))
    without_bias = nnx.Linear(20, 30, use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"bias: saved float32\[30\], now nothing"):
        load_checkpoint(run, without_bias)


@pytest.fixture
def logs(warnings):
    warnings.set_level("INFO", logger="nnx_alexnet")
    return warnings


class Tuned(nnx.Module):
    """The `kernel` of `linear`, a bias of another shape, a part of its own, and a random key."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.zeros((20, 30)))
        self.bias = nnx.Param(jnp.zeros(7))
        self.head = nnx.Param(jnp.zeros(3))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


def test_a_partial_load_takes_what_fits_and_lists_the_rest(run, logs):
    model = Tuned()
    about = load_checkpoint(run, model, partial=True)
    expected = {"loaded": ["kernel"], "skipped": ["bias"], "left": ["head"]}
    assert {name: about[name] for name in expected} == expected
    assert about["global_step"] == 10
    np.testing.assert_array_equal(model.kernel[...], linear(10).kernel[...])
    assert not model.bias[...].any()
    assert "Skipped, because they have another shape in the checkpoint: bias." in logs.text
    assert "Left as they are, because they are not in the checkpoint: head." in logs.text


def test_a_partial_load_of_the_whole_model_reports_nothing_else(run, logs):
    load_checkpoint(run, linear(9), partial=True)
    assert "Loaded from the checkpoint: bias, kernel." in logs.text
    assert "Skipped" not in logs.text
    assert "Left" not in logs.text


def test_a_partial_load_of_a_model_that_shares_nothing_is_refused(run):
    with pytest.raises(ValueError, match=r"shares no array of the same path and shape with"):
        load_checkpoint(run, nnx.Linear(3, 4, rngs=nnx.Rngs(0)), partial=True)


@pytest.mark.parametrize("model", ["x", nnx.Linear, None])
def test_a_value_that_is_no_model_is_refused(tmp_path, model):
    with pytest.raises(TypeError, match=r"`model` .* must be an nnx.Module that is built like"):
        load_checkpoint(tmp_path, model)


def test_another_checkpoint_is_loaded_if_one_is_deleted_meanwhile(run, while_reading):
    while_reading("read_arrays", lambda folder: shutil.rmtree(folder.parent))
    about = load_checkpoint(run, loaded := linear(9))  # the best, 10, vanishes
    assert about["global_step"] == 20
    np.testing.assert_array_equal(loaded.kernel[...], linear(20).kernel[...])


def test_a_checkpoint_replaced_meanwhile_is_read_again(run, while_reading):
    def replace(folder):
        checkpoints = Checkpoints(run / "checkpoints", monitor="val/loss", keep_best=1)
        checkpoints.save(20, arrays_of(21), {"epoch": 3, "data": {}}, value=0.1)
        checkpoints.close()

    while_reading("read_arrays", replace)
    assert load_checkpoint(run, linear(), which="last")["epoch"] == 3


def test_a_damaged_checkpoint_is_neither_the_best_nor_the_latest(run, warnings):
    shutil.rmtree(run / "checkpoints/10/model")
    assert load_checkpoint(run, linear())["global_step"] == 20
    assert "checkpoints/10 is damaged: model/_METADATA is missing" in warnings.text
    assert "It is not used." in warnings.text
    with pytest.raises(DamagedError):
        load_checkpoint(run, linear(), which=10)
    (run / "checkpoints/20/loop/metadata").write_text("{")
    with pytest.raises(ValueError, match="holds no intact checkpoint"):
        load_checkpoint(run, linear())
