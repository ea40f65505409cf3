"""Reads from the compiled step what several devices send to each other in a step of AlexNet.

    python tests/benchmarks/compiled_programs/scaling.py

For 1, 2, 4 and 8 devices, a separate process trains AlexNet through `Trainer.fit` in each way of
dividing the work: `data` (the batch is split), `model` (the layers are split), `sharded` (batch and
state are split, `shard_state=True`) and `mixed` (a mesh of 2 x N/2). The devices are the first N
NVIDIA GPUs if there are any. Otherwise they are `--xla_force_host_platform_device_count=N`, which
share the processor's cores: their images per second show that training works, not how it scales.

The results are the collectives of the compiled step with their bytes, read from its HLO, and the
memory per device. `divided` counts the bytes right after XLA has partitioned the program, before
the passes of a backend; the CPU's passes turn what is sent as bfloat16 into float32. On a CPU, the
HLO is that of a step with plain convolutions, as accelerators use them, because the Fourier form of
`nnx_alexnet.models.convolutions` sends gradients as frequencies, which are larger than the kernels.

To compile only, at ImageNet's size:

    python tests/benchmarks/compiled_programs/scaling.py --image-size 227 --channels 3 \\
        --num-classes 1000 --batch-size 64 --dtype bfloat16 --windows 0 --devices 2 8

`--h100` compiles the same for H100s that need not be present (see programs.py).
scaling_arithmetic.py computes what the results predict for GPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `turns`

from programs import (
    H100_ENVIRONMENT,
    KINDS,
    collectives,
    compiled_step,
    described,
    h100s,
)
from training_speed import build_alexnet
from turns import accelerators, markdown, setting

WAYS = ("data", "model", "sharded", "mixed")
_MB = 1e6

# ---- One way, in a process of its own ------------------------------------------------------------


def _placement(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the Trainer arguments that divide the work."""
    import jax

    num = arguments.num_devices
    devices = h100s(num) if arguments.h100 else np.array(jax.devices()[:num])
    sizes = {"model": (1, num), "mixed": (2, num // 2)}.get(arguments.way, (num, 1))
    mesh = jax.sharding.Mesh(devices.reshape(sizes), ("data", "model"))
    return {"devices": mesh, "shard_state": arguments.way == "sharded"}


def _trainer(arguments: argparse.Namespace, callbacks: Sequence[Any]) -> Any:
    import optax

    from nnx_alexnet import DataModule, Trainer

    generator = np.random.default_rng(0)
    shape = (arguments.image_size, arguments.image_size, arguments.channels)
    num = 4 * arguments.batch_size
    images = generator.integers(0, 256, (num, *shape), np.uint8)
    labels = generator.integers(0, arguments.num_classes, num).astype(np.int32)
    return Trainer(
        build_alexnet(arguments),
        DataModule((images, labels), batch_size=arguments.batch_size, keep_on_device=True),
        optimizer=optax.adam(1e-3),
        callbacks=callbacks,
        max_steps=arguments.warmup + arguments.windows * arguments.steps,
        log_dir=None,
        progress_bar=False,
        **_placement(arguments),
    )


def _compiled(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compiles the step without running it, and returns its collectives and memory."""
    import jax

    with described() if arguments.h100 else contextlib.nullcontext():
        compiled, state = compiled_step(_trainer(arguments, ()))
    divided = sorted(folder.glob("*jit_train.*after_spmd-partitioning*.txt"))
    memory = compiled.memory_analysis()
    held = [
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(state)
    ]
    return {
        "collectives": collectives(compiled.as_text()),
        "divided": collectives(divided[-1].read_text()) if divided else {},
        "state_bytes": sum(held),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
    }


def _timed(arguments: argparse.Namespace) -> list[float]:
    """Returns the images per second of each window of steps of a `fit`."""
    import jax

    from nnx_alexnet.callbacks import Callback

    ends: list[float] = []

    class Clock(Callback):
        every_n_steps = math.gcd(arguments.warmup, arguments.steps)

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            past = trainer.global_step - arguments.warmup
            if past >= 0 and past % arguments.steps == 0:
                jax.block_until_ready(outputs)
                ends.append(time.perf_counter())

    _trainer(arguments, [Clock()]).fit()
    images = arguments.steps * arguments.batch_size
    return [images / seconds for seconds in np.diff(ends)]


def _measure(arguments: argparse.Namespace) -> None:
    from nnx_alexnet.devices.host_memory import keep_freed_memory

    keep_freed_memory()
    found = {} if arguments.only_timed else _compiled(arguments, arguments.result.parent)
    found["images_per_second"] = _timed(arguments) if arguments.windows else []
    arguments.result.write_text(json.dumps(found))


def _in_process(way: str, devices: int, *, is_first: bool) -> dict[str, Any]:
    """Runs this script once more, for one way and number of devices, and returns its result."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [os.environ.get("XLA_FLAGS", "")]
        if is_first:
            flags += [f"--xla_dump_to={folder}", "--xla_dump_hlo_module_re=jit_train"]
            flags += ["--xla_dump_hlo_pass_re=spmd.*"]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        if "--h100" in sys.argv:
            environment |= H100_ENVIRONMENT
            flags.append(H100_ENVIRONMENT["XLA_FLAGS"])
        elif not accelerators():
            flags.append(f"--xla_force_host_platform_device_count={devices}")
            environment.setdefault("JAX_PLATFORMS", "cpu")
        environment["XLA_FLAGS"] = " ".join(flags)
        result = Path(folder, "result.json")
        argv = [sys.executable, *sys.argv, "--way", way, "--num-devices", str(devices)]
        argv += ["--result", str(result), *([] if is_first else ["--only-timed"])]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not result.exists():
            raise SystemExit(f"{done.stderr[-4000:]}\n{way} on {devices} devices failed.")
        measured: dict[str, Any] = json.loads(result.read_text())
        return measured


def _cases(arguments: argparse.Namespace) -> list[tuple[int, str]]:
    """Returns devices and ways; on one device all ways are one, and 2 x 1 is no mixture."""
    cases = []
    for devices in arguments.devices:
        ways = [way for way in arguments.ways if way != "mixed" or devices >= 4]
        cases += [(devices, way) for way in (ways if devices > 1 else ways[:1])]
    return cases


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    def amounts(found: Mapping[str, Any], kind: str) -> str:
        num, size = found.get(kind, (0, 0))
        return f"{num}: {size / _MB:,.2f}" if num else "0"

    rows = []
    for result in results:
        speeds, found = result["images_per_second"], result["collectives"]
        others = {kind: found[kind] for kind in KINDS[2:] if kind in found}
        divided = sum(size for _, size in result["divided"].values())
        temporary = result["temporary_bytes"]
        rows.append(
            [
                str(result["devices"]),
                result["way"] if result["devices"] > 1 else "alone",
                f"{max(speeds):.0f}, {statistics.median(speeds):.0f}" if speeds else "",
                amounts(found, "all-reduce"),
                amounts(found, "all-gather"),
                ", ".join(f"{kind} {amounts(others, kind)}" for kind in others) or "0",
                f"{divided / _MB:,.2f}",
                f"{result['state_bytes'] / _MB:,.1f}",
                "" if temporary is None else f"{temporary / _MB:,.1f}",
            ]
        )
    header = [
        "devices",
        "way",
        "images/s: fastest, median",
        "all-reduce: number, MB",
        "all-gather",
        "others",
        "all as divided, MB",
        "state, MB per device",
        "temporary, MB per device",
    ]
    return markdown(header, rows)


# ---- The command ---------------------------------------------------------------------------------


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `_in_process` looks for `--h100` itself
    )
    positive = partial(parser.add_argument, type=int)
    positive("--devices", nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    positive("--image-size", default=96)
    positive("--channels", default=1)
    positive("--num-classes", default=10)
    positive("--batch-size", default=32, help="of all devices together")
    parser.add_argument("--dtype", default="float32", help="what the layers compute in")
    positive("--warmup", default=2, help="steps before the clock starts")
    positive("--steps", default=2, help="of a window of the clock")
    positive("--windows", default=4, help="of a fit; 0 compiles only")
    positive("--rounds", default=2, help="how often each is measured")
    parser.add_argument("--h100", action="store_true", help="compiles for H100s; with --windows 0")
    parser.add_argument("--json", action="store_true", help="prints JSON, and no table")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    positive("--num-devices", help=argparse.SUPPRESS)
    parser.add_argument("--only-timed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(*arguments.devices, arguments.warmup, arguments.steps, arguments.rounds) < 1:
        parser.error("--devices, --warmup, --steps and --rounds must be at least 1.")
    if arguments.h100 and arguments.windows:
        parser.error("--h100 compiles for GPUs that are not there: it needs --windows 0.")
    return arguments


def main() -> None:
    arguments = _parse()
    if arguments.way is not None:
        _measure(arguments)
        return
    results: dict[tuple[int, str], dict[str, Any]] = {}
    for number in range(arguments.rounds if arguments.windows else 1):
        for case in _cases(arguments):
            devices, way = case
            measured = _in_process(way, devices, is_first=number == 0)
            print(f"round {number + 1}: {devices} {way}", file=sys.stderr)
            if number == 0:
                results[case] = {"devices": devices, "way": way, **measured}
            else:
                results[case]["images_per_second"] += measured["images_per_second"]
    if arguments.json:
        print(json.dumps([*results.values()]))
        return
    print(setting(["jax", "flax"]))
    print(_table([*results.values()]))


if __name__ == "__main__":
    main()
