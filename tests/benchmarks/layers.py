"""Times the layers of AlexNet in each form: `python tests/benchmarks/layers.py`.

The first table compares each operation of a 96x96x1 AlexNet, forward and both gradients, with the
plain one of lax or nnx, and the fused norm, ReLU and pool with the separate operations. The second
compares whole training steps: AlexNet as it is, with plain layers, and in PyTorch eager
(channels_last, fused Adam). All run in turns. The steps each run in their own process, because the
waiting threads of one library slow down the other. The tables show the smallest and the median
time; on a shared machine, trust the smallest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from nnx_alexnet import AlexNet
from nnx_alexnet.devices.host_memory import keep_freed_memory
from nnx_alexnet.models import alexnet, convolutions, norms, pools

CONVOLUTIONS = {
    "conv1": ((96, 96, 1), (11, 11, 1, 96), 4, "VALID"),
    "conv2": ((10, 10, 96), (5, 5, 96, 256), 1, "SAME"),
    "conv3": ((4, 4, 256), (3, 3, 256, 384), 1, "SAME"),
    "conv4": ((4, 4, 384), (3, 3, 384, 384), 1, "SAME"),
    "conv5": ((4, 4, 384), (3, 3, 384, 256), 1, "SAME"),
}
POOLS = {"pool1": (22, 22, 96), "pool2": (10, 10, 256), "pool5": (4, 4, 256)}


def plain_pool(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (3, 3), strides=(2, 2))


def norm_apart(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Norm, ReLU and pool, whose gradients are taken one after the other."""
    return pools.max_pool(nnx.relu(norms._norm_of(x, scale, bias, 1e-5)(x)))


def norm_in_one(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return norms.norm_relu_max_pool(x, scale, bias, 1e-5)


def convolution(way: Callable, stride: int, padding: str) -> Callable:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x, w: way(x, w, (stride, stride), padding, dimension_numbers=numbers)


def parts(function: Callable, first_gradient: int) -> dict[str, Callable]:
    """The forward pass, the gradient by each argument from `first_gradient` on, and all.

    The last argument is the cotangent: as a constant, XLA would fold what is computed from it.
    """

    def gradient(index: int) -> Callable:
        def of(*args):
            *args, cotangent = args

            def alone(x):
                return function(*args[:index], x, *args[index + 1 :])

            return jax.vjp(alone, args[index])[1](cotangent)

        return of

    def everything(*args):
        *args, cotangent = args
        output, pullback = jax.vjp(function, *args)
        return output, pullback(cotangent)[first_gradient:]

    return {
        "forward": lambda *args: function(*args[:-1]),
        "input gradient": gradient(0),
        "weight gradient": gradient(1),
        "all": everything,
    }


def in_turns(runs: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, list[float]]:
    """The milliseconds of each run, taken alternately."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name] += run()
    return times


def timed(call: Callable[[], object], repeat: int) -> list[float]:
    """The milliseconds of `repeat` calls."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append((time.perf_counter() - start) * 1e3)
    return times


def compare_operations(batch: int, rounds: int) -> None:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape, np.float32))

    cases = []
    for name, (image, kernel, stride, padding) in CONVOLUTIONS.items():
        args = normal(batch, *image), normal(*kernel)
        ways = [
            convolution(way, stride, padding)
            for way in (lax.conv_general_dilated, convolutions.conv)
        ]
        skip = set()
        if name == "conv1":
            ways.append(lambda x, w: convolutions.space_to_depth_conv(x, w, 4))
            skip = {"input gradient"}  # nothing asks for the gradient of the images
        cases.append((name, ways, args, skip))
    for name, shape in POOLS.items():
        cases.append(
            (name, [plain_pool, pools.max_pool], (normal(batch, *shape),), {"weight gradient"})
        )
    for name, shape in POOLS.items():
        args = normal(batch, *shape), jnp.ones(shape[-1]), jnp.zeros(shape[-1])
        skip = {"input gradient", "weight gradient"}
        cases.append((f"norm and {name}", [norm_apart, norm_in_one], args, skip))

    print("| operation | plain | here | ratio | space to depth |\n| --- | --- | --- | --- | --- |")
    for name, ways, arrays, skip in cases:
        args = (*arrays, normal(*jax.eval_shape(ways[0], *arrays).shape))
        every = [parts(way, int(name == "conv1")) for way in ways]
        for part in [part for part in every[0] if part not in skip]:
            runs = {}
            for index, functions in enumerate(every):
                compiled = jax.jit(functions[part], keep_unused=True).lower(*args).compile()
                jax.block_until_ready(compiled(*args))
                runs[str(index)] = lambda f=compiled, args=args: timed(lambda: f(*args), 2)
            times = list(in_turns(runs, rounds).values())
            cells = [f"{min(each):.1f} ({statistics.median(each):.1f})" for each in times]
            ratio = f"{min(times[0]) / min(times[1]):.2f}"
            print(
                f"| {name} {part} |", " | ".join([*cells[:2], ratio, *cells[2:]]), "|", flush=True
            )


