"""Measures what settings of the C library's memory cost on a CPU, and what they save.

    python tests/benchmarks/host_memory.py --what compiling
    python tests/benchmarks/host_memory.py --what step

The first command prints the seconds that 16 programs take to compile in 16 threads; the second one
prints the processor time of a train step of AlexNet (96x96x1, batches of 64) in milliseconds, page
faults included. The settings are glibc's default, those of `keep_freed_memory`, and one arena for
all threads, which keeps the memory of all threads but makes them share a lock.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from turns import Contender, in_turns, parse, setting, table

_SETTINGS = {-8: 1, -4: 0, -1: 2**31 - 1, -2: 2**28}  # mallopt: M_ARENA_MAX and the other three
_WARMUP, _STEPS = 6, 24


def _compiling() -> float:
    import jax
    import jax.numpy as jnp

    def lowered(number: int) -> Any:
        def function(x: jax.Array) -> jax.Array:
            for part in range(24):
                x = jnp.sort(jnp.tanh(x @ x.T + number + part), axis=0)
            return x

        return jax.jit(function).lower(jnp.zeros((33 + number, 33 + number)))

    programs = [lowered(number) for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        began = time.perf_counter()
        list(threads.map(lambda program: program.compile(), programs))
        return time.perf_counter() - began


def _step() -> float:
    import jax
    from flax import nnx

    from nnx_alexnet import AlexNet, DataModule, Trainer
    from nnx_alexnet.callbacks import Callback

    class Clock(Callback):
        every_n_steps = _WARMUP

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            jax.block_until_ready(outputs)
            times.append(time.process_time())

    times: list[float] = []
    generator = np.random.default_rng(0)
    num = (_WARMUP + _STEPS) * 64
    images = generator.integers(0, 256, (num, 96, 96, 1), np.uint8)
    data = DataModule((images, generator.integers(0, 10, num).astype(np.int32)), batch_size=64)
    model = AlexNet(10, image_size=96, in_channels=1, rngs=nnx.Rngs(0))
    Trainer(model, data, callbacks=[Clock()], max_epochs=1, log_dir=None, progress_bar=False).fit()
    return (times[-1] - times[0]) / _STEPS * 1e3


def _measured(memory: str, arguments: argparse.Namespace) -> float:
    if memory == "one arena":
        mallopt = ctypes.CDLL(None).mallopt
        assert all(mallopt(*each) == 1 for each in _SETTINGS.items())
    elif memory == "kept":
        from nnx_alexnet.devices import keep_freed_memory

        keep_freed_memory()
    return _compiling() if arguments.what == "compiling" else _step()


CONTENDERS = {
    "default": Contender("glibc's default", partial(_measured, "default")),
    "kept": Contender("`keep_freed_memory`", partial(_measured, "kept"), is_peer=False),
    "one-arena": Contender("one arena", partial(_measured, "one arena"), is_peer=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=["compiling", "step"], default="step")
    arguments = parse(parser, CONTENDERS, rounds=3)
    print(setting(["jax", "flax"]))
    values = in_turns(arguments, CONTENDERS)
    unit = "seconds" if arguments.what == "compiling" else "milliseconds of processor time"
    print(table(values, CONTENDERS, unit=unit, digits=1, less_is_better=True))


if __name__ == "__main__":
    main()
