"""Runs whose examples are in a cache end with the same bits as runs without one."""

from helpers import At, Dense, press_ctrl_c, trainer_of
from worker_datasets import Stripes

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.checkpoints import verify_checkpoints


class Labelled(Stripes):
    """Stripes with known labels, one of them damaged."""

    targets = tuple(index % 4 for index in range(64))

    def __getitem__(self, index):
        if index == 9:
            raise ValueError("no such picture")
        return super().__getitem__(index)


class Watch(Callback):
    """Notes whether the data are on the device, and the batches that hooks receive."""

    every_n_steps = 1

    def __init__(self):
        self.is_resident, self.batches = None, []

    def on_train_start(self, trainer):
        self.is_resident = trainer.data_is_on_device

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.batches.append((batch["index"].tolist(), batch["image"][:, 0, 0, 0].tolist()))


def fit(folder, cache, *, stop=None, dataset=Stripes, **options):
    """Trains for three epochs of five batches, or until Ctrl-C after a step."""
    data = DataModule(dataset(), Stripes(), batch_size=12, cache=cache, **options)
    watch = Watch()
    callbacks = [watch] if stop is None else [watch, At(stop, press_ctrl_c)]
    trainer = trainer_of(Dense(), data, log_dir=folder, max_epochs=3, callbacks=callbacks)
    trainer.fit(resume="auto")
    assert trainer.interrupted == (stop is not None)
    return [*verify_checkpoints(trainer.run_dir)][-1]["digest"], watch


def test_resumed_runs_with_a_cache_have_the_bits_of_one_without(tmp_path):
    expected, plain = fit(tmp_path / "plain", False)
    cache, folder = tmp_path / "cache", tmp_path / "stopped"
    _, first = fit(folder, False, stop=3)  # without a cache
    _, second = fit(folder, cache, stop=7)  # it is filled
    digest, third = fit(folder, cache)  # it is read
    assert digest == expected
    assert first.batches + second.batches + third.batches == plain.batches
    assert not any(watch.is_resident for watch in (plain, first, second, third))


def test_a_cached_split_on_the_device_gives_the_same_bits(tmp_path):
    options = {"dataset": Labelled, "on_bad_sample": "skip"}
    expected, plain = fit(tmp_path / "plain", False, **options)
    cache = {"cache": tmp_path / "cache", **options}
    for folder, keep in (("filled", True), ("read", "auto")):
        digest, resident = fit(tmp_path / folder, **cache, keep_on_device=keep)
        assert (digest, resident.is_resident) == (expected, True)
        assert resident.batches == plain.batches
