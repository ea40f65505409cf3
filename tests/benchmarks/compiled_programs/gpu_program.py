"""Counts the kernels and the memory traffic of AlexNet's train step on an H100, without one.

    pip install -e ".[cuda12]" && python tests/benchmarks/compiled_programs/gpu_program.py

XLA compiles the step of `Trainer.fit`, with the data on the device, for an H100 that is only
described. The table lists, for AlexNet with Flax's layers and with ours, the number of kernels and
the bytes that they read and write. Memory sets a lower bound on the time: a large copy reaches
3.0 TB/s on such a GPU, and a large product of bfloat16 matrices 798 TFLOP/s. Real steps are
slower, because kernels do not overlap and convolutions run below that rate. Compare the rows with
each other rather than with a clock. `--kernels 20` lists the 20 kernels that move the most bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `turns`

from programs import H100_ENVIRONMENT, compiled_step, described, h100s, kernels
from training_speed import build_alexnet
from turns import markdown, setting

# Each includes the changes of those before it.
WAYS = {
    "flax": "the layers of flax",
    "space-to-depth": "the first convolution as space-to-depth",
    "pool": "the pools' own gradient",
    "fused": "norm, ReLU and pool fused",
    "bias": "no bias in front of a norm",
    "ours": "as it is: norm and ReLU fused",
}
_BYTES_A_SECOND = 3.0e12
_FLOPS_A_SECOND = 798e12


@contextlib.contextmanager
def _way(name: str) -> Iterator[None]:
    """A context in which AlexNet computes in that way."""
    from flax import nnx
    from jax import lax

    from nnx_alexnet.models import alexnet, conv_norm, convolutions, pools

    def relu(conv: Any, norm: Any, x: Any) -> Any:
        return nnx.relu(conv_norm._conv_norm(conv, norm, x)[1])

    def relu_max_pool(conv: Any, norm: Any, x: Any) -> Any:
        x = relu(conv, norm, x)
        return pools.max_pool(x) if name == "pool" else nnx.max_pool(x, (3, 3), strides=(2, 2))

    index = [*WAYS].index(name)
    replaced = [
        (5, alexnet, "conv_norm_relu", relu),
        (4, conv_norm, "_leaves_out_bias", lambda conv, norm: False),
        (3, alexnet, "conv_norm_relu_max_pool", relu_max_pool),
        (1, convolutions, "conv", lax.conv_general_dilated),
    ]
    with contextlib.ExitStack() as stack:
        for begins, module, attribute, replacement in replaced:
            if index < begins:
                stack.enter_context(mock.patch.object(module, attribute, replacement))
        yield


def _measure(arguments: argparse.Namespace) -> None:
    import jax
    import optax

    from nnx_alexnet import DataModule, Trainer
    from nnx_alexnet.training.flops import TRAINING_FACTOR

    # A batch, no more: all of the data that stay on the device are read in a step.
    shape = (arguments.image_size, arguments.image_size, arguments.channels)
    images = np.zeros((arguments.batch_size, *shape), np.uint8)
    labels = np.zeros(arguments.batch_size, np.int32)
    data = DataModule((images, labels), batch_size=arguments.batch_size, keep_on_device=True)
    with _way(arguments.way), described():
        trainer = Trainer(
            build_alexnet(arguments),
            data,
            optimizer=optax.adam(1e-3),
            log_dir=None,
            progress_bar=False,
            devices=jax.sharding.Mesh(h100s(1), ("data",)),
        )
        compiled, _ = compiled_step(trainer)
        flops = TRAINING_FACTOR * sum(trainer._verbs.preparation.evaluation.forward_flops.values())
    found = {
        "kernels": kernels(compiled.as_text()),
        "flops": flops * arguments.batch_size,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }
    arguments.result.write_text(json.dumps(found))


def _in_process(way: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        argv = [sys.executable, *sys.argv, "--way", way, "--result", str(result)]
        environment = {**os.environ, **H100_ENVIRONMENT}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not result.exists():
            raise SystemExit(f"{done.stderr[-4000:]}\n{way} failed.")
        compiled: dict[str, Any] = json.loads(result.read_text())
        return compiled


def _row(way: str, found: dict[str, Any]) -> list[str]:
    total = sum(num_bytes for _, _, num_bytes, _ in found["kernels"])
    convolved = sum(size for _, kind, size, _ in found["kernels"] if kind == "convolution")
    return [
        WAYS[way],
        str(len(found["kernels"])),
        f"{convolved / 1e9:.2f}",
        f"{(total - convolved) / 1e9:.2f}",
        f"{total / _BYTES_A_SECOND * 1e3:.2f}",
        f"{found['flops'] / _FLOPS_A_SECOND * 1e3:.2f}",
        f"{found['temporary_bytes'] / 1e9:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=227)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--num-classes", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16", help="what the layers compute in")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--kernels", type=int, default=0, help="how many to list of the last way")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        _measure(arguments)
        return
    found = {way: _in_process(way) for way in arguments.ways}
    size, channels = arguments.image_size, arguments.channels
    print(setting(["jax", "jax-cuda12-plugin", "flax"]))
    print(
        f"AlexNet, {size}x{size}x{channels}, {arguments.num_classes} classes, "
        f"batches of {arguments.batch_size}, {arguments.dtype}, compiled for an H100"
    )
    header = [
        "",
        "kernels",
        "convolutions, GB",
        "the rest, GB",
        "all at 3.0 TB/s, ms",
        "products at 798 TFLOP/s, ms",
        "temporary, GB",
    ]
    print(markdown(header, [_row(way, each) for way, each in found.items()]))
    if arguments.kernels:
        last = sorted(found[arguments.ways[-1]]["kernels"], key=lambda kernel: -kernel[2])
        rows = [
            [name, kind, f"{num_bytes / 1e6:.1f}", f"`{source}`"]
            for name, kind, num_bytes, source in last[: arguments.kernels]
        ]
        print(markdown(["kernel", "kind", "MB", "source"], rows))


if __name__ == "__main__":
    main()
