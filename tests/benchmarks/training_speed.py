"""Measures images per second when training AlexNet, through `fit` and against PyTorch.

    python tests/benchmarks/training_speed.py

and on a GPU, at ImageNet's size:

    python tests/benchmarks/training_speed.py --image-size 227 --channels 3 --num-classes 1000 \\
        --batch-size 1024 --dtype bfloat16 --steps 50 --epochs 3

All have the same layers including BatchNorm and dropout, Adam at 1e-3, and synthetic uint8 images
that each scales to 0..1. PyTorch runs eagerly in its own loop, with channels_last memory, fused
Adam and, for bfloat16, autocast; its data are on the device, which is its best case. On a GPU it
is also compiled with `torch.compile`. Lightning and Keras train through their `fit`, without
progress bars, loggers and checkpoints. So does our Trainer, with `keep_freed_memory` as on the
command line, and once more with a callback whose batch hook runs every 10 steps and ignores the
batch. An epoch is timed from the end of the previous one to its own end, results included. The
result is the median over `--epochs` epochs; the first one, which includes compilation, does not
count. Only hooks at the end of an epoch read the clock, so they do not change how the loop runs.
Each contender runs in its own process, in turns.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from typing import Any

import numpy as np
from clocks import Epochs
from turns import Contender, accelerators, in_turns, parse, setting, table

_DISTINCT = 4  # batches of random images; they repeat


def _arrays(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    size, num_steps = arguments.batch_size, arguments.steps
    shape = (arguments.image_size, arguments.image_size, arguments.channels)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (_DISTINCT * size, *shape), np.uint8)
    images = np.tile(images, (math.ceil(num_steps / _DISTINCT), 1, 1, 1))[: num_steps * size]
    labels = generator.integers(0, arguments.num_classes, len(images))
    return images, labels.astype(np.int32)


def build_alexnet(arguments: argparse.Namespace) -> Any:
    """Returns the AlexNet that a benchmark's options describe."""
    from flax import nnx

    from nnx_alexnet import AlexNet

    return AlexNet(
        arguments.num_classes,
        image_size=arguments.image_size,
        in_channels=arguments.channels,
        dtype=arguments.dtype,
        rngs=nnx.Rngs(0),
    )


def _rate(epochs: Epochs, arguments: argparse.Namespace) -> float:
    return arguments.steps * arguments.batch_size / epochs.median()


def ours(arguments: argparse.Namespace, *, has_hook: bool) -> float:
    import optax

    from nnx_alexnet import DataModule, Trainer
    from nnx_alexnet.callbacks import Callback
    from nnx_alexnet.devices.host_memory import keep_freed_memory

    class Clock(Callback):
        def on_train_epoch_end(self, trainer):  # the metrics of the epoch have been read
            epochs.ended()

    class Idle(Callback):
        every_n_steps = 10

        def on_train_batch_end(self, trainer, outputs, batch, batch_index): ...

    keep_freed_memory()
    epochs = Epochs()
    Trainer(
        build_alexnet(arguments),
        DataModule(_arrays(arguments), batch_size=arguments.batch_size),
        optimizer=optax.adam(1e-3),
        callbacks=[Clock(), Idle()] if has_hook else [Clock()],
        max_epochs=1 + arguments.epochs,
        log_dir=None,
        progress_bar=False,
    ).fit()
    return _rate(epochs, arguments)


def _side(image_size: int) -> int:
    """The height and width after the last pool."""
    for window, stride in ((11, 4), (3, 2), (3, 2), (3, 2)):
        image_size = (image_size - window) // stride + 1
    return image_size


