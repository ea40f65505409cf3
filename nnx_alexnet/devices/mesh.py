"""The mesh that the argument `devices` of a `Trainer` describes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from nnx_alexnet.support import check_integer, format_count

if TYPE_CHECKING:
    Devices = int | Literal["auto"] | Mesh | Mapping[str, int]
else:
    # The command line and config.yaml accept no mesh, only the sizes of its axes by name.
    Devices = int | Literal["auto"] | dict[str, int]

# The axis of the mesh over which the examples of a batch are split.
DATA_AXIS = "data"


def make_mesh(devices: Devices) -> Mesh:
    """Returns the mesh that the argument `devices` of a `Trainer` describes.

    Args:
        devices: the number of this process's devices or "auto", for one axis `data` over them; a
            mesh, or the sizes of its axes by name.

    Raises:
        ValueError: `devices` has another form, there are fewer devices than asked for, a process
            has none of them, or the mesh has no axis `data`.
    """
    if isinstance(devices, Mesh | Mapping):
        made = _as_mesh(devices)
        given = f"`devices` (={dict(made.shape)})"
    else:
        made = Mesh(np.array(_choose_devices(devices)), (DATA_AXIS,))
        given = f"`devices` (={devices!r})"
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


def _choose_devices(devices: int | Literal["auto"]) -> list[jax.Device]:
    """Returns the devices that a number or "auto" describes."""
    if devices == "auto":
        default = jax.config.jax_default_device  # type: ignore[attr-defined]
        if default is None:
            return list(jax.devices())
        return [jax.devices(default)[0] if isinstance(default, str) else default]
    local = list(jax.local_devices())
    reason = f"this process has {format_count(len(local), f'{local[0].platform} device')}"
    check_integer("devices", devices, maximum=len(local), also=("auto",), reason=reason)
    return local[:devices]


def _as_mesh(mesh: Mesh | Mapping[str, int]) -> Mesh:
    """Returns a mesh with an axis for the batch, whose axes the compiler divides."""
    if isinstance(mesh, Mapping):
        sizes = tuple(mesh.values())
        there = jax.device_count()
        for axis, size in mesh.items():
            check_integer(f"devices[{axis!r}]", size)
        if math.prod(sizes) > there:
            raise ValueError(
                f"`devices` (={dict(mesh)}) needs {math.prod(sizes)} devices, but there are "
                f"{there}."
            )
        if DATA_AXIS in mesh:
            mesh = jax.make_mesh(sizes, tuple(mesh))
    names: Sequence[str] = tuple(mesh) if isinstance(mesh, Mapping) else mesh.axis_names
    if isinstance(mesh, Mapping) or DATA_AXIS not in names:
        axes = ", ".join(repr(name) for name in names)
        raise ValueError(
            f"`devices` has the axes ({axes}) but lacks the axis {DATA_AXIS!r}, over which the "
            "batch is split. With size 1 it splits nothing: "
            'jax.make_mesh((1, 2), ("data", "model")).'
        )
    # With explicit axes, the model itself would have to declare how each product is divided.
    return Mesh(mesh.devices, mesh.axis_names)
