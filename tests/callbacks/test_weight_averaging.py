from types import SimpleNamespace

import numpy as np
import pytest

from nnx_alexnet.callbacks import EMA, SWA


def test_ema_without_warm_up_has_a_constant_weight_at_its_period():
    ema = EMA(0.9, warmup=False, every_n_steps=3)
    found = [float(ema.weight(step, None)) for step in range(1, 8)]
    np.testing.assert_allclose(found, [0, 0, 0.1, 0, 0, 0.1, 0], rtol=1e-6)


def test_the_warm_up_counts_updates():
    ema = EMA(0.9, every_n_steps=2)
    decays = [1 - float(ema.weight(step, None)) for step in (2, 4, 200)]
    np.testing.assert_allclose(decays, [1 / 10, 2 / 11, 0.9], rtol=1e-6)


def test_swa_weights_each_due_step_equally():
    swa = SWA(start_step=3, every_n_steps=2)
    found = [float(swa.weight(step, None)) for step in range(1, 10)]
    np.testing.assert_allclose(found, [1, 1, 1, 0, 1 / 2, 0, 1 / 3, 0, 1 / 4], rtol=1e-6)


def test_swa_counts_epochs_in_steps():
    swa = SWA(start_epoch=2, every_n_epochs=3)
    found = {step: float(swa.weight(step, 4)) for step in (7, 8, 12, 20, 32)}
    np.testing.assert_allclose([*found.values()], [1, 1, 0, 1 / 2, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize(("start", "is_late"), [(5, True), (4, False)])
def test_a_mean_that_starts_after_the_end_of_the_run_is_reported(start, is_late, warnings):
    swa = SWA(start_step=start, every_n_steps=1)
    swa.on_train_start(SimpleNamespace(max_epochs=2, max_steps=None, steps_per_epoch=2))
    expected = f"`SWA(start_step={start}, every_n_steps=1)` averages nothing, because the run ends"
    assert (expected in warnings.text) is is_late


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: EMA(1.0), r"`decay` \(=1.0\) must be a number in \[0, 1\)"),
        (lambda: EMA(every_n_steps=0), "`every_n_steps`"),
        (SWA, "either `start_epoch` .* or `start_step` "),
        (lambda: SWA(1, start_step=1), "Pass either `start_epoch`"),
        (lambda: SWA(0), "`start_epoch`"),
        (lambda: SWA(1, every_n_steps=2, every_n_epochs=1), "exclude each other"),
        (lambda: SWA(1).check(None), "Pass `start_step` and `every_n_steps`"),
        (lambda: SWA(start_step=5).check(None), "Pass `start_step` and `every_n_steps`"),
    ],
)
def test_invalid_arguments_are_refused(create, message):
    with pytest.raises(ValueError, match=message):
        create()


def test_swa_by_steps_needs_no_number_of_steps_per_epoch():
    SWA(start_step=5, every_n_steps=2).check(None)
