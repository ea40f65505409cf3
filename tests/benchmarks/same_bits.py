"""Prints digests of many runs, to prove that a change of the code has changed none of their bits.

    python tests/benchmarks/same_bits.py > before.txt      # then change the code
    python tests/benchmarks/same_bits.py > after.txt; diff before.txt after.txt

Each line names a run, followed by digests of its final parameters and statistics, of its history,
of what `test` and `predict` return, and of its step log and newest checkpoint (parameters,
optimizer, position). Times and speeds are left out. The lines repeat on one machine with the same
library versions; another kind of processor may round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # not where tests import this file: they have settings of their own
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    tests = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(tests.parent), str(tests)]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])

import jax
import numpy as np
from flax import nnx
from helpers import Dense, TinyNet, tiny_arrays
from jobs import Job, run_dir, run_here, run_processes

from nnx_alexnet import AlexNet, DataModule, Trainer, create_optimizer
from nnx_alexnet.callbacks import EarlyStopping, ModelCheckpoint, TensorBoard
from nnx_alexnet.checkpoints import verify_checkpoints
from nnx_alexnet.data import ImageTransform
from nnx_alexnet.devices.named_arrays import named_leaves, on_host
from nnx_alexnet.optimizers import OPTIMIZERS

# Metrics that differ from run to run.
_CHANGING = ("perf/", "time", "seconds")


class Split(nnx.Module):
    """A layer that a mesh splits by its axis `model`."""

    def __init__(self) -> None:
        columns = {"out_sharding": (None, "model"), "eager_sharding": False}
        self.dense = nnx.Linear(64, 4, kernel_metadata=columns, rngs=nnx.Rngs(0))

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.dense(image.reshape(len(image), -1))


def digest(value: Any) -> str:
    """Returns a digest of nested numbers and arrays, without times and speeds."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()[:12]


def _parts(value: Any) -> Any:
    if isinstance(value, dict):
        for name, inner in value.items():
            if not name.startswith(_CHANGING):
                yield name.encode()
                yield from _parts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _parts(inner)
    elif isinstance(value, nnx.Module):
        yield from _parts({name: on_host(leaf) for name, leaf in named_leaves(value).items()})
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode() + value.tobytes()
    else:
        yield repr(value).encode()


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Returns the step log of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def newest(folder: Path) -> str:
    """Returns the digest of the training state in the newest checkpoint."""
    rows = [row for row in verify_checkpoints(folder) if "digest" in row]
    return str(max(rows, key=lambda row: row["step"])["digest"])[:12]


def split(**arguments: Any) -> DataModule:
    """Returns data with ragged batches in all splits, and augmentation."""
    arguments = {"drop_last": False, "batch_size": 16, **arguments}
    size = arguments.pop("size", 8)
    arrays = [tiny_arrays(num=num, seed=seed, size=size) for seed, num in enumerate((70, 37, 29))]
    return DataModule(*arrays, transform=ImageTransform(translate=0.2, flip=True), **arguments)


def trained(
    model: nnx.Module, data: DataModule, folder: Path, optimizer: Any = None, **arguments: Any
) -> list[str]:
    """Trains three epochs, evaluates and predicts; returns the digests."""
    quiet = TensorBoard(images=False, histograms=False, texts=False)
    callbacks = [quiet, EarlyStopping("val/loss"), ModelCheckpoint(every_n_steps=4)]
    trainer = Trainer(
        model, data, max_epochs=3, optimizer=optimizer, callbacks=callbacks, log_dir=folder,
        log_every_n_steps=3, progress_bar=False, **arguments,
    )  # fmt: skip
    history = trainer.fit()
    applied = [trainer.test(), np.asarray(trainer.predict())]
    run = trainer.run_dir
    return [digest(model), digest(list(history)), digest(applied), digest(log_of(run)), newest(run)]


def optimizer_run(name: str) -> Callable[[Path], list[str]]:
    """Returns a run with one of the command's optimizers, a schedule and clipping."""

    def run(folder: Path) -> list[str]:
        is_free = name.startswith("schedule_free")  # these accept a warm-up only
        schedule = {"warmup_steps": 3} if is_free else {"schedule": "cosine", "num_steps": 15}
        arguments = {**schedule, "clip_norm": 1.0}
        return trained(Dense(), split(), folder, create_optimizer(name, 0.01, **arguments))

    return run


