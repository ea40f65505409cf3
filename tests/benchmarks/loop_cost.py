"""Measures the overhead of the loop, in microseconds per step of a tiny model.

    python tests/benchmarks/loop_cost.py

A 64-64-10 MLP with BatchNorm and Dropout is trained on batches of 32 with Adam, through the public
`fit` of each library. All read the same uint8 arrays, shuffled each epoch, and scale them to 0..1.
A callback reads the clock when step `--warmup` and the last step of the epoch have finished,
results included, so start-up, compilation and the end of the run do not count. Each contender runs
in its own process with a terminal, in turns.

Ours is the Trainer with its defaults (progress bar, TensorBoard, JSON log, checkpoints) plus
`LearningRateMonitor` and `EarlyStopping`, and once more without any of them. Lightning and Keras
get the fastest form of the data: Lightning a `DataLoader` that fetches a batch by one indexing
operation, Keras the arrays. torch computes in one thread, which is faster for so small a model, and
far faster on a shared machine. Tunix is another trainer of `nnx.Module`s (`pip install
google-tunix`, which brings many packages); its `PeftTrainer` runs with its defaults, without
checkpoints and without backends for metrics.

Goal: at most 0.03 of Lightning with its progress bar, and 0.35 of the best of Keras.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from functools import partial
from typing import Any

import numpy as np
from clocks import Stopwatch
from turns import Contender, best_peer, in_turns, parse, setting, table

BATCH_SIZE = 32
FEATURES, HIDDEN, CLASSES = 64, 64, 10
SCAN = 16  # steps an execution of Keras


def _arrays(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    num = (arguments.warmup + arguments.steps) * BATCH_SIZE
    generator = np.random.default_rng(0)
    features = generator.integers(0, 256, (num, FEATURES), np.uint8)
    return features, generator.integers(0, CLASSES, num).astype(np.int32)


def _stopwatch(arguments: argparse.Namespace) -> Stopwatch:
    return Stopwatch(arguments.warmup, arguments.warmup + arguments.steps)


def build_mlp() -> Any:
    """Returns the 64-64-10 MLP with BatchNorm and Dropout, as an `nnx.Module`."""
    import jax
    from flax import nnx

    class MLP(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.hidden = nnx.Linear(FEATURES, HIDDEN, rngs=rngs)
            self.norm = nnx.BatchNorm(HIDDEN, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.logits = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.logits(self.dropout(nnx.relu(self.norm(self.hidden(x)))))

    return MLP(nnx.Rngs(0))


def ours(arguments: argparse.Namespace, *, is_bare: bool) -> float:
    import jax

    from nnx_alexnet import DataModule, Trainer, create_optimizer
    from nnx_alexnet.callbacks import Callback, EarlyStopping, LearningRateMonitor

    class Clock(Callback):
        priority = 1000
        every_n_steps = math.gcd(arguments.warmup, arguments.warmup + arguments.steps)

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            watch.finished(trainer.global_step, partial(jax.block_until_ready, outputs))

    def scaled(batch):
        return {**batch, "image": batch["image"] / 255}

    watch = _stopwatch(arguments)
    extras = [] if is_bare else [LearningRateMonitor(), EarlyStopping("train/loss")]
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            build_mlp(),
            DataModule(_arrays(arguments), batch_size=BATCH_SIZE, transform=scaled),
            optimizer=create_optimizer(),
            callbacks=[*extras, Clock()],
            max_epochs=1,
            log_dir=None if is_bare else folder,
            progress_bar=not is_bare,
        ).fit()
    return watch.microseconds()


def lightning(arguments: argparse.Namespace, *, has_bar: bool, has_log: bool) -> float:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch import nn
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    class MLP(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(FEATURES, HIDDEN),
                nn.BatchNorm1d(HIDDEN),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(HIDDEN, CLASSES),
            )

        def training_step(self, batch, batch_index):
            features, labels = batch
            loss = nn.functional.cross_entropy(self.layers(features.float() / 255), labels)
            if has_bar or has_log:
                self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-3, fused=True)

    class Clock(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
            watch.finished(batch_index + 1, outputs["loss"].item)

    torch.set_num_threads(1)
    features, labels = map(torch.from_numpy, _arrays(arguments))
    dataset = TensorDataset(features, labels.long())
    sampler = BatchSampler(RandomSampler(dataset), BATCH_SIZE, drop_last=True)
    watch = _stopwatch(arguments)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            devices=1,
            default_root_dir=folder,
            logger=TensorBoardLogger(folder) if has_log else False,
            enable_checkpointing=has_log,
            enable_progress_bar=has_bar,
            enable_model_summary=False,
            callbacks=[Clock()],
        )
        trainer.fit(MLP(), DataLoader(dataset, sampler=sampler, batch_size=None))
    return watch.microseconds()


def keras(arguments: argparse.Namespace, *, scan: int, has_bar: bool) -> float:
    import jax
    import keras as k

    class Clock(k.callbacks.Callback):
        async_safe = True  # else Keras would wait for each step before it calls this

        def on_train_batch_end(self, batch, logs=None):
            watch.finished(batch + 1, partial(jax.block_until_ready, logs))

    model = k.Sequential(
        [
            k.Input((FEATURES,), dtype="uint8"),
            k.layers.Rescaling(1 / 255),
            k.layers.Dense(HIDDEN),
            k.layers.BatchNormalization(),
            k.layers.ReLU(),
            k.layers.Dropout(0.5),
            k.layers.Dense(CLASSES),
        ]
    )
    model.compile(
        optimizer=k.optimizers.Adam(1e-3),
        loss=k.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=scan,
    )
    watch = _stopwatch(arguments)
    model.fit(*_arrays(arguments), batch_size=BATCH_SIZE, verbose=int(has_bar), callbacks=[Clock()])
    return watch.microseconds()


def tunix(arguments: argparse.Namespace, *, has_bar: bool) -> float:
    import jax.numpy as jnp
    import optax
    from tunix.sft import hooks, peft_trainer

    class Clock(hooks.TrainingHooks):
        def on_train_step_end(self, train_ctx, train_step, train_loss):
            watch.finished(train_step, lambda: None)  # the loss is a number on the host

        def on_train_start(self, train_ctx): ...
        def on_train_end(self, train_ctx): ...
        def on_train_step_start(self, train_ctx): ...
        def on_eval_step_start(self, train_ctx): ...
        def on_eval_step_end(self, train_ctx, eval_loss): ...

    def loss_of(model, features, labels):
        logits = model(features.astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def batches():
        features, labels = _arrays(arguments)
        order = np.random.default_rng(0).permutation(len(features))
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            yield {"features": features[rows], "labels": labels[rows]}

    watch = _stopwatch(arguments)
    num_steps = arguments.warmup + arguments.steps
    config = peft_trainer.TrainingConfig(
        eval_every_n_steps=num_steps, max_steps=num_steps if has_bar else None
    )
    trainer = peft_trainer.PeftTrainer(build_mlp(), optax.adam(1e-3), config)
    trainer.with_loss_fn(loss_of).with_training_hooks(Clock())
    trainer.train(batches())
    return watch.microseconds()


_LIGHTNING, _KERAS, _TUNIX = ("lightning",), ("keras",), ("tunix",)
CONTENDERS = {
    "ours": Contender("Ours, everything on", partial(ours, is_bare=False), is_peer=False),
    "ours-bare": Contender("Ours, nothing on", partial(ours, is_bare=True), is_peer=False),
    "lightning": Contender(
        "Lightning, progress bar", partial(lightning, has_bar=True, has_log=False), _LIGHTNING
    ),
    "lightning-log": Contender(
        "Lightning, progress bar, TensorBoard and checkpoints",
        partial(lightning, has_bar=True, has_log=True),
        _LIGHTNING,
    ),
    "lightning-bare": Contender(
        "Lightning, nothing on", partial(lightning, has_bar=False, has_log=False), _LIGHTNING
    ),
    "keras": Contender("Keras, progress bar", partial(keras, scan=1, has_bar=True), _KERAS),
    "keras-bare": Contender("Keras, nothing on", partial(keras, scan=1, has_bar=False), _KERAS),
    "keras-scan": Contender(
        f"Keras, progress bar, `steps_per_execution={SCAN}`",
        partial(keras, scan=SCAN, has_bar=True),
        _KERAS,
    ),
    "keras-scan-bare": Contender(
        f"Keras, nothing on, `steps_per_execution={SCAN}`",
        partial(keras, scan=SCAN, has_bar=False),
        _KERAS,
    ),
    "tunix": Contender("Tunix's `PeftTrainer`, progress bar", partial(tunix, has_bar=True), _TUNIX),
    "tunix-bare": Contender(
        "Tunix's `PeftTrainer`, nothing on", partial(tunix, has_bar=False), _TUNIX
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    # Multiples of the period of the log: so the clock's hook comes where the Trainer is on the host
    # anyway, and steps may share a dispatch as they do without it.
    parser.add_argument("--steps", type=int, default=4000, help="timed")
    parser.add_argument("--warmup", type=int, default=400, help="steps before the clock starts")
    arguments = parse(parser, CONTENDERS, rounds=5)
    if arguments.steps < 1 or arguments.steps % SCAN or arguments.warmup % SCAN:
        parser.error(f"--steps and --warmup must be multiples of {SCAN}.")
    print(setting(["jax", "flax", "torch", "lightning", "keras", "google-tunix"]))
    values = in_turns(arguments, CONTENDERS)
    print(table(values, CONTENDERS, unit="microseconds per step", less_is_better=True))
    if "ours" not in values:
        return
    own = statistics.median(values["ours"])
    if "lightning" in values:
        ratio = own / statistics.median(values["lightning"])
        print(f"Ours takes {ratio:.3f} of Lightning's time (goal: at most 0.03).")
    for library, goal in (("keras", " (goal: at most 0.35)"), ("tunix", "")):
        rows = {name: row for name, row in values.items() if name.startswith(library)}
        if (best := best_peer(rows, CONTENDERS, less_is_better=True)) is not None:
            ratio = own / statistics.median(values[best])
            print(f"Ours takes {ratio:.3f} of the time of {CONTENDERS[best].label}{goal}.")


if __name__ == "__main__":
    main()
