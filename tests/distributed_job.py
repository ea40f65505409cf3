"""One of several processes of a run: `distributed_job.py FOLDER ID OPTIONS`.

test_distributed.py starts it. OPTIONS is JSON; the process writes a report to `FOLDER/<ID>.json`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from nnx_alexnet import initialize_distributed

folder, number, options = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
if options.get("port"):
    initialize_distributed(
        f"127.0.0.1:{options['port']}",
        options.get("processes", 2),
        number,
        timeout=60,
        heartbeat_timeout=10,
    )

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402
from helpers import Dense, TinyNet, tiny_arrays  # noqa: E402
from worker_datasets import Stripes  # noqa: E402

from nnx_alexnet import (  # noqa: E402
    BinaryClassification,
    Classification,
    DataModule,
    Trainer,
    create_optimizer,
)
from nnx_alexnet.callbacks import (  # noqa: E402
    BETWEEN_DISPATCHES,
    Callback,
    ModelCheckpoint,
    ReduceLROnPlateau,
    Timer,
)
from nnx_alexnet.data import ImageTransform  # noqa: E402


class SplitNet(nnx.Module):
    """Two layers split over the mesh axis `model`, with dropout between."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        columns = {"out_sharding": (None, "model"), "eager_sharding": False}
        rows = {"out_sharding": ("model", None), "eager_sharding": False}
        self.first = nnx.Linear(64, 32, kernel_metadata=columns, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.second = nnx.Linear(32, 4, kernel_metadata=rows, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = nnx.relu(self.first(image.reshape(len(image), -1)))
        return self.second(self.dropout(x))


class Witness(Callback):
    """Records the examples and outputs that this process receives."""

    def __init__(self) -> None:
        self.train: list[list[int]] = []
        self.val: list[list[int]] = []
        self.outputs: list[int] = []
        self.predicted: dict[int, list[float]] = {}

    def on_train_epoch_start(self, trainer):
        self.train.append([])

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.train[-1] += batch["index"][batch["mask"]].tolist()

    def on_validation_epoch_start(self, trainer):
        self.val.append([])

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        self.val[-1] += batch["index"][batch["mask"]].tolist()
        self.outputs.append(len(outputs["loss"]))

    def on_predict_batch_end(self, trainer, outputs, batch, batch_index):
        own = np.asarray(outputs)[batch["mask"]].tolist()
        self.predicted |= dict(zip(batch["index"][batch["mask"]].tolist(), own, strict=True))


class Meddler(Callback):
    """Does something in only one process, at a step."""

    def __init__(self, what: str, step: int, process: int = 1, clock: bool = False) -> None:
        self.what, self.step, self.process, self.clock = what, step, process, clock

    @property
    def batch_period(self) -> int:
        return BETWEEN_DISPATCHES if self.clock else 1

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        is_mine = jax.process_index() == self.process and " " not in self.what
        if is_mine and trainer.global_step >= self.step and self.what:
            what, self.what = self.what, ""
            self._do(what, trainer)

    def on_train_epoch_end(self, trainer):
        if jax.process_index() == self.process and self.what == "epoch stop":
            self._do("stop", trainer)

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        if jax.process_index() == self.process and self.what == "validation SIGTERM":
            self.what = ""
            self._do("SIGTERM", trainer)

    def on_fit_end(self, trainer):
        if jax.process_index() == self.process and self.what.startswith("late "):
            what, self.what = self.what.removeprefix("late "), ""
            self._do(what, trainer)

    def _do(self, what, trainer):
        if what == "stop":
            trainer.stop("I have seen enough")
        elif what == "save":
            trainer.request_checkpoint()
        elif what == "fail":
            raise ZeroDivisionError("only here")
        else:
            os.kill(os.getpid(), getattr(signal, what))
            time.sleep(0.01)  # so that the handler runs before the next line


class Slow(Callback):
    """Leaves time to kill this process."""

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        (folder / f"{number}.step").write_text(str(trainer.global_step))
        time.sleep(options["pause"])


class StepTimer(Timer):
    """A timer whose clock counts steps in the first process, and is far ahead in the other one."""

    step = 0

    @property
    def elapsed(self) -> float:
        return float(self.step) if number == 0 else 1e9

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        self.step = trainer.global_step
        super().on_train_batch_end(trainer, outputs, batch, batch_index)


class Binary(nnx.Module):
    """One logit per example."""

    def __init__(self) -> None:
        self.dense = nnx.Linear(64, 1, rngs=nnx.Rngs(0))

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.dense(image.reshape(len(image), -1) / 255)


def binary_results() -> dict[str, object]:
    """Validates a model with one logit; the labels are whether the class is odd."""
    images, labels = tiny_arrays(num=37, seed=1)
    split = (images, labels % 2)
    task = BinaryClassification(metrics=("auroc",))
    trainer = Trainer(
        Binary(), DataModule(split, split, batch_size=16), task=task, log_dir=None,
        progress_bar=False,
    )  # fmt: skip
    return {**trainer.validate(), "predictions": trainer.predict(images).tolist()}


def main() -> None:
    size = options.get("val", 37)
    val = tiny_arrays(num=size, seed=1)
    images, labels = tiny_arrays(num=options.get("num", 64))
    if (bad := options.get("nan")) is not None:
        images = images.astype(np.float32)
        images[bad] = np.nan
    if options.get("iterable"):
        val = [(val[0][:8], val[1][:8])]
    data = DataModule(
        Stripes() if (workers := options.get("workers", 0)) else (images, labels),
        val,
        tiny_arrays(num=29, seed=2),
        batch_size=16,
        transform=ImageTransform(translate=0.1, flip=True),
        keep_on_device=options.get("keep_on_device", "auto"),
        num_workers=workers,
        drop_last=options.get("drop_last", True),
    )
    rngs = nnx.Rngs(options.get("model_seeds", [0, 0])[number])
    kind = options.get("model", "tiny")
    model = {"tiny": lambda: TinyNet(4, rngs=rngs), "split": lambda: SplitNet(rngs)}.get(
        kind, Dense
    )()
    witness = Witness()
    callbacks = [ModelCheckpoint(**options.get("checkpoint", {}))]
    callbacks += [witness] if options.get("witness") else []
    callbacks += [Meddler(**options["meddler"])] if "meddler" in options else []
    callbacks += [Slow()] if "pause" in options else []
    rate = options.get("rates", [0.01, 0.01])[number]
    optimizer = optax.sgd(rate, momentum=0.9)
    if "timer" in options:
        optimizer = create_optimizer("sgd", rate)
        # No loss improves by so much: the rate is next to 0 after the second epoch.
        falling = ReduceLROnPlateau("val/loss", min_delta=100.0, patience=1, factor=1e-6)
        callbacks += [StepTimer(options["timer"]), falling]
    trainer = Trainer(
        model,
        data,
        task=Classification(metrics=("auroc",) if "timer" in options else ()),
        optimizer=optimizer,
        callbacks=callbacks,
        max_epochs=options.get("epochs", 2),
        log_dir=folder / "logs",
        name="run",
        log_every_n_steps=2,
        shard_state=options.get("shard_state", False),
        devices=options.get("devices_argument", "auto"),
    )
    results: dict[str, object] = {}

    def report() -> None:
        results.update(
            step=trainer.global_step,
            stop_reason=trainer.stop_reason,
            interrupted=trainer.interrupted,
            train=witness.train,
            val=witness.val,
            outputs=witness.outputs,
            predicted=witness.predicted,
            saved=trainer.checkpoints is not None,
            compilations=trainer.num_compilations,
        )
        (folder / f"{number}.json").write_text(json.dumps(results))

    try:
        results["history"] = trainer.fit(resume=options.get("resume", "never"))
        if options.get("twice"):
            trainer.fit()
        if options.get("applied"):
            results["test"] = trainer.test()
            predictions = trainer.predict()
            results["predictions"] = [*predictions.shape, float(np.square(predictions).sum())]
        if "timer" in options:
            results["probabilities"] = trainer.predict(val[0]).tolist()
            results["binary"] = binary_results()
    except FloatingPointError as error:
        results["caught"] = str(error)
        trainer.validate()  # the processes must still be able to work together
    else:
        parameters = {n: trainer.placement.whole(p) for n, p in trainer.parameters().items()}
        results["parameters"] = {n: np.asarray(p).ravel().tolist() for n, p in parameters.items()}
    finally:
        report()


if __name__ == "__main__":
    main()
