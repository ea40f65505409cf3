"""How each array of a model or an optimizer is split over the axes of a mesh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P  # the name that JAX's documentation uses

from nnx_alexnet.devices.mesh import DATA_AXIS, describe_mesh
from nnx_alexnet.devices.named_arrays import named_leaves

# Arrays with fewer values stay whole: sending them costs more than keeping them.
_MIN_SHARDED = 2**10


class Leaf(NamedTuple):
    """An array of a state.

    Attributes:
        name: its path, such as "conv1/kernel".
        shape: its shape.
        spec: what its sharding metadata name; `P()` if they do not fit the array.
        is_parameter: whether it belongs to an `nnx.Param`.
    """

    name: str
    shape: tuple[int, ...]
    spec: P
    is_parameter: bool


def state_specs(state: nnx.State[Any, Any], mesh: Mesh, *, over_data: bool) -> list[P]:
    """Returns how each leaf of a state is split over a mesh, in the order of `jax.tree.leaves`.

    Args:
        state: of a model or an optimizer; its variables may carry sharding metadata. Axes that
            the mesh does not have split nothing.
        mesh: the mesh.
        over_data: whether leaves are split over the axis `data` as well.

    Raises:
        ValueError: a dimension of a parameter is not a multiple of the axis that its metadata name.
    """
    leaves = _leaves(state)
    specs = [_spec_in(mesh, leaf) for leaf in leaves]
    if not over_data:
        return specs
    parts = int(mesh.shape[DATA_AXIS])
    return [_over_data(spec, leaf.shape, parts) for spec, leaf in zip(specs, leaves, strict=True)]


def check_axes(state: nnx.State[Any, Any], mesh: Mesh) -> None:
    """Raises a `ValueError` if an axis of a mesh splits nothing.

    Args:
        state: of a model.
        mesh: the mesh.
    """
    named = {axis for leaf in _leaves(state) for axis in _axes(leaf.spec)}
    for axis, size in mesh.shape.items():
        if size > 1 and axis != DATA_AXIS and axis not in named:
            known = f"name {sorted(named)}" if named else "name none"
            raise ValueError(
                f"`devices` has an axis {axis!r} of {size} devices over which nothing of the "
                f"model is split: the sharding metadata of its parameters {known}. Leave the "
                "axis out, or build the layers with kernel_metadata="
                f'{{"out_sharding": (None, {axis!r}), "eager_sharding": False}}.'
            )


def _leaves(state: nnx.State[Any, Any]) -> list[Leaf]:
    names = iter(named_leaves(state))
    found = []
    for variable in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nnx.Variable)):
        arrays = jax.tree.leaves(variable)
        has_metadata = isinstance(variable, nnx.Variable) and len(arrays) == 1
        spec = (nnx.spmd.get_var_pspec(variable) if has_metadata else None) or P()
        for array in arrays:
            shape = np.shape(array)
            # An optimizer may keep a smaller array under its parameter's metadata.
            fitting = spec if len(spec) <= len(shape) else P()
            found.append(Leaf(next(names), shape, fitting, isinstance(variable, nnx.Param)))
    return found


def _spec_in(mesh: Mesh, leaf: Leaf) -> P:
    """Returns the spec of a leaf without the axes that the mesh does not have."""
    kept = []
    for entry, length in zip(leaf.spec, leaf.shape, strict=False):
        axes = tuple(axis for axis in _axes(P(entry)) if axis in mesh.shape)
        size = math.prod(mesh.shape[axis] for axis in axes)
        if length % size:
            if not leaf.is_parameter:
                return P()
            raise ValueError(
                f"`devices` ({describe_mesh(mesh)}) splits `{leaf.name}` of shape {leaf.shape} "
                f"over {axes}, but {length} is not a multiple of {size}. Another size of the axis, "
                "or of the layer, works."
            )
        kept.append(axes[0] if len(axes) == 1 else axes or None)
    return _shortest(kept)


def _over_data(spec: P, shape: tuple[int, ...], parts: int) -> P:
    """Returns a spec that also splits the longest divisible dimension over the axis `data`."""
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    free = [
        (length, -number)
        for number, (entry, length) in enumerate(zip(entries, shape, strict=True))
        if entry is None and length % parts == 0
    ]
    is_small = math.prod(shape) < _MIN_SHARDED
    if parts == 1 or not free or is_small or DATA_AXIS in _axes(spec):
        return spec
    entries[-max(free)[1]] = DATA_AXIS
    return _shortest(entries)


def _shortest(entries: Sequence[Any]) -> P:
    """Returns a spec without trailing None, as JAX writes the specs of a step's results."""
    kept = [*entries]
    while kept and kept[-1] is None:
        kept.pop()
    return P(*kept)


def _axes(spec: P) -> list[str]:
    """Returns the axes that a spec names, in order."""
    return [
        axis
        for entry in spec
        if entry is not None
        for axis in (entry if isinstance(entry, tuple) else (entry,))
    ]
