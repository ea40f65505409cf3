"""Measures how much faster a pretrained model reaches a validation accuracy than a new one.

    python tests/benchmarks/fine_tuning.py --run logs/fashion/version_0
    python tests/benchmarks/fine_tuning.py --root PATH  # trains the first model, too

AlexNet is trained on Fashion-MNIST (or taken from `--run`), gets a new head, and learns the digits
of scikit-learn: first the head alone, then all layers. The same model is trained from scratch with
the same optimizer. Printed are the steps and the seconds of `fit` until the validation accuracy is
reached; the model is validated after each epoch.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from flax import nnx
from turns import markdown, setting

from nnx_alexnet import AlexNet, Trainer, create_optimizer, load_checkpoint, load_data
from nnx_alexnet.callbacks import EarlyStopping


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", help="of AlexNet on Fashion-MNIST, with images of --image-size")
    parser.add_argument(
        "--root", help="the folder that holds FashionMNIST/raw, to train a model without --run"
    )
    parser.add_argument("--pretrain-epochs", type=int, default=1)
    parser.add_argument("--pretrain-steps", type=int, help="at most (default no limit)")
    parser.add_argument("--image-size", type=int, default=67)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--frozen-epochs", type=int, default=1, help="with only the head trained")
    parser.add_argument("--max-epochs", type=int, default=10, help="of each model, in all")
    parser.add_argument("--accuracy", type=float, default=0.95)
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


def _new_model(image_size: int, seed: int) -> AlexNet:
    return AlexNet(num_classes=10, image_size=image_size, in_channels=1, rngs=nnx.Rngs(seed))


def _pretrain(arguments: argparse.Namespace, folder: str) -> Path:
    data = load_data(
        "fashion_mnist", root=arguments.root, image_size=arguments.image_size, batch_size=128
    )
    trainer = Trainer(
        _new_model(arguments.image_size, 0),
        data,
        max_epochs=arguments.pretrain_epochs,
        max_steps=arguments.pretrain_steps,
        log_dir=folder,
        name="pretrained",
        progress_bar=False,
    )
    print(f"pretrained: {trainer.fit()[-1]['val/accuracy']:.4f} val accuracy on Fashion-MNIST")
    assert trainer.run_dir is not None
    return trainer.run_dir


def _fit(
    model: AlexNet, arguments: argparse.Namespace, seed: int, epochs: int, **options: Any
) -> tuple[int, float, float]:
    """Returns the steps, the seconds and the best validation accuracy of a fit."""
    data = load_data(
        "digits", image_size=arguments.image_size, batch_size=arguments.batch_size, seed=seed
    )
    reached = EarlyStopping(
        "val/accuracy", mode="max", threshold=arguments.accuracy, patience=arguments.max_epochs
    )
    trainer = Trainer(
        model,
        data,
        optimizer=create_optimizer("adam", arguments.learning_rate),
        callbacks=[reached],
        max_epochs=epochs,
        seed=seed,
        log_dir=None,
        progress_bar=False,
        **options,
    )
    began = time.perf_counter()
    history = trainer.fit()
    seconds = time.perf_counter() - began
    return trainer.global_step, seconds, max(row["val/accuracy"] for row in history)


def _scratch(arguments: argparse.Namespace, seed: int) -> tuple[int, float, float]:
    model = _new_model(arguments.image_size, seed)
    return _fit(model, arguments, seed, arguments.max_epochs)


def _tuned(run: Path, arguments: argparse.Namespace, seed: int) -> tuple[int, float, float]:
    model = _new_model(arguments.image_size, seed)
    head = nnx.state(model.dense3)
    load_checkpoint(run, model, partial=True)
    nnx.update(model.dense3, head)  # the head of the new model: the classes are others
    found = _fit(model, arguments, seed, arguments.frozen_epochs, trainable="dense3")
    rest = arguments.max_epochs - arguments.frozen_epochs
    if found[2] < arguments.accuracy and rest > 0:
        more = _fit(model, arguments, seed, rest)
        found = found[0] + more[0], found[1] + more[1], more[2]
    return found


def main() -> None:
    arguments = _arguments()
    found: dict[str, list[tuple[int, float, float]]] = {"from scratch": [], "fine-tuned": []}
    with tempfile.TemporaryDirectory() as folder:
        run = _pretrain(arguments, folder) if arguments.run is None else Path(arguments.run)
        for seed in range(arguments.seeds):
            found["from scratch"].append(_scratch(arguments, seed))
            found["fine-tuned"].append(_tuned(run, arguments, seed))
    rows = []
    for name, fits in found.items():
        steps, seconds, accuracies = zip(*fits, strict=True)
        num_reached = sum(accuracy >= arguments.accuracy for accuracy in accuracies)
        rows.append(
            (
                name,
                f"{statistics.median(steps):g}",
                f"{statistics.median(seconds):.1f}",
                f"{statistics.median(accuracies):.4f}",
                f"{num_reached} of {len(fits)}",
            )
        )
    print(setting(["jax", "flax"]))
    header = ("model", "steps", "seconds", "best val accuracy", f"reached {arguments.accuracy:g}")
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
