"""Compiles train steps and reads from the programs what devices send and what kernels move.

A step is compiled for the devices at hand, or for H100s that need not be present: XLA can compile
for a GPU from its description alone, with the plugin of `pip install -e ".[cuda12]"`.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\]")

# ---- Programs as XLA writes them -----------------------------------------------------------------


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
        and done is one; what a start carries along with its result does not count.

    Example:
        >>> from programs import collectives
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


class Kernel(NamedTuple):
    """One operation of a GPU's program.

    Attributes:
        name: XLA's.
        kind: "convolution", "product", or the operation, such as "fusion".
        num_bytes: of what it is given and of what it returns, each once.
        source: the operation in JAX that XLA names it after.
    """

    name: str
    kind: str
    num_bytes: int
    source: str


# Operations that only name what is there.
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}
_INSTRUCTION = re.compile(r"^  (?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")


def kernels(text: str) -> list[Kernel]:
    """Returns the kernels that a program runs, in the order of its text.

    Args:
        text: of an HLO module that is compiled for a GPU.

    Example:
        >>> from programs import kernels
        >>> kernels('''ENTRY %main (x: f32[8]) -> f32[8] {
        ...   %x = f32[8]{0} parameter(0)
        ...   ROOT %y = f32[8]{0} fusion(%x), kind=kLoop, metadata={op_name="jit(f)/add"}
        ... }''')
        [Kernel(name='y', kind='fusion', num_bytes=64, source='jit(f)/add')]
    """
    types: dict[str, str] = {}
    found = []
    for line in text[text.index("\nENTRY ") if "\nENTRY " in text else 0 :].splitlines():
        if (instruction := _INSTRUCTION.match(line)) is None:
            continue
        name, result, operation, rest = instruction.groups()
        types[name] = result
        if operation in _FREE:
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ", 1)[0])
        sizes = [sum(_arrays_bytes(types.get(each, ""))) for each in operands]
        source = re.search(r'op_name="([^"]*)"', rest)
        kind = operation
        if "__cudnn$conv" in rest:
            kind = "convolution"
        elif name.startswith("gemm") or "__cublas" in rest:
            kind = "product"
        total = sum(sizes) + sum(_arrays_bytes(result))
        found.append(Kernel(name, kind, total, source[1] if source else ""))
    return found


# ---- Steps of a Trainer --------------------------------------------------------------------------

# What `nvidia-smi` and the data sheet say of an H100 SXM, in XLA's words.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  clock_rate_ghz: 1.98
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# Of a process that compiles for them: no GPU is looked for, and no kernel is tried out on one.
H100_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "XLA_FLAGS": "--xla_gpu_autotune_level=0",
}


def h100s(num: int) -> Any:
    """Returns described H100s of one machine, `[num]`; they only serve to compile for."""
    from jax.experimental import topologies

    assert "JAX_SKIP_CUDA_CONSTRAINTS_CHECK" in os.environ, "H100_ENVIRONMENT comes before jax"
    described = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=_H100, topology=f"1x1x{num}"
    )
    return np.array(described.devices)


@contextlib.contextmanager
def described() -> Iterator[None]:
    """A context in which a Trainer's arrays are shapes, and its layers those of a GPU."""
    import jax

    def shape(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(jax, "default_backend", return_value="gpu"))
        for name, module in [*sys.modules.items()]:
            if name.startswith("nnx_alexnet.") and hasattr(module, "placed"):
                stack.enter_context(mock.patch.object(module, "placed", shape))
        stack.enter_context(
            mock.patch(
                "nnx_alexnet.devices.sharding.Placement.send",
                lambda self, batch, _: jax.tree.map(lambda rows: shape(rows, self.batch), batch),
            )
        )
        yield


def compiled_step(trainer: Any) -> tuple[Any, Any]:
    """Compiles the train step of a Trainer of arrays, which stays as it is.

    Args:
        trainer: of this process's devices, with plain convolutions, as accelerators have them; or,
            made within `described()`, of `h100s`.

    Returns:
        The compiled step, and the state that it would take.
    """
    import jax
    from flax import nnx

    from nnx_alexnet.data import augmentation_key
    from nnx_alexnet.devices import placed
    from nnx_alexnet.models import convolutions

    convolutions._MIN_FOURIER_BATCH, kept = sys.maxsize, convolutions._MIN_FOURIER_BATCH
    jax.config.update("jax_enable_compilation_cache", False)  # from the cache nothing is written
    try:
        loader, placement = trainer.data.train, trainer.placement
        preparation = trainer._verbs.preparation
        evaluation, _ = preparation.for_training()
        model, steps = trainer._arrays.model, trainer._arrays.steps
        transformation = preparation.optimizers.transformation
        optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
        data = trainer.data.on_device(placement.replicated) or {}
        batch = next(iter(loader.batches(epoch=0, seed=0, reads=not data)))
        state = steps.split(model, optimizer)
        key = placed(augmentation_key(seed=0, epoch=0), placement.replicated)
        sent = placement.send(batch, loader.batch_size)
        lowered = steps.train.function.lower(state, evaluation.empty, data, sent, key)
        compiled = lowered.compile()
    finally:
        convolutions._MIN_FOURIER_BATCH = kept
        jax.config.update("jax_enable_compilation_cache", True)
    return getattr(compiled, "compiled", compiled), state
