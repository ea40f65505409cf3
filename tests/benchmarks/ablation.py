"""Measures what EMA, mixup and random erasing add to the validation accuracy on Fashion-MNIST.

    python tests/benchmarks/ablation.py --root PATH --images 12000 --epochs 8

`PATH/FashionMNIST/raw` holds the data set's four files. AlexNet is trained on the first `--images`
images of the train split, as by the recipe `fashion_mnist` without its EMA: Adam at 1e-3 with
warm-up and cosine decay, label smoothing of 0.1, translations and mirror images. Three rows add one
thing each, and the last row adds all. Every row has the same seeds, which determine weights, order
and augmentation. Printed are the mean over the seeds of the accuracy after the last epoch, on
`--val-images` held-out images, and its smallest and largest value. A gain is the mean over the
seeds of the difference to the baseline, with its standard error. The test split is not used.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from flax import nnx
from turns import markdown, setting

from nnx_alexnet import AlexNet, DataModule, Trainer, create_optimizer, load_data
from nnx_alexnet.callbacks import EMA
from nnx_alexnet.devices import keep_freed_memory
from nnx_alexnet.task import Classification

# By row: the augmentations of `load_data`, and whether the weights are averaged.
ROWS: dict[str, tuple[dict[str, Any], bool]] = {
    "baseline": ({}, False),
    "EMA": ({}, True),
    "mixup": ({"mixup": 0.2}, False),
    "erasing": ({"erasing": 0.25}, False),
    "all three": ({"mixup": 0.2, "erasing": 0.25}, True),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="the folder that holds FashionMNIST/raw")
    parser.add_argument("--images", type=int, default=12_000, help="to train on (default 12000)")
    parser.add_argument("--val-images", type=int, default=6_000, help="(default all 6000)")
    parser.add_argument("--epochs", type=int, default=8, help="(default 8)")
    parser.add_argument("--seeds", type=int, default=3, help="(default 3)")
    parser.add_argument("--image-size", type=int, default=67, help="(default 67)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default 64)")
    parser.add_argument("--decay", type=float, default=0.99, help="of EMA (default 0.99)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], metavar="ROW")
    return parser.parse_args()


def _data(arguments: argparse.Namespace, augmentations: dict[str, Any]) -> DataModule:
    """Returns a part of Fashion-MNIST: the same images for each row and seed."""
    data = load_data(
        "fashion_mnist",
        root=arguments.root,
        image_size=arguments.image_size,
        augmentations=augmentations or None,
    )
    assert data.val is not None
    train, val = data.train.arrays(), data.val.arrays()
    num, num_val = arguments.images, arguments.val_images
    return DataModule(
        {key: values[:num] for key, values in train.items()},
        {key: values[:num_val] for key, values in val.items()},
        batch_size=arguments.batch_size,
        transform=data.transform,
    )


def accuracy(arguments: argparse.Namespace, row: str, seed: int) -> float:
    """Trains the model of a row, and returns its validation accuracy after the last epoch."""
    augmentations, is_averaged = ROWS[row]
    data = _data(arguments, augmentations)
    assert data.train.num_batches is not None
    num_steps = arguments.epochs * data.train.num_batches
    trainer = Trainer(
        AlexNet(10, image_size=arguments.image_size, in_channels=1, rngs=nnx.Rngs(seed)),
        data,
        task=Classification(label_smoothing=0.1),
        optimizer=create_optimizer("adam", 1e-3, schedule="cosine", num_steps=num_steps),
        callbacks=[EMA(arguments.decay)] if is_averaged else [],
        max_epochs=arguments.epochs,
        validate_every_n_epochs=arguments.epochs,
        seed=seed,
        log_dir=None,
        progress_bar=False,
    )
    return float(trainer.fit()[-1]["val/accuracy"])


def spread(values: list[float], baseline: list[float] | None) -> tuple[str, str, str]:
    """Returns the cells of a row: mean, range, and gain over the baseline, in percent."""
    percent = [100 * value for value in values]
    mean, ends = f"{statistics.mean(percent):.2f}", f"{min(percent):.2f} to {max(percent):.2f}"
    if baseline is None:
        return mean, ends, ""
    gains = [value - 100 * before for value, before in zip(percent, baseline, strict=True)]
    gain = f"{statistics.mean(gains):+.2f}"
    if len(gains) > 1:
        gain += f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.2f}"
    return mean, ends, gain


def main() -> None:
    arguments = _arguments()
    keep_freed_memory()
    began = time.perf_counter()
    found: dict[str, list[float]] = {row: [] for row in arguments.rows}
    for seed in range(arguments.seeds):
        for row, values in found.items():
            values.append(accuracy(arguments, row, seed))
            seconds = time.perf_counter() - began
            print(f"{seconds:6.0f} s  seed {seed}  {row}: {values[-1]:.4f}", flush=True)
    print(setting(["jax", "flax"]))
    print(
        f"AlexNet, {arguments.image_size}x{arguments.image_size}x1, {arguments.images} images of "
        f"Fashion-MNIST, {arguments.epochs} epochs, batches of {arguments.batch_size}, EMA of "
        f"{arguments.decay}"
    )
    baseline = found.get("baseline")
    rows = [
        (row, *spread(values, None if row == "baseline" else baseline), str(len(values)))
        for row, values in found.items()
    ]
    print(markdown(("row", "mean val accuracy, %", "range", "gain", "seeds"), rows))


if __name__ == "__main__":
    main()
