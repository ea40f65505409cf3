"""Measures what a checkpoint of AlexNet adds to the loop: `python tests/benchmarks/save_cost.py`.

Each row trains the same steps with a save every few steps, and is compared with the same steps
without saves, in turns. `background` is what `ModelCheckpoint` does; `waiting` waits for each save
before the next step. The two Orbax rows save the same arrays with `CheckpointManager` as its
documentation recommends: compressed, and without digests.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx, traverse_util
from turns import markdown, setting

from nnx_alexnet import AlexNet, DataModule, Trainer
from nnx_alexnet.callbacks import Callback, ModelCheckpoint
from nnx_alexnet.devices.host_memory import keep_freed_memory


class Clock(Callback):
    """The seconds of the steps after the first save period, the last one's result included."""

    priority = 0

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.seconds = 0.0

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if trainer.global_step in (self.start, self.end):
            jax.block_until_ready(outputs)
            self.seconds = time.perf_counter() - self.seconds


class Wait(Callback):
    """Waits for each save before the next step."""

    def on_train_batch_start(self, trainer, batch, batch_index):
        trainer.checkpoints.wait()


class OrbaxSave(Callback):
    """What one would write with Orbax alone."""

    def __init__(self, every_n_steps: int, folder: Path, *, is_async: bool) -> None:
        self.period, self.folder, self.is_async = every_n_steps, folder, is_async

    @property
    def batch_period(self) -> int:
        return self.period

    def on_train_start(self, trainer):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=self.is_async
        )
        folder = tempfile.mkdtemp(dir=self.folder)
        self.manager = ocp.CheckpointManager(folder, options=options)

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        if trainer.global_step % self.period == 0:
            arrays = trainer._arrays.to_host()
            tree = traverse_util.unflatten_dict(arrays, sep="/")
            self.manager.save(trainer.global_step, args=ocp.args.StandardSave(tree))

    def on_train_end(self, trainer):
        self.manager.close()


def measure(
    model: Callable[[], nnx.Module],
    images: np.ndarray,
    *,
    batch_size: int,
    period: int,
    num_saves: int,
    rounds: int,
    folder: Path,
) -> dict[str, list[float]]:
    """Returns the seconds of each row, one a round.

    Args:
        model: builds one.
        images: enough for one epoch of all steps.
        batch_size: examples a step.
        period: steps from one save to the next.
        num_saves: how many are timed.
        rounds: how often each row runs; one more, first, compiles.
        folder: where the checkpoints go.
    """
    start = period - 1
    end = start + period * num_saves
    labels = np.arange(len(images), dtype=np.int32) % 10
    seldom, often = 10**9, period
    rows = {
        "no saves": (seldom, []),
        "background": (often, []),
        "waiting": (often, [Wait()]),
        "Orbax, background": (seldom, [OrbaxSave(period, folder, is_async=True)]),
        "Orbax, waiting": (seldom, [OrbaxSave(period, folder, is_async=False)]),
    }
    clocks, fits = {}, {}
    for name, (every_n_steps, callbacks) in rows.items():
        clocks[name] = Clock(start, end)
        saver = ModelCheckpoint(every_n_steps=every_n_steps, every_n_epochs=None)
        data = DataModule((images, labels), batch_size=batch_size)
        fits[name] = Trainer(
            model(),
            data,
            callbacks=[clocks[name], saver, *callbacks],
            max_steps=end,
            log_dir=folder,
            name=name.replace(", ", "-").replace(" ", "-"),
            progress_bar=False,
        )
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, trainer in fits.items():
            clocks[name].seconds = 0.0
            trainer.fit()
            if number:
                seconds[name].append(clocks[name].seconds)
    return seconds


def report(seconds: dict[str, list[float]], num_saves: int) -> str:
    """Returns a table: the seconds that one save adds, the median and the range of the rounds."""
    base = seconds["no saves"]
    rows = []
    for name, row in seconds.items():
        if name == "no saves":
            continue
        added = [(one - without) / num_saves for one, without in zip(row, base, strict=True)]
        between = f"{min(added):.2f} to {max(added):.2f} s"
        rows.append([name, f"{statistics.median(added):.2f} s", between])
    return markdown(["", "added per save", "range"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--period", type=int, default=8)
    parser.add_argument("--saves", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    num_steps = arguments.period * (arguments.saves + 1)
    images = np.random.default_rng(0).integers(
        0, 256, (num_steps * arguments.batch_size, 96, 96, 1), np.uint8
    )
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(
            lambda: AlexNet(num_classes=10, image_size=96, in_channels=1, rngs=nnx.Rngs(0)),
            images,
            batch_size=arguments.batch_size,
            period=arguments.period,
            num_saves=arguments.saves,
            rounds=arguments.rounds,
            folder=Path(folder),
        )
    print(setting(["jax", "flax", "orbax-checkpoint"]))
    step = statistics.median(seconds["no saves"]) / (arguments.period * arguments.saves)
    print(f"A step of {arguments.batch_size} images: {step:.3f} s. A checkpoint: 259 MB.")
    print(report(seconds, arguments.saves))


if __name__ == "__main__":
    main()
