"""Measures the seconds from the start of a process to the end of its first train step.

    python tests/benchmarks/first_step.py

The command `nnx-alexnet fit` trains AlexNet on the digits; the peer is a plain script with the same
model, images, batch size and optimizer, but without checks, run folder, validation and
augmentation. Each runs with an empty compilation cache ("cold"), and with the cache that an
uncounted run has left ("warm"). `--what compiling` prints the seconds that JAX spent on compiling
and on reading programs from the cache instead, and `--what processor` the processor time until
then, which depends less on other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from turns import Contender, in_turns, parse, setting, table

_BEGIN = """
import json, os, sys, time

def finished(outputs):
    import jax
    jax.block_until_ready(outputs)
    figures = {
        "first-step": time.time() - float(os.environ["BEGAN"]),
        "compiling": compiled().seconds,
        "processor": time.process_time(),
    }
    open(os.environ["RESULT"], "w").write(json.dumps(figures))
    os._exit(0)
"""
_COMMAND = """
from nnx_alexnet.callbacks import RunSummary
from nnx_alexnet.cli import main
from nnx_alexnet.devices import compiled

compiled()
RunSummary.every_n_steps = 1
RunSummary.on_train_batch_end = lambda self, trainer, outputs, *_: finished(outputs)
sys.exit(main(["fit"]))
"""
_SCRIPT = """
import jax, numpy as np, optax
from flax import nnx
from nnx_alexnet.data import load_data
from nnx_alexnet.devices import compiled
from nnx_alexnet.models import AlexNet

compiled()
jax.config.update("jax_compilation_cache_dir", os.environ["XDG_CACHE_HOME"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
fields = load_data("digits", image_size=96, batch_size=32).train.arrays()
image, label = fields["image"][:32], fields["label"][:32]
model = AlexNet(10, image_size=96, in_channels=1, rngs=nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

@nnx.jit
def step(model, optimizer, image, label):
    def loss(model):
        pixels = jax.image.resize(image / 255.0, (32, 96, 96, 1), "linear")
        return optax.softmax_cross_entropy_with_integer_labels(model(pixels), label).mean()
    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value

finished(step(model, optimizer, image, label))
"""


def _run(code: str, folder: Path) -> dict[str, float]:
    """Runs code in a new process with a compilation cache, and returns its figures."""
    environment = {
        **os.environ,
        # Not the working directory, whose folder nnx_alexnet would hide the package.
        "XDG_CACHE_HOME": str(folder / "cache"),
        "RESULT": str(folder / "result.json"),
        "BEGAN": str(time.time()),
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    argv = [sys.executable, "-c", _BEGIN + code]
    subprocess.run(argv, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    figures: dict[str, float] = json.loads((folder / "result.json").read_text())
    return figures


def _measured(code: str, arguments: argparse.Namespace, *, is_warm: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        if is_warm:
            _run(code, Path(folder))
        return _run(code, Path(folder))[arguments.what]


CONTENDERS = {
    "ours-cold": Contender(
        "`nnx-alexnet fit`, cold", partial(_measured, _COMMAND, is_warm=False), is_peer=False
    ),
    "script-cold": Contender("a script, cold", partial(_measured, _SCRIPT, is_warm=False)),
    "ours-warm": Contender(
        "`nnx-alexnet fit`, warm", partial(_measured, _COMMAND, is_warm=True), is_peer=False
    ),
    "script-warm": Contender(
        "a script, warm", partial(_measured, _SCRIPT, is_warm=True), is_peer=False
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--what", choices=["first-step", "compiling", "processor"], default="first-step"
    )
    arguments = parse(parser, CONTENDERS, rounds=3)
    print(setting(["jax", "flax", "optax"]))
    values = in_turns(arguments, CONTENDERS)
    print(table(values, CONTENDERS, unit="seconds", digits=2, less_is_better=True))


if __name__ == "__main__":
    main()
