"""Counts the FLOPs of a step and those of the device, for `perf/mfu`; measures peak memory."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# FLOP/s of dense bfloat16 matrix products, from the vendors' data sheets, by a part of
# `device_kind`. The first match is used.
_PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}

# The backward pass computes two products for each product of the forward pass. This is the
# convention of Chowdhery et al. 2022 (PaLM, https://arxiv.org/abs/2204.02311, appendix B).
TRAINING_FACTOR = 3


def peak_flops(device_kind: str) -> float | None:
    """Returns the advertised FLOP/s of a device for bfloat16 products; None if unknown.

    Example:
        >>> from nnx_alexnet.training.flops import peak_flops
        >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("cpu")
        (989000000000000.0, None)
    """
    names = (name for name in _PEAKS if re.search(rf"\b{name}\b", device_kind))
    name = next(names, None)
    return None if name is None or "Laptop" in device_kind else _PEAKS[name]


def product_flops(jaxpr: Any) -> dict[str, float]:
    """Counts the FLOPs of the matrix products and convolutions of a traced function.

    A multiplication and its addition count as two FLOPs. Elementwise operations are not counted,
    nor is more than one iteration of a loop whose number of iterations is unknown during tracing.

    Args:
        jaxpr: the result of `jax.make_jaxpr`.

    Returns:
        FLOPs by the dtype of the operands.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.training.flops import product_flops
        >>> product_flops(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 3)), jnp.ones((3, 5))))
        {'float32': 60.0}
    """
    counted: dict[str, float] = {}
    _count(getattr(jaxpr, "jaxpr", jaxpr), counted, 1)
    return counted


def _count(jaxpr: Any, counted: dict[str, float], times: int) -> None:
    """Adds the FLOPs of a program that runs `times` times."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            left, right = (variable.aval for variable in equation.invars[:2])
            output = math.prod(equation.outvars[0].aval.shape)
            if equation.primitive.name == "dot_general":
                (axes, _), _ = equation.params["dimension_numbers"]
                summed = math.prod(left.shape[axis] for axis in axes)
            else:  # all axes of the kernel except the output channels
                numbers = equation.params["dimension_numbers"]
                summed = math.prod(right.shape) // right.shape[numbers.rhs_spec[0]]
            name = str(left.dtype)
            counted[name] = counted.get(name, 0.0) + 2.0 * output * summed * times
        is_scan = equation.primitive.name == "scan"
        inner_times = times * equation.params["length"] if is_scan else times
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                traced = getattr(inner, "jaxpr", inner)
                if hasattr(traced, "eqns"):
                    _count(traced, counted, inner_times)


def training_flops(
    forward: Mapping[str, float], step: Mapping[str, float], *, trains_all: bool
) -> dict[str, float]:
    """Returns the FLOPs that training takes for one example, by dtype.

    Args:
        forward: those of the forward pass.
        step: those of the train step as it was traced. They are used if some parameters are
            frozen, whose gradients need no products. The result is never more than without frozen
            parameters, because a step that computes activations again (`remat`) does no more work.
        trains_all: whether no parameter is frozen.

    Example:
        >>> from nnx_alexnet.training.flops import training_flops
        >>> training_flops({"bfloat16": 10.0}, {"bfloat16": 12.0}, trains_all=False)
        {'bfloat16': 12.0}
        >>> training_flops({"bfloat16": 10.0}, {"bfloat16": 28.0}, trains_all=True)
        {'bfloat16': 30.0}
    """
    whole = {dtype: TRAINING_FACTOR * count for dtype, count in forward.items()}
    return whole if trains_all or sum(step.values()) > sum(whole.values()) else {**step}


def flops_utilization(
    examples_per_second: float, example_flops: Mapping[str, float]
) -> float | None:
    """Returns the share of the device's FLOP/s that training used (MFU); None if unknown.

    Args:
        examples_per_second: the speed of training on one device.
        example_flops: the FLOPs that training takes for one example, by dtype.

    Returns:
        A number between 0 and 1; None if the device's peak is unknown, or if less than 90% of the
        products are in 16 bits, because the peak holds only for those.
    """
    peak = peak_flops(jax.local_devices()[0].device_kind)
    total = sum(example_flops.values())
    halves = sum(v for k, v in example_flops.items() if jnp.dtype(k).itemsize == 2)
    if peak is None or halves < 0.9 * total or not total:
        return None
    return total * examples_per_second / peak


def peak_memory() -> int | None:
    """Returns the most bytes in use on the first device so far; None if it does not report them."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("peak_bytes_in_use")


def program_memory(lowered: Any) -> int:
    """Compiles a program, and returns the bytes that it needs on each device.

    These are its arguments, results and temporary arrays; arguments that it overwrites with results
    count once.

    Args:
        lowered: what `lower` of a compiled function returns.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnx_alexnet.training.flops import program_memory
        >>> x = jax.ShapeDtypeStruct((256,), jnp.float32)
        >>> program_memory(jax.jit(jnp.sin).lower(x))  # 1 KiB in, 1 KiB out
        2048
    """
    compiled = lowered.compile()
    memory = getattr(compiled, "compiled", compiled).memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(total + memory.temp_size_in_bytes - memory.alias_size_in_bytes)
