"""What several devices say to each other for a step of AlexNet, and what that predicts for GPUs.

    python tests/benchmarks/scaling.py

For 1, 2, 4 and 8 devices a process of its own trains AlexNet through `Trainer.fit`, in each way of
dividing the work: `data` (the batch is split), `model` (the layers are), `sharded` (the batch and
the state, `shard_state=True`) and `mixed` (a mesh of 2 x N/2). Where there are NVIDIA GPUs the
devices are the first N of them; else they are `--xla_force_host_platform_device_count=N`, which
share the processor's cores: their images a second show that it works, and nothing of scaling.

What counts are the collectives of the compiled step and their bytes, which its HLO names, and the
memory of one device. `divided` are the bytes right after XLA has divided the program; the passes
of a backend come later, and that of the CPU makes float32 of what is sent as bfloat16. On a CPU the
HLO is that of a step with plain convolutions, as accelerators have them (the Fourier form of
`nnx_alexnet.models.layers` sends its gradients as frequencies, which are more than the kernels).

Only compiled, in ImageNet's size:

    python tests/benchmarks/scaling.py --image-size 227 --channels 3 --num-classes 1000 \\
        --batch-size 64 --dtype bfloat16 --windows 0 --devices 2 8

The tables of arithmetic in SCALING.md, from link speeds and the speed of one GPU:

    python tests/benchmarks/scaling.py --predict
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from turns import accelerators, markdown, setting

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
WAYS = ("data", "model", "sharded", "mixed")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\]")
_MB = 1e6

# ---- The collectives of a program ----------------------------------------------------------------


def _size(dtype: str) -> float:
    """Returns the bytes of a value of one of HLO's dtypes, such as 2 for "bf16"."""
    if dtype == "pred":
        return 1
    bits = re.match(r"[a-z]+(\d+)", dtype)
    if bits is None:  # a token
        return 0
    return int(bits[1]) / 8


def _arrays_bytes(text: str) -> list[int]:
    """Returns the bytes of each array that a type in HLO's text names."""
    found = []
    for dtype, shape in _ARRAY.findall(text):
        num = math.prod(int(length) for length in shape.split(",") if length)
        found.append(math.ceil(num * _size(dtype)))
    return found


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Counts the collectives of a program.

    Args:
        text: of an HLO module.

    Returns:
        By kind, how many there are and the bytes of their results on one device. A pair of start
        and done is one; what a start carries along beside its result does not count.

    Example:
        >>> from scaling import collectives
        >>> collectives("%r = (f32[2,3]{1,0}, /*index=1*/bf16[4]{0}) all-reduce(%a, %b), to=%add")
        {'all-reduce': (1, 32)}
    """
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for line in text.splitlines():
        if (found := _COLLECTIVE.search(line)) is None:
            continue
        result, kind, start = found.groups()
        found_bytes = _arrays_bytes(result)
        if start and kind != "all-reduce":
            # (operands, results, and for a permutation two counters more)
            operands = line[found.end() :].split(")", 1)[0].count("%")
            found_bytes = found_bytes[operands : 2 * operands]
        counts[kind] += 1
        sizes[kind] += sum(found_bytes)
    return {kind: (counts[kind], sizes[kind]) for kind in KINDS if counts[kind]}


# ---- One way, in a process of its own ------------------------------------------------------------


def _placement(way: str, devices: int) -> dict[str, Any]:
    """Returns the arguments of the Trainer that say how the work is divided."""
    return {
        "data": {"devices": devices},
        "model": {"mesh": {"data": 1, "model": devices}},
        "sharded": {"devices": devices, "shard_state": True},
        "mixed": {"mesh": {"data": 2, "model": devices // 2}},
    }[way]


def _trainer(arguments: argparse.Namespace, callbacks: Sequence[Any]) -> Any:
    import optax
    from flax import nnx

    from nnx_alexnet import AlexNet, DataModule, Trainer

    generator = np.random.default_rng(0)
    shape = (arguments.image_size, arguments.image_size, arguments.channels)
    num = 4 * arguments.batch_size
    images = generator.integers(0, 256, (num, *shape), np.uint8)
    labels = generator.integers(0, arguments.num_classes, num).astype(np.int32)
    model = AlexNet(
        arguments.num_classes,
        image_size=arguments.image_size,
        in_channels=arguments.channels,
        dtype=arguments.dtype,
        rngs=nnx.Rngs(0),
    )
    return Trainer(
        model,
        DataModule((images, labels), batch_size=arguments.batch_size, keep_on_device=True),
        optimizer=optax.adam(1e-3),
        callbacks=callbacks,
        max_steps=arguments.warmup + arguments.windows * arguments.steps,
        log_dir=None,
        progress_bar=False,
        **_placement(arguments.way, arguments.num_devices),
    )


def _compiled(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Returns what the compiled step says of itself; it is not run."""
    import jax
    from flax import nnx

    from nnx_alexnet.models import layers

    layers._SMALLEST_FOURIER_BATCH, kept = sys.maxsize, layers._SMALLEST_FOURIER_BATCH
    jax.config.update("jax_enable_compilation_cache", False)  # from the cache nothing is written
    try:
        trainer = _trainer(arguments, ())
        loader = trainer.data.train
        trainer._prepare(loader)
        trainer._optimizer = nnx.Optimizer(trainer._model, trainer._transformation, wrt=nnx.Param)
        placement = trainer.placement
        data = trainer.data.on_device(placement.replicated) or {}
        batch = next(iter(loader.batches(epoch=0, seed=0, reads=not data)))
        state, key = trainer._arrays(), trainer._augmentation_key()
        sent = placement.send(batch, arguments.batch_size)
        lowered = trainer._steps.train.lower(state, trainer._steps.empty, data, sent, key)
        compiled = lowered.compile()
    finally:
        layers._SMALLEST_FOURIER_BATCH = kept
        jax.config.update("jax_enable_compilation_cache", True)
    compiled = getattr(compiled, "compiled", compiled)
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
    """Returns the images a second of each window of steps of a `fit`."""
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
    from nnx_alexnet.memory import keep_freed_memory

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
        if not accelerators():
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
        "state, MB a device",
        "temporary, MB a device",
    ]
    return markdown(header, rows)