def torch_model(*, channels: int, num_classes: int, image_size: int) -> Any:
    import torch
    from torch import nn

    def block(inputs: int, outputs: int, window: int, stride: int = 1, padding: int = 0):
        convolution = nn.Conv2d(inputs, outputs, window, stride, padding)
        return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)

    def dense(inputs: int, outputs: int):
        return nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout(0.5)

    model = nn.Sequential(
        *block(channels, 96, 11, stride=4),
        nn.MaxPool2d(3, 2),
        *block(96, 256, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *block(256, 384, 3, padding=1),
        *block(384, 384, 3, padding=1),
        *block(384, 256, 3, padding=1),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        *dense(_side(image_size) ** 2 * 256, 4096),
        *dense(4096, 4096),
        nn.Linear(4096, num_classes),
    )
    return model.to(memory_format=torch.channels_last)


def _torch_model(arguments: argparse.Namespace) -> Any:
    return torch_model(
        channels=arguments.channels,
        num_classes=arguments.num_classes,
        image_size=arguments.image_size,
    )


def _torch_tensors(arguments: argparse.Namespace) -> tuple[Any, Any]:
    import torch

    images, labels = map(torch.from_numpy, _arrays(arguments))
    # NHWC in memory, seen as NCHW: what channels_last means.
    return images.permute(0, 3, 1, 2), labels.long()


def pytorch(arguments: argparse.Namespace, *, is_compiled: bool) -> float:
    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _torch_model(arguments).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    images, labels = (tensor.to(device) for tensor in _torch_tensors(arguments))

    def loss_of(image, label):
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            return torch.nn.functional.cross_entropy(model(image.float() / 255), label)

    if is_compiled:
        loss_of = torch.compile(loss_of)
    epochs = Epochs()
    for _ in range(1 + arguments.epochs):
        order = torch.randperm(len(images), device=device)
        for rows in order.split(arguments.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(images[rows], labels[rows])
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        epochs.ended()
    return _rate(epochs, arguments)


def lightning(arguments: argparse.Namespace) -> float:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = _torch_model(arguments)

        def training_step(self, batch, batch_index):
            image, label = batch
            return torch.nn.functional.cross_entropy(self.layers(image.float() / 255), label)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-3, fused=True)

    class Clock(Callback):
        def on_train_epoch_end(self, trainer, module):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            epochs.ended()

    torch.set_float32_matmul_precision("high")
    dataset = TensorDataset(*_torch_tensors(arguments))
    sampler = BatchSampler(RandomSampler(dataset), arguments.batch_size, drop_last=True)
    loader = DataLoader(
        dataset, sampler=sampler, batch_size=None, pin_memory=torch.cuda.is_available()
    )
    epochs = Epochs()
    trainer = Trainer(
        max_epochs=1 + arguments.epochs,
        devices=1,
        precision="bf16-mixed" if arguments.dtype == "bfloat16" else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    )
    trainer.fit(Model(), loader)
    return _rate(epochs, arguments)


def keras(arguments: argparse.Namespace) -> float:
    import keras as k

    class Clock(k.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):  # the logs are numbers on the host
            epochs.ended()

    def block(filters: int, window: int, strides: int = 1, padding: str = "same"):
        convolution = k.layers.Conv2D(filters, window, strides, padding)
        return convolution, k.layers.BatchNormalization(momentum=0.9), k.layers.ReLU()

    def dense():
        return k.layers.Dense(4096, activation="relu"), k.layers.Dropout(0.5)

    if arguments.dtype == "bfloat16":
        k.mixed_precision.set_global_policy("mixed_bfloat16")
    shape = (arguments.image_size, arguments.image_size, arguments.channels)
    model = k.Sequential(
        [
            k.Input(shape, dtype="uint8"),
            k.layers.Rescaling(1 / 255),
            *block(96, 11, strides=4, padding="valid"),
            k.layers.MaxPooling2D(3, 2),
            *block(256, 5),
            k.layers.MaxPooling2D(3, 2),
            *block(384, 3),
            *block(384, 3),
            *block(256, 3),
            k.layers.MaxPooling2D(3, 2),
            k.layers.Flatten(),
            *dense(),
            *dense(),
            k.layers.Dense(arguments.num_classes, dtype="float32"),
        ]
    )
    model.compile(
        optimizer=k.optimizers.Adam(1e-3),
        loss=k.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    epochs = Epochs()
    model.fit(
        *_arrays(arguments),
        batch_size=arguments.batch_size,
        epochs=1 + arguments.epochs,
        verbose=0,
        callbacks=[Clock()],
    )
    return _rate(epochs, arguments)


CONTENDERS = {
    "ours": Contender("Ours, `Trainer.fit`", partial(ours, has_hook=False), is_peer=False),
    "ours-hook": Contender(
        "Ours, with a hook every 10 steps that ignores its batch",
        partial(ours, has_hook=True),
        is_peer=False,
    ),
    "torch": Contender("PyTorch, eager", partial(pytorch, is_compiled=False), ("torch",)),
    "torch-compiled": Contender(
        "PyTorch, compiled", partial(pytorch, is_compiled=True), ("torch",)
    ),
    "lightning": Contender("Lightning, `Trainer.fit`", lightning, ("lightning",)),
    "keras": Contender("Keras on JAX, `fit`", keras, ("keras",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--num-classes", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=12, help="per epoch")
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs, after the first one")
    parser.add_argument("--compiled", action="store_true", help="PyTorch compiled on a CPU, too")
    arguments = parse(parser, CONTENDERS, rounds=5)
    if not (arguments.compiled or accelerators()) and "torch-compiled" in arguments.contenders:
        arguments.contenders.remove("torch-compiled")
    print(setting(["jax", "flax", "torch", "lightning", "keras"]))
    size, channels = arguments.image_size, arguments.channels
    print(
        f"AlexNet, {size}x{size}x{channels}, {arguments.num_classes} classes, "
        f"batches of {arguments.batch_size}, {arguments.dtype}"
    )
    values = in_turns(arguments, CONTENDERS)
    print(table(values, CONTENDERS, unit="images per second", less_is_better=False))


if __name__ == "__main__":
    main()
