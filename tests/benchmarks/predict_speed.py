"""Measures images per second of `Trainer.predict`, against a bare compiled forward pass.

    python tests/benchmarks/predict_speed.py

and on a GPU, at ImageNet's size:

    python tests/benchmarks/predict_speed.py --image-size 227 --channels 3 --num-classes 1000 \\
        --batch-size 1024 --dtype bfloat16 --images 51200

The bare pass applies `jax.jit` of the model and a softmax to one slice of the uint8 images after
another, and copies the results to the host at the end. The script checks that both return the same
probabilities. AlexNet is a realistic model; a 64-64-10 MLP with batches of 64 shows the overhead.
Each process passes over the images once to compile, then `--passes` times; the fastest pass counts.
Each contender runs in its own process, in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from loop_cost import CLASSES, FEATURES, build_mlp
from training_speed import build_alexnet
from turns import Contender, in_turns, parse, setting, table

_MLP_BATCH = 64
_MLP_IMAGES = 1600 * _MLP_BATCH


def _model(name: str, arguments: argparse.Namespace) -> tuple[Any, np.ndarray, int, int]:
    """Returns a model, its uint8 examples, the batch size and the number of classes."""
    generator = np.random.default_rng(0)
    if name == "mlp":
        examples = generator.integers(0, 256, (_MLP_IMAGES, FEATURES), np.uint8)
        return build_mlp(), examples, _MLP_BATCH, CLASSES
    shape = (arguments.image_size, arguments.image_size, arguments.channels)
    examples = generator.integers(0, 256, (arguments.images, *shape), np.uint8)
    return build_alexnet(arguments), examples, arguments.batch_size, arguments.num_classes


def _bare(model: Any, images: np.ndarray, batch_size: int) -> Callable[[], np.ndarray]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graph, state = nnx.split(nnx.view(model, deterministic=True, use_running_average=True))

    @jax.jit
    def forward(state: Any, image: jax.Array) -> jax.Array:
        scale = 255 if image.ndim == 4 else 1  # as the Trainer does
        logits = nnx.merge(graph, state)(image.astype(jnp.float32) / scale)
        return jax.nn.softmax(logits.astype(jnp.float32))

    def predict() -> np.ndarray:
        starts = range(0, len(images), batch_size)
        found = [forward(state, images[start : start + batch_size]) for start in starts]
        return np.concatenate([np.asarray(each) for each in found])

    return predict


def _ours(model: Any, images: np.ndarray, batch_size: int, classes: int) -> Callable[[], Any]:
    from nnx_alexnet import DataModule, Trainer

    labels = np.arange(batch_size, dtype=np.int32) % classes
    data = DataModule((images[:batch_size], labels), batch_size=batch_size)
    trainer = Trainer(model, data, log_dir=None, progress_bar=False)
    return lambda: trainer.predict(images)


def measure(arguments: argparse.Namespace, *, name: str, is_bare: bool) -> float:
    from nnx_alexnet.devices.host_memory import keep_freed_memory

    keep_freed_memory()
    model, images, batch_size, classes = _model(name, arguments)
    bare = _bare(model, images, batch_size)
    ours = _ours(model, images, batch_size, classes)
    if not np.allclose(bare()[:batch_size], ours()[:batch_size], atol=1e-2):
        raise SystemExit("`Trainer.predict` and the bare pass differ.")
    predict = bare if is_bare else ours
    seconds = []
    for _ in range(arguments.passes):
        began = time.perf_counter()
        predict()
        seconds.append(time.perf_counter() - began)
    return len(images) / min(seconds)


CONTENDERS = {
    "alexnet": Contender(
        "AlexNet, `Trainer.predict`",
        partial(measure, name="alexnet", is_bare=False),
        is_peer=False,
    ),
    "alexnet-bare": Contender(
        "AlexNet, bare `jax.jit`", partial(measure, name="alexnet", is_bare=True)
    ),
    "mlp": Contender(
        "MLP, `Trainer.predict`", partial(measure, name="mlp", is_bare=False), is_peer=False
    ),
    "mlp-bare": Contender("MLP, bare `jax.jit`", partial(measure, name="mlp", is_bare=True)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--num-classes", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--images", type=int, default=640, help="number for AlexNet")
    parser.add_argument("--passes", type=int, default=5, help="timed passes per process")
    arguments = parse(parser, CONTENDERS, rounds=3)
    if arguments.images < 1 or arguments.images % arguments.batch_size:
        parser.error(f"--images must be a multiple of --batch-size (={arguments.batch_size}).")
    print(setting(["jax", "flax"]))
    size, channels = arguments.image_size, arguments.channels
    print(
        f"AlexNet, {size}x{size}x{channels}, {arguments.num_classes} classes, batches of "
        f"{arguments.batch_size}, {arguments.dtype}; MLP, batches of {_MLP_BATCH}"
    )
    values = in_turns(arguments, CONTENDERS)
    for name in ("alexnet", "mlp"):
        rows = {key: row for key, row in values.items() if key.startswith(name)}
        if rows:
            print(table(rows, CONTENDERS, unit="images per second", less_is_better=False))


if __name__ == "__main__":
    main()
