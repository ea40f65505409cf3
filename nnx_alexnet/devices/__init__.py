"""Devices, processes and the arrays on them: meshes, sharding, names, compiled programs."""

from nnx_alexnet.devices.compilation_cache import compiled, describe, use_compilation_cache
from nnx_alexnet.devices.host_memory import keep_freed_memory
from nnx_alexnet.devices.join_job import initialize_distributed, leave
from nnx_alexnet.devices.mesh import Devices
from nnx_alexnet.devices.named_arrays import (
    as_struct,
    describe_leaf,
    is_key,
    model_state,
    named_leaves,
    on_device,
    on_host,
    placed,
    usual_promotion,
)
from nnx_alexnet.devices.non_finite import NonFiniteError, non_finite_step
from nnx_alexnet.devices.processes import (
    check_alike,
    is_main,
    on_main,
)
from nnx_alexnet.devices.sharding import Placement
from nnx_alexnet.devices.shared_program import SharedProgram

__all__ = [
    "Devices",
    "NonFiniteError",
    "Placement",
    "SharedProgram",
    "as_struct",
    "check_alike",
    "compiled",
    "describe",
    "describe_leaf",
    "initialize_distributed",
    "is_key",
    "is_main",
    "keep_freed_memory",
    "leave",
    "model_state",
    "named_leaves",
    "non_finite_step",
    "on_device",
    "on_host",
    "on_main",
    "placed",
    "use_compilation_cache",
    "usual_promotion",
]
