"""The mesh of devices that the arguments of a `Trainer` name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import jax
from jax.sharding import Mesh

from nnx_alexnet.support import check_integer, format_count

Devices = int | Literal["auto"]
if TYPE_CHECKING:
    MeshLike = Mesh | Mapping[str, int]
else:
    # On the command line, and in config.yaml, it is the sizes by name.
    MeshLike = dict[str, int]

# The axis of the mesh that the examples of a batch are split over.
DATA_AXIS = "data"


def choose_devices(devices: Devices) -> list[jax.Device]:
    """Returns the devices that the argument of the Trainer names."""
    if devices == "auto":
        default = jax.config.jax_default_device  # type: ignore[attr-defined]
        if default is None:
            return list(jax.devices())
        return [jax.devices(default)[0] if isinstance(default, str) else default]
    local = list(jax.local_devices())
    reason = f"this process has {format_count(len(local), f'{local[0].platform} device')}"
    check_integer("devices", devices, maximum=len(local), also=("auto",), reason=reason)
    return local[:devices]


def as_mesh(mesh: MeshLike) -> Mesh:
    """Returns a mesh whose axes the compiler divides, with an axis for the batch."""
    if isinstance(mesh, Mapping):
        sizes = tuple(mesh.values())
        there = jax.device_count()
        for axis, size in mesh.items():
            check_integer(f"mesh[{axis!r}]", size)
        if math.prod(sizes) > there:
            raise ValueError(
                f"`mesh` (={dict(mesh)}) takes {math.prod(sizes)} devices, there are {there}."
            )
        if DATA_AXIS in mesh:
            mesh = jax.make_mesh(sizes, tuple(mesh))
    elif not isinstance(mesh, Mesh):
        raise TypeError(
            f"`mesh` (={mesh!r}) must be a jax.sharding.Mesh, or the sizes of its axes by name, "
            'such as {"data": 1, "model": 2}.'
        )
    names: Sequence[str] = tuple(mesh) if isinstance(mesh, Mapping) else mesh.axis_names
    if isinstance(mesh, Mapping) or DATA_AXIS not in names:
        axes = ", ".join(repr(name) for name in names)
        raise ValueError(
            f"`mesh` has the axes ({axes}) and lacks the axis {DATA_AXIS!r}, over which the batch "
            f'is split; of size 1 it splits nothing: jax.make_mesh((1, 2), ("data", "model")).'
        )
    # In a mesh of explicit axes the model itself would have to say how each product is divided.
    return Mesh(mesh.devices, mesh.axis_names)