# ---- Arithmetic ----------------------------------------------------------------------------------

# The parameters of AlexNet for 227x227x3 and 1000 classes: 62.4 million.
_CONVOLUTIONS = ((11, 11, 3, 96), (5, 5, 96, 256), (3, 3, 256, 384), (3, 3, 384, 384))
_CONVOLUTIONS += ((3, 3, 384, 256),)
_PRODUCTS = ((6 * 6 * 256, 4096), (4096, 4096), (4096, 1000))
SHAPES = (
    *_CONVOLUTIONS,
    *_PRODUCTS,
    *((shape[-1],) for shape in (*_CONVOLUTIONS, *_PRODUCTS)),  # biases
    *((shape[-1],) for shape in _CONVOLUTIONS for _ in range(2)),  # BatchNorm's scale and bias
)
PARAMETERS = sum(map(math.prod, SHAPES))
# Of one H100, bare scripts, bfloat16 compute, Adam: batch to images a second.
PLAIN = {256: 26_858.0, 1024: 30_496.0}  # plain convolutions and pools
FAST = 59_300.0  # at 1024: the first convolution as space-to-depth, max_pool's own gradient
SMALL_COLLECTIVES = 11  # BatchNorm's 5 forward and 5 backward, and one of counts

# What a model split in two sends for an image, in values: the inputs of conv2 to conv5, of the
# reshape and of dense2's gradient are gathered; the outputs of dense2 and dense3 and the gradients
# of dense1's input and of those of conv2 to conv5 are reduced.
_CONVOLVED = 27 * 27 * 96 + 13 * 13 * (256 + 384 + 384)
GATHERED_VALUES = _CONVOLVED + 6 * 6 * 256 + 4096
REDUCED_VALUES = _CONVOLVED + 6 * 6 * 256 + 4096 + 1000
MODEL_COLLECTIVES = 13
PAIR_LATENCY = 6e-6  # of two GPUs


class Link(NamedTuple):
    """GPUs that reduce together.

    Attributes:
        gpus: how many.
        speed: bus bandwidth, bytes a second, as nccl-tests counts it.
        latency: of a small all-reduce, seconds.
    """

    gpus: int
    speed: float
    latency: float


LINKS = (
    Link(8, 370e9, 10e-6),
    Link(8, 150e9, 10e-6),
    Link(1024, 370e9, 60e-6),
    Link(1024, 320e9, 60e-6),
    Link(1024, 150e9, 60e-6),
)


