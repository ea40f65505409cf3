"""Measures what everything that is written adds to a run.

    python tests/benchmarks/dashboard_cost.py

Trains AlexNet on the digits, as the command line does. Each row is a whole `fit`, including
validation and closing the files, after one that has compiled everything and loaded Matplotlib. The
first row writes and shows nothing: no run folder, no checkpoints, no progress bar. The rows run in
turns, forwards and backwards. CPU time is that of all threads; it varies less on a busy machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np
from flax import nnx
from turns import markdown, setting

from nnx_alexnet import AlexNet, Trainer, load_data
from nnx_alexnet.callbacks import TensorBoard
from nnx_alexnet.devices.host_memory import keep_freed_memory

CONTENDERS = {
    "nothing": lambda: None,
    "scalars alone": lambda: TensorBoard(images=False, histograms=False, texts=False),
    "the defaults": TensorBoard,
    "each epoch": lambda: TensorBoard(every_n_epochs=1),
}


def seconds(
    callback: TensorBoard | None, *, epochs: int, steps: int | None, log_dir: str
) -> tuple[float, float]:
    """Returns the seconds and the CPU seconds of a `fit`."""
    data = load_data("digits", image_size=96, batch_size=32)
    model = AlexNet(num_classes=10, image_size=96, in_channels=1, rngs=nnx.Rngs(0))
    writes = callback is not None
    trainer = Trainer(
        model, data, callbacks=callback, max_epochs=epochs, max_steps=steps,
        log_dir=log_dir if writes else None, progress_bar=writes,
    )  # fmt: skip
    began, began_cpu = time.perf_counter(), time.process_time()
    trainer.fit()
    return time.perf_counter() - began, time.process_time() - began_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="at most, for a quick look")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    arguments = parser.parse_args()
    chosen = arguments.contenders
    keep_freed_memory()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as log_dir:
        limit = {"steps": arguments.steps, "log_dir": log_dir}
        seconds(TensorBoard(), epochs=1, **limit)
        for number in range(arguments.rounds):
            for name in chosen if number % 2 == 0 else reversed(chosen):
                callback = CONTENDERS[name]()
                found[name].append(seconds(callback, epochs=arguments.epochs, **limit))
    print(setting(["jax", "flax", "tensorboard", "matplotlib"]))
    rows = []
    medians = {name: np.median(each, axis=0) for name, each in found.items()}
    for name, each in found.items():
        walls = [wall for wall, _ in each]
        ratio, cpu_ratio = medians[name] / medians[chosen[0]]
        rows.append(
            (
                name,
                f"{medians[name][0]:.1f}",
                f"{min(walls):.1f} to {max(walls):.1f}",
                f"{ratio:.3f}",
                f"{medians[name][1]:.1f}",
                f"{cpu_ratio:.3f}",
            )
        )
    columns = ("what is written", "seconds", "range", "ratio", "CPU seconds", "ratio")
    print(markdown(columns, rows))


if __name__ == "__main__":
    main()
