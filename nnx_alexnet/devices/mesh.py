"""The mesh of devices that the arguments of a `Trainer` describe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from nnx_alexnet.support import check_integer, format_count

Devices = int | Literal["auto"]
if TYPE_CHECKING:
    MeshLike = Mesh | Mapping[str, int]
else:
    # The command line and config.yaml accept the sizes by name only.
    MeshLike = dict[str, int]

# The axis of the mesh over which the examples of a batch are split.
DATA_AXIS = "data"


def make_mesh(devices: Devices, mesh: MeshLike | None) -> Mesh:
    """Returns the mesh that the arguments of a `Trainer` describe.

    Args:
        devices: the number of this process's devices, or "auto".
        mesh: a mesh, or the sizes of its axes by name; None for one axis `data` over `devices`.

    Raises:
        TypeError: `mesh` is neither a mesh nor a mapping.
        ValueError: both are given, there are fewer devices than asked for, a process has none of
            them, or the mesh has no axis `data`.
    """
    if mesh is None:
        made = Mesh(np.array(_choose_devices(devices)), (DATA_AXIS,))
        given = f"`devices` (={devices!r})"
    elif devices != "auto":
        raise ValueError(
            f"`devices` (={devices!r}) and `mesh` (={mesh!r}) both choose the devices; give one of "
            "them."
        )
    else:
        made = _as_mesh(mesh)
        given = f"`mesh` (={dict(made.shape)})"
    present = {device.process_index for device in made.devices.flat}
    if missing := sorted({*range(jax.process_count())} - present):
        raise ValueError(
            f"{given} has no device of the processes {missing}; a run uses devices of every "
            'process. devices="auto" uses all, unless `jax.default_device` is set.'
        )
    return made


def describe_mesh(mesh: Mesh) -> str:
    """Returns the axes of a mesh and their sizes, such as "data 2 x model 2"."""
    return " x ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _choose_devices(devices: Devices) -> list[jax.Device]:
    """Returns the devices that the argument `devices` of a `Trainer` describes."""
    if devices == "auto":
        default = jax.config.jax_default_device  # type: ignore[attr-defined]
        if default is None:
            return list(jax.devices())
        return [jax.devices(default)[0] if isinstance(default, str) else default]
    local = list(jax.local_devices())
    reason = f"this process has {format_count(len(local), f'{local[0].platform} device')}"
    check_integer("devices", devices, maximum=len(local), also=("auto",), reason=reason)
    return local[:devices]


def _as_mesh(mesh: MeshLike) -> Mesh:
    """Returns a mesh with an axis for the batch, whose axes the compiler divides."""
    if isinstance(mesh, Mapping):
        sizes = tuple(mesh.values())
        there = jax.device_count()
        for axis, size in mesh.items():
            check_integer(f"mesh[{axis!r}]", size)
        if math.prod(sizes) > there:
            raise ValueError(
                f"`mesh` (={dict(mesh)}) needs {math.prod(sizes)} devices, but there are {there}."
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
            f"`mesh` has the axes ({axes}) but lacks the axis {DATA_AXIS!r}, over which the batch "
            f'is split. With size 1 it splits nothing: jax.make_mesh((1, 2), ("data", "model")).'
        )
    # With explicit axes, the model itself would have to declare how each product is divided.
    return Mesh(mesh.devices, mesh.axis_names)