def gather_seconds(size: float, gpus: int, speed: float) -> float:
    """Returns the time of an all-gather of `size` bytes, or of a reduce-scatter.

    Example:
        >>> from scaling import gather_seconds
        >>> gather_seconds(8e9, 8, 7e9)
        1.0
    """
    return (gpus - 1) / gpus * size / speed


def reduce_seconds(size: float, gpus: int, speed: float) -> float:
    """Returns the time of an all-reduce: of a reduce-scatter and an all-gather."""
    return 2 * gather_seconds(size, gpus, speed)


def step_seconds(batch: int, *, is_fast: bool) -> tuple[float, float]:
    """Returns the time of a step of one GPU: the part that is the same for any batch, and the rest.

    The two measured batches of the plain step give a line. The fast step was measured at one
    batch; what is the same for any batch (the optimizer, mostly) is taken from that line.
    """
    (small, slow), (large, quick) = PLAIN.items()
    image = (large / quick - small / slow) / (large - small)
    fixed = small / slow - small * image
    if is_fast:
        image = (large / FAST - fixed) / large
    return fixed, batch * image


class Prediction(NamedTuple):
    """Of a step of many GPUs: seconds, and the share of their time in which they compute."""

    communication: float
    latency: float
    none_hidden: float
    all_hidden: float


def predict(
    batch: int, link: Link, *, is_fast: bool = True, gradient_bytes: float = 4 * PARAMETERS
) -> Prediction:
    """Predicts data parallelism from the speed of one GPU and of the links.

    Args:
        batch: images a GPU.
        link: the GPUs and what is between them.
        is_fast: which step of one GPU.
        gradient_bytes: of all gradients.

    Returns:
        With the reduction of the gradients after the backward pass, and with all of it beside
        the backward pass (two thirds of what grows with the batch). The small reductions are
        waited for in both.
    """
    fixed, variable = step_seconds(batch, is_fast=is_fast)
    alone = fixed + variable
    communication = reduce_seconds(gradient_bytes, link.gpus, link.speed)
    latency = SMALL_COLLECTIVES * link.latency
    left = max(0.0, communication - 2 / 3 * variable)
    return Prediction(
        communication,
        latency,
        alone / (alone + communication + latency),
        alone / (alone + left + latency),
    )


def hidden_from(link: Link, *, is_fast: bool = True, gradient_bytes: float = 4 * PARAMETERS) -> int:
    """Returns the images a GPU from which the backward pass hides the gradients' reduction."""
    _, image = step_seconds(1, is_fast=is_fast)
    return math.ceil(reduce_seconds(gradient_bytes, link.gpus, link.speed) / (2 / 3 * image))


def _data_rows() -> list[list[str]]:
    rows = []
    for link in LINKS:
        for batch in (128, 256, 1024):
            row = [f"{link.gpus:,}", f"{link.speed / 1e9:.0f}", f"{batch:,}"]
            for is_fast in (True, False):
                step = sum(step_seconds(batch, is_fast=is_fast))
                found = predict(batch, link, is_fast=is_fast)
                if is_fast:
                    row += [f"{found.communication * 1e3:.2f}", f"{found.latency * 1e3:.2f}"]
                row += [f"{step * 1e3:.2f}", f"{found.none_hidden:.2f}, {found.all_hidden:.2f}"]
            half = predict(batch, link, gradient_bytes=2 * PARAMETERS)
            rows.append([*row, f"{half.none_hidden:.2f}, {half.all_hidden:.2f}"])
    return rows


def _hidden_rows() -> list[list[str]]:
    rows = []
    for link in LINKS:
        row = [f"{link.gpus:,}", f"{link.speed / 1e9:.0f}"]
        for is_fast in (True, False):
            for size in (4, 2):
                found = hidden_from(link, is_fast=is_fast, gradient_bytes=size * PARAMETERS)
                row.append(f"{found:,}")
        rows.append(row)
    return rows


def sharded_parameters(gpus: int) -> int:
    """Returns how many parameters `shard_state` splits: arrays of 1024 with a fitting dimension."""
    fitting = (shape for shape in SHAPES if any(length % gpus == 0 for length in shape))
    return sum(num for num in map(math.prod, fitting) if num >= 1024)


