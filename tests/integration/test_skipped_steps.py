"""`check_finite=n`: steps that are not finite are skipped, as if their batches did not exist."""

import numpy as np
import optax
import pytest
from flax import nnx
from helpers import Dense, TinyNet, tiny_arrays, trainer_of, tree_allclose, tree_equal
from small_runs import FlatNet

from nnx_alexnet import DataModule
from nnx_alexnet.devices import NonFiniteError
from nnx_alexnet.optimizers import dynamic_loss_scale


class InOrder:
    """Batches that are not shuffled."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def fitted(bad, *, model=None, left_out=False, **arguments):
    """A run over six batches in order, of which the `bad` ones contain a NaN or are left out."""
    images, labels = tiny_arrays(num=48)
    images = images.astype(np.float32) / 255
    batches = [slice(8 * number, 8 * number + 8) for number in range(6)]
    for number in bad:
        images[batches[number].start + 3] = np.nan
    kept = [rows for number, rows in enumerate(batches) if not (left_out and number in bad)]
    stream = InOrder([{"image": images[rows], "label": labels[rows]} for rows in kept])
    trainer = trainer_of(
        TinyNet(4, rngs=nnx.Rngs(0)) if model is None else model,
        DataModule(stream, batch_size=8), max_epochs=1, log_every_n_steps=1,
        **{"optimizer": optax.adam(1e-2), **arguments},
    )  # fmt: skip
    rows = trainer.fit()
    return nnx.state(trainer.model), rows[-1]


@pytest.mark.parametrize("model", [FlatNet, pytest.param(TinyNet, marks=pytest.mark.slow)])
def test_a_skipped_step_leaves_no_trace(model):
    def build():
        return FlatNet() if model is FlatNet else TinyNet(4, rngs=nnx.Rngs(0))

    state, row = fitted([2], model=build(), check_finite=1)
    expected, other = fitted([2], model=build(), left_out=True, check_finite=1)
    assert tree_equal(state, expected)
    assert (row["step"], other["step"]) == (6, 5)
    assert row["skipped_steps"] == 1
    assert row["train/loss"] == other["train/loss"]


@pytest.mark.parametrize(
    ("arguments", "scale"),
    [
        ({"check_finite": 1}, None),
        ({"check_finite": False}, 16.0),  # 8, 16 after two steps, 8 after the NaN, 16
        # The skipped step does not change the scale.
        pytest.param({"check_finite": 1, "num_micro_batches": 2}, 32.0, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_several_devices_skip_the_step_that_one_device_skips(arguments, scale):
    """One of the devices has the NaN."""
    optimizer = optax.sgd(1e-2, momentum=0.9)
    if scale is not None:
        optimizer = dynamic_loss_scale(optimizer, initial_scale=8.0, growth_interval=2)
    found = [
        fitted([2], model=Dense(), optimizer=optimizer, **arguments, **on)
        for on in ({"devices": 1}, {"devices": 4}, {"devices": 4, "shard_state": True})
    ]
    for state, row in found:
        assert tree_allclose(state, found[0][0], rtol=1e-5, atol=1e-6)
        assert (row["skipped_steps"], row.get("loss_scale")) == (1, scale)
        assert row["train/loss"] == pytest.approx(found[0][1]["train/loss"], nan_ok=True)


@pytest.mark.usefixtures("strict_dtype_promotion")
def test_steps_are_skipped_with_strict_promotion_of_dtypes():
    _, row = fitted([2], model=Dense(), optimizer=optax.sgd(1e-2), check_finite=1)
    assert row["skipped_steps"] == 1


def test_an_epoch_without_a_finite_step_has_no_training_metrics(warnings):
    _, row = fitted(range(6), model=Dense(), check_finite=6)
    assert row["skipped_steps"] == 6
    assert not [name for name in row if name.startswith("train/")]
    assert "Every step of epoch 0 was skipped" in warnings.text


def test_micro_batches_loss_scale_and_skipped_steps_resume_exactly(tmp_path):
    def fitted(name, max_epochs, **arguments):
        trainer = trainer_of(
            Dense(), num_micro_batches=2, check_finite=2, name=name,
            optimizer=dynamic_loss_scale(optax.adam(1e-2), growth_interval=3),
            max_epochs=max_epochs, log_dir=tmp_path,
        )  # fmt: skip
        row = trainer.fit(**arguments)[-1]
        return nnx.state(trainer.model), row["loss_scale"], row["train/loss"]

    expected = fitted("whole", 2)
    fitted("parts", 1)
    assert tree_equal(fitted("parts", 2, resume="auto"), expected)
    assert expected[1] == 2.0**18, "eight steps, and the scale grows after the third and sixth"


def test_more_skipped_steps_in_a_row_than_allowed_end_the_run():
    fitted([0, 2, 4], model=Dense(), check_finite=1)
    with pytest.raises(NonFiniteError, match="Step 4 had a loss of nan"):
        fitted([2, 3], model=Dense(), check_finite=1)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_an_invalid_number_of_steps_is_refused(value):
    with pytest.raises(ValueError, match="`check_finite`"):
        trainer_of(Dense(), check_finite=value)