def jax_step(batch: int, *, plain: bool) -> Callable[[], object]:
    if plain:
        convolutions.conv = lax.conv_general_dilated
        alexnet.conv_norm_relu = lambda conv, norm, x: nnx.relu(norm(conv(x)))
        alexnet.conv_norm_relu_max_pool = lambda conv, norm, x: plain_pool(nnx.relu(norm(conv(x))))
    model = AlexNet(10, image_size=96, in_channels=1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    graph, state = nnx.split((model, optimizer))
    image, label = jnp.ones((batch, 96, 96, 1)), jnp.arange(batch) % 10

    def step(state):
        model, optimizer = nnx.merge(graph, state)

        def loss(model):
            losses = optax.softmax_cross_entropy_with_integer_labels(model(image), label)
            return losses.mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer)), value

    compiled = jax.jit(step, donate_argnums=0).lower(state).compile()
    box = [state]

    def run():
        box[0], value = compiled(box[0])
        return value

    return run


def torch_step(batch: int) -> Callable[[], object]:
    import torch
    from torch import nn

    modules: list[nn.Module] = []
    for _, (_, (window, _, channels, features), stride, padding) in sorted(CONVOLUTIONS.items()):
        before = window // 2 if padding == "SAME" else 0
        modules += [nn.Conv2d(channels, features, window, stride, before)]
        modules += [nn.BatchNorm2d(features), nn.ReLU(inplace=True)]
        if features in (96, 256):
            modules += [nn.MaxPool2d(3, 2)]
    modules += [nn.Flatten(), nn.Linear(256, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    modules += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 10)]
    model = nn.Sequential(*modules).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    image = torch.ones(batch, 1, 96, 96).to(memory_format=torch.channels_last)
    label = torch.arange(batch) % 10

    def run():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(image), label)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


STEPS = {
    "plain": lambda batch: jax_step(batch, plain=True),
    "torch": torch_step,
    "here": lambda batch: jax_step(batch, plain=False),
}


def steps_alone(name: str, batch: int, repeat: int) -> list[float]:
    """The milliseconds of a few steps, taken in another process."""
    command = [sys.executable, __file__, "--only", name, "--batch", str(batch)]
    command += ["--rounds", str(repeat)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def compare_steps(batch: int, rounds: int) -> None:
    runs = {name: lambda name=name: steps_alone(name, batch, 8) for name in STEPS}
    times = in_turns(runs, rounds)
    best = min(times["here"])
    print(
        "| step | smallest ms | median ms | images/s | of here |\n| --- | --- | --- | --- | --- |"
    )
    for name, each in times.items():
        print(
            f"| {name} | {min(each):.0f} | {statistics.median(each):.0f} "
            f"| {batch / min(each) * 1e3:.0f} | {min(each) / best:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--what", choices=("operations", "steps", "both"), default="both")
    parser.add_argument("--only", choices=STEPS, help="print the times of one kind of step")
    options = parser.parse_args()
    keep_freed_memory()
    if options.only:
        run = STEPS[options.only](options.batch)
        timed(run, 2)
        print(json.dumps(timed(run, options.rounds)))
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "torch"))
    print(
        f"{packages}; {jax.default_backend()}, {os.cpu_count()} cores; batches of {options.batch}"
    )
    if options.what != "steps":
        compare_operations(options.batch, options.rounds)
    if options.what != "operations":
        compare_steps(options.batch, options.rounds)


if __name__ == "__main__":
    main()