def _sharded_rows() -> list[list[str]]:
    rows = []
    for link in LINKS:
        split = sharded_parameters(link.gpus)
        reduce = reduce_seconds(4 * PARAMETERS, link.gpus, link.speed)
        gather = gather_seconds(4 * split, link.gpus, link.speed)
        whole = reduce_seconds(4 * (PARAMETERS - split), link.gpus, link.speed)
        times = (reduce, gather + reduce, 2 * gather + whole)
        speed = f"{link.speed / 1e9:.0f}"
        held = PARAMETERS - split + split / link.gpus
        memory = [f"{3 * 4 * num / _MB:.1f}" for num in (PARAMETERS, held)]
        rows.append([f"{link.gpus:,}", speed, *(f"{t * 1e3:.2f}" for t in times), *memory])
    return rows


def model_split(batch: int, speed: float) -> tuple[float, float]:
    """Returns the seconds that two GPUs spend on a step, with data split and with layers split.

    Args:
        batch: images of the two together.
        speed: bus bandwidth between them, bytes a second.
    """
    fixed, variable = step_seconds(batch, is_fast=True)
    data = fixed + variable / 2 + reduce_seconds(4 * PARAMETERS, 2, speed)
    gathered = gather_seconds(2 * GATHERED_VALUES * batch, 2, speed)
    reduced = reduce_seconds(2 * REDUCED_VALUES * batch, 2, speed)
    model = fixed / 2 + variable / 2 + gathered + reduced
    return data + SMALL_COLLECTIVES * PAIR_LATENCY, model + MODEL_COLLECTIVES * PAIR_LATENCY


def break_even(data_speed: float, model_speed: float) -> int:
    """Returns the batch of two GPUs from which layers send for longer than gradients do."""
    gathered = gather_seconds(2 * GATHERED_VALUES, 2, model_speed)
    image = gathered + reduce_seconds(2 * REDUCED_VALUES, 2, model_speed)
    return math.ceil(reduce_seconds(4 * PARAMETERS, 2, data_speed) / image)


def _model_rows() -> list[list[str]]:
    rows = []
    for batch in (128, 256, 512, 2048):
        row = [f"{batch:,}", f"{sum(step_seconds(batch, is_fast=True)) * 1e3:.2f}"]
        for speed in (370e9, 150e9):
            row += [f"{seconds * 1e3:.2f}" for seconds in model_split(batch, speed)]
        hidden = sum(step_seconds(batch // 2, is_fast=True)) + SMALL_COLLECTIVES * PAIR_LATENCY
        rows.append([*row, f"{hidden * 1e3:.2f}"])
    return rows


def predictions() -> str:
    """Returns the tables of arithmetic as Markdown."""
    both = "none hidden, all hidden"
    data = ["GPUs", "GB/s", "batch a GPU", "gradients, ms", "small ones, ms"]
    data += ["fast step, ms", f"efficiency: {both}", "plain step, ms", "efficiency"]
    data += ["fast step, bfloat16"]
    hidden = ["GPUs", "GB/s", "fast step, float32", "bfloat16", "plain step, float32", "bfloat16"]
    sharded = ["GPUs", "GB/s", "data, ms", "sharded as it is, ms", "with reduce-scatter, ms"]
    sharded += ["state, MB a GPU: data", "sharded"]
    model = ["batch of two GPUs", "one GPU, ms", "data, ms, at 370 GB/s", "model, ms"]
    model += ["data, ms, at 150 GB/s", "model, ms", "data, ms, gradients hidden"]
    tables = [
        ("Data parallel", markdown(data, _data_rows())),
        ("Images a GPU that hide the gradients", markdown(hidden, _hidden_rows())),
        ("State sharded", markdown(sharded, _sharded_rows())),
        ("Model split over two", markdown(model, _model_rows())),
    ]
    lines = [f"{title}:\n\n{table}" for title, table in tables]
    same, slower = break_even(370e9, 370e9), break_even(370e9, 150e9)
    lines.append(
        f"Layers send for longer than gradients from a batch of {same} for two GPUs at the same "
        f"bandwidth, of {slower} with gradients at 370 GB/s and layers at 150."
    )
    return "\n\n".join(lines)


# ---- The command ---------------------------------------------------------------------------------


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    parser.add_argument("--json", action="store_true", help="prints JSON, and no table")
    parser.add_argument("--predict", action="store_true", help="prints the arithmetic alone")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    positive("--num-devices", help=argparse.SUPPRESS)
    parser.add_argument("--only-timed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(*arguments.devices, arguments.warmup, arguments.steps, arguments.rounds) < 1:
        parser.error("--devices, --warmup, --steps and --rounds must be at least 1.")
    return arguments


def main() -> None:
    arguments = _parse()
    if arguments.predict:
        print(predictions())
        return
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
