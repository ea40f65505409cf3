"""A small run in a process of its own, to be killed and started again: `resume_job.py LOGS`.

It has all that a resumed run can get wrong: BatchNorm, dropout, Adam, augmentation, shuffling, a
ragged epoch, validation, averaged weights, and a callback with state; on request also MixUp,
micro-batches, and a rate per group of parameters. The arguments after the
folder are `name=value` of `JOB`; what they name is changed.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from flax import nnx
from helpers import TinyNet, tiny_arrays
from streams import stream_of

from nnx_alexnet import DataModule, Trainer, create_optimizer
from nnx_alexnet.augmentation import MixUp
from nnx_alexnet.callbacks import EMA, Callback, EarlyStopping, ModelCheckpoint, TensorBoard
from nnx_alexnet.data import ImageTransform

JOB = {
    "epochs": 4,
    "save_every": 5,
    "step_seconds": 0.0,  # a step lasts at least so long: time for a signal
    "validation_seconds": 0.0,
    "resume": "auto",
    "num_workers": 0,
    "num_classes": 4,
    "batch_size": 16,
    "seed": 0,
    "optimizer": "adam",
    "schedule": "constant",
    "learning_rate": 0.01,
    "dtype": "",
    "num_examples": 150,
    "kill_worker_at": -1,
    "nan_at": -1,
    "check_finite": True,
    "on_error": "raise",
    "bad_sample_at": -1,
    "on_bad_sample": "raise",
    "save_on_exception": True,
    "stream": "",  # of `streams`, instead of `Examples`
    "ema": 0.9,
    "mixup": 0.0,
    "micro_batches": 1,
    "conv_rate": 0.0,  # the factor on the learning rate of the convolution; 0: one rate for all
    "pictures": False,  # whose programs take longer to compile than a step
}


class Net(TinyNet):
    """With a compute dtype, which no parameter shows."""

    def __init__(self, num_classes, *, dtype, rngs):
        super().__init__(num_classes, rngs=rngs)
        self.dense = nnx.Linear(8, num_classes, dtype=dtype, rngs=rngs)


class Examples:
    """A map-style dataset, as workers read it."""

    def __init__(self, images, labels, job, logs):
        self.images, self.targets, self.job, self.logs = images, labels, job, logs

    def __len__(self):
        return len(self.images)

    read: list[int] | None = None

    def __getitem__(self, index):
        if self.read is not None:
            self.read.append(index)
        if index == self.job["kill_worker_at"]:
            (self.logs / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.job["bad_sample_at"]:
            raise ValueError(f"the file of {index} is damaged")
        image = self.images[index]
        if self.job["nan_at"] >= 0:
            image = image.astype(np.float32) / 255
            if index == self.job["nan_at"]:
                image = image * np.nan
        noise = np.random.randint(0, 20, image.shape).astype(image.dtype)
        return image + noise, self.targets[index]


class StepLog(Callback):
    """Says on standard output what happens, and slows it down."""

    def __init__(self, job):
        self.job = job

    def on_train_start(self, trainer):
        print("start", trainer.global_step, flush=True)

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        time.sleep(self.job["step_seconds"])
        print("step", trainer.global_step, flush=True)

    def on_validation_batch_end(self, trainer, outputs, batch, batch_index):
        print("validation", trainer.global_step, flush=True)
        time.sleep(self.job["validation_seconds"])


def build(log_dir, job, callbacks=()):
    images, labels = tiny_arrays(num=job["num_examples"], num_classes=4)
    train = Examples(images, labels, job, log_dir)
    if job["stream"]:
        train = stream_of(job["stream"], images, labels, job["batch_size"])
    transform = ImageTransform(12, translate=0.2, flip=True)
    data = DataModule(
        train,
        tiny_arrays(num=40, seed=1),
        tiny_arrays(num=40, seed=2),
        batch_size=job["batch_size"],
        transform=[transform, MixUp(job["mixup"])] if job["mixup"] else transform,
        drop_last=False,
        num_workers=job["num_workers"],
        on_bad_sample=job["on_bad_sample"],
    )
    model = Net(job["num_classes"], dtype=job["dtype"] or None, rngs=nnx.Rngs(0))
    return Trainer(
        model,
        data,
        optimizer=create_optimizer(
            job["optimizer"],
            job["learning_rate"],
            schedule=job["schedule"],
            num_steps=30,
            rate_factors={"conv": job["conv_rate"]} if job["conv_rate"] else None,
        ),
        callbacks=[
            StepLog(job),
            EMA(job["ema"]),
            *callbacks,
            EarlyStopping("val/loss", patience=50),
            TensorBoard(images=job["pictures"], histograms=job["pictures"], texts=job["pictures"]),
            ModelCheckpoint(
                "val/loss",
                every_n_steps=job["save_every"],
                save_on_exception=job["save_on_exception"],
                on_error=job["on_error"],
            ),
        ],
        max_epochs=job["epochs"],
        seed=job["seed"],
        num_micro_batches=job["micro_batches"],
        check_finite=job["check_finite"],
        log_dir=log_dir,
        name="job",
        log_every_n_steps=1,
        progress_bar=False,
    )


def main():
    # A shell lets its background jobs ignore Ctrl-C, and their children inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given = dict(word.split("=", 1) for word in sys.argv[2:])
    job = {name: type(value)(given.pop(name, value)) for name, value in JOB.items()}
    assert not given, given
    trainer = build(Path(sys.argv[1]), job)
    try:
        trainer.fit(resume=job["resume"])
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        print("error", json.dumps({"type": type(error).__name__, "text": str(error)}), flush=True)
        return 1
    print("end", trainer.global_step, flush=True)
    return 130 if trainer.interrupted else 0


if __name__ == "__main__":
    raise SystemExit(main())
