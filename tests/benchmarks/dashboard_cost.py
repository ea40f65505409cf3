"""Measures what TensorBoard's images add to a run: `python tests/benchmarks/dashboard_cost.py`.

Trains AlexNet on the digits, as the command line does. Each row is a whole `fit`, including
validation and closing the files, after one that has compiled everything and loaded Matplotlib. The
rows run in turns, forwards and backwards.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

from flax import nnx
from turns import markdown, setting

from nnx_alexnet import AlexNet, Trainer, load_data
from nnx_alexnet.callbacks import TensorBoard
from nnx_alexnet.devices.host_memory import keep_freed_memory

CONTENDERS = {
    "scalars alone": lambda: TensorBoard(images=False, histograms=False, texts=False),
    "the defaults": TensorBoard,
    "each epoch": lambda: TensorBoard(every_n_epochs=1),
}


def seconds(callback: TensorBoard, *, epochs: int, steps: int | None, log_dir: str) -> float:
    data = load_data("digits", image_size=96, batch_size=32)
    model = AlexNet(num_classes=10, image_size=96, in_channels=1, rngs=nnx.Rngs(0))
    trainer = Trainer(
        model, data, callbacks=[callback], max_epochs=epochs, max_steps=steps, log_dir=log_dir,
        progress_bar=False,
    )  # fmt: skip
    began = time.perf_counter()
    trainer.fit()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="at most, for a quick look")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    arguments = parser.parse_args()
    chosen = arguments.contenders
    keep_freed_memory()
    found: dict[str, list[float]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as log_dir:
        limit = {"steps": arguments.steps, "log_dir": log_dir}
        seconds(TensorBoard(), epochs=1, **limit)
        for number in range(arguments.rounds):
            for name in chosen if number % 2 == 0 else reversed(chosen):
                callback = CONTENDERS[name]()
                found[name].append(seconds(callback, epochs=arguments.epochs, **limit))
    base = statistics.median(found[chosen[0]])
    print(setting(["jax", "flax", "tensorboard", "matplotlib"]))
    rows = [
        (
            name,
            f"{statistics.median(each):.1f}",
            f"{min(each):.1f} to {max(each):.1f}",
            f"{statistics.median(each) / base:.3f}",
        )
        for name, each in found.items()
    ]
    print(markdown(("TensorBoard writes", "seconds", "range", f"to {chosen[0]}"), rows))


if __name__ == "__main__":
    main()
