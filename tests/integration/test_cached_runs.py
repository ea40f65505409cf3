"""Runs whose examples are in a cache end with the same bits as runs without one."""

from helpers import At, Dense, press_ctrl_c, trainer_of
from worker_datasets import Stripes

from nnx_alexnet import DataModule
from nnx_alexnet.checkpoints import verify_checkpoints


def fit(folder, cache, *, stop=None, keep_on_device="auto"):
    """Trains for three epochs of five batches, or until Ctrl-C after a step."""
    data = DataModule(
        Stripes(), Stripes(), batch_size=12, cache=cache, keep_on_device=keep_on_device
    )
    callbacks = [] if stop is None else [At(stop, press_ctrl_c)]
    trainer = trainer_of(Dense(), data, log_dir=folder, max_epochs=3, callbacks=callbacks)
    trainer.fit(resume="auto")
    assert trainer.interrupted == (stop is not None)
    return [*verify_checkpoints(trainer.run_dir)][-1]["digest"], trainer


def test_runs_resumed_within_epochs_have_the_bits_of_one_without_a_cache(tmp_path):
    expected, _ = fit(tmp_path / "plain", False)
    cache, folder = tmp_path / "cache", tmp_path / "stopped"
    fit(folder, False, stop=3)  # without a cache
    _, stopped = fit(folder, cache, stop=7)  # the cache is filled
    assert stopped.step_in_epoch == 2
    fit(folder, cache, stop=11)
    assert fit(folder, cache)[0] == expected
    assert fit(tmp_path / "filled", cache)[0] == expected