def alexnet(folder: Path, **arguments: Any) -> list[str]:
    arguments |= {"num_classes": 4, "image_size": 67, "in_channels": 1}
    model = AlexNet(**arguments, rngs=nnx.Rngs(0))
    data = DataModule(*(tiny_arrays(num=16, seed=seed, size=67) for seed in range(3)), batch_size=8)
    return trained(model, data, folder)


def iterable(folder: Path) -> list[str]:
    images, labels = tiny_arrays(num=70)
    ends = [0, 16, 24, 40, 70]
    batches = [(images[a:b], labels[a:b]) for a, b in itertools.pairwise(ends)]
    rest = [tiny_arrays(num=37, seed=1), tiny_arrays(num=29, seed=2)]
    return trained(Dense(), DataModule(batches, *rest), folder)


def resumed(folder: Path) -> list[str]:
    """Stops twice, once within an epoch, and resumes from the checkpoint of every fifth step."""
    for step in (7, 23):
        run_here(folder, stop_after=step)
    trainer = run_here(folder, num_workers=1)
    run = run_dir(folder)
    return [digest(trainer.model), digest(list(trainer.history)), digest(log_of(run)), newest(run)]


def signalled(folder: Path) -> list[str]:
    """Is ended by SIGTERM in the middle of an epoch, and resumed."""
    job = Job(folder, step_seconds=0.05)
    job.wait_for("step", 13)
    os.kill(job.process.pid, signal.SIGTERM)
    assert job.end() == 143, job.errors
    trainer = run_here(folder)
    run = run_dir(folder)
    return [digest(trainer.model), digest(list(trainer.history)), digest(log_of(run)), newest(run)]


def two_processes(folder: Path) -> list[str]:
    first, second = run_processes(folder, applied=True)
    assert digest(first["parameters"]) == digest(second["parameters"])
    names = "parameters", "history", "test", "predictions"
    return [digest(first[name]) for name in names] + [newest(folder / "logs/run/version_0")]


def tiny(**arguments: Any) -> Callable[[Path], list[str]]:
    """Returns a run of a network with convolution, BatchNorm and dropout."""
    data = {k: arguments.pop(k) for k in ("keep_on_device",) if k in arguments}
    return lambda folder: trained(
        TinyNet(4, rngs=nnx.Rngs(0)), split(**data), folder, **{"devices": 1, **arguments}
    )


def dense(**arguments: Any) -> Callable[[Path], list[str]]:
    """Returns a run of a network that several steps of one dispatch train."""
    return lambda folder: trained(Dense(), split(), folder, **{"devices": 1, **arguments})


RUNS: dict[str, Callable[[Path], list[str]]] = {
    **{f"optimizer {name}": optimizer_run(name) for name in sorted(OPTIMIZERS)},
    "defaults": tiny(),
    "data sent batch by batch": tiny(keep_on_device=False),
    "one step per dispatch": dense(steps_per_execution=1),
    "many steps per dispatch": dense(steps_per_execution=64),
    "seed 1": tiny(seed=1),
    "batches of several sizes": iterable,
    "eight devices": lambda folder: trained(Dense(), split(), folder, devices=8),
    "mesh of 2 x 2, state split": lambda folder: trained(
        Split(), split(), folder, devices={"data": 2, "model": 2}, shard_state=True
    ),
    "AlexNet": alexnet,
    "AlexNet bfloat16": lambda folder: alexnet(folder, dtype="bfloat16"),
    "stopped twice and resumed": resumed,
    "SIGTERM and resumed": signalled,
    "two processes": two_processes,
}


def main() -> None:
    """Prints the digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="Part of the names of the runs (default: all runs).")
    only = parser.parse_args().only
    jax.config.update("jax_default_device", jax.devices()[0])
    os.environ["XLA_FLAGS"] = ""  # a program that a run starts has one device
    for name, run in RUNS.items():
        if only is None or only in name:
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
                digests = run(Path(folder))
            print(f"{name:<28}", *digests, flush=True)


if __name__ == "__main__":
    main()
