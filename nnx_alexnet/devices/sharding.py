"""Where the arrays of a run lie: the mesh of devices, and what of it each array is split over.

The program is written for the whole batch and the whole model. XLA divides it after the shardings
of what goes in, and puts the communication between (Xu et al. 2021, "GSPMD",
https://arxiv.org/abs/2105.04663); so means, BatchNorm's statistics and random draws are those of
the global batch whatever the number of devices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P  # as JAX's own documentation calls it

from nnx_alexnet.devices.mesh import DATA_AXIS, Devices, MeshLike, as_mesh, choose_devices
from nnx_alexnet.devices.named_arrays import named_leaves
from nnx_alexnet.devices.shared_program import SharedProgram

# Arrays of fewer values stay whole: sending them costs more than keeping them.
_LEAST_SHARDED = 2**10
_put = SharedProgram(jax.device_put)


class Placement:
    """The devices of a run, and how its arrays are split over them.

    Args:
        devices: how many of this process's devices, or `"auto"` (the default): all devices of all
            processes; only the one of `jax.default_device`, if that is set. The batch is split
            over them.
        mesh: the devices and what they share instead, a `jax.sharding.Mesh` or the sizes of its
            axes by name. The axis `data` splits the batch; any other splits the parameters whose
            sharding metadata name it.
        shard_state: whether the parameters and the optimizer's state are split over `data` as
            well (Rajbhandari et al. 2020, "ZeRO", https://arxiv.org/abs/1910.02054).

    Attributes:
        mesh: the mesh; the compiler chooses how each operation is divided over its axes.
        batch: the sharding of a batch, `[B, ...]`.
        batches: that of several batches side by side, `[K, B, ...]`.
        replicated: that of an array of which each device has a copy.
        shard_state: as given.

    Raises:
        ValueError: there are not so many devices, or the mesh has no axis `data`.

    Example:
        >>> from nnx_alexnet.devices.sharding import Placement
        >>> placement = Placement(devices=1)
        >>> placement.describe(), placement.batch.spec
        ('data 1', P('data',))
    """

    def __init__(
        self,
        devices: Devices = "auto",
        mesh: MeshLike | None = None,
        *,
        shard_state: bool = False,
    ) -> None:
        if mesh is None:
            chosen = choose_devices(devices)
            self.mesh = Mesh(np.array(chosen), (DATA_AXIS,))
        elif devices != "auto":
            raise ValueError(
                f"`devices` (={devices!r}) and `mesh` (={mesh!r}) both say which devices are used; "
                "give one of them."
            )
        else:
            self.mesh = as_mesh(mesh)
        present = {device.process_index for device in self.mesh.devices.flat}
        if missing := sorted({*range(jax.process_count())} - present):
            given = (
                f"`devices` (={devices!r})"
                if mesh is None
                else f"`mesh` (={dict(self.mesh.shape)})"
            )
            raise ValueError(
                f"{given} has no device of the processes {missing}; a run takes some of each. "
                'devices="auto" takes all, unless `jax.default_device` is set.'
            )
        self.shard_state = shard_state
        self.batch = NamedSharding(self.mesh, P(DATA_AXIS))
        self.batches = NamedSharding(self.mesh, P(None, DATA_AXIS))
        self.replicated = NamedSharding(self.mesh, P())

    @property
    def num_devices(self) -> int:
        """Devices of all processes that take part."""
        return int(self.mesh.size)

    @property
    def num_parts(self) -> int:
        """Parts into which a batch is split: the size of the axis `data`."""
        return int(self.mesh.shape[DATA_AXIS])

    def describe(self) -> str:
        """Returns the axes of the mesh and their sizes, such as "data 2 x model 2"."""
        return " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items())

    def context(self) -> AbstractContextManager[Any]:
        """Returns a context in which no other mesh applies that the caller has set.

        In a mesh of explicit axes, which `jax.make_mesh` makes, the compiler would divide nothing.
        """
        present = jax.sharding.get_mesh()
        context: AbstractContextManager[Any] = jax.set_mesh(
            present if present == self.mesh else None
        )
        return context

    # ---- Batches ----------------------------------------------------------------------------

    def check_batch_size(self, batch_size: int) -> None:
        """Raises a `ValueError` unless a batch can be split in equal parts."""
        parts = self.num_parts
        if batch_size % parts == 0:
            return
        below = batch_size // parts * parts
        nearest = " or ".join(str(size) for size in (below, below + parts) if size)
        raise ValueError(
            f"`batch_size` (={batch_size}) must be a multiple of the {parts} parts that a batch "
            f"is split in, one for each device along the axis `{DATA_AXIS}` ({self.describe()}). "
            f"The nearest that work are {nearest}; or give fewer `devices`."
        )

    def padded(self, batch_size: int) -> int:
        """Returns the size of a batch when rows are added until it splits in equal parts."""
        return math.ceil(batch_size / self.num_parts) * self.num_parts

    def of_batch(self, batch_size: int, *, stacked: bool = False) -> NamedSharding:
        """Returns the sharding of a batch, or of several that are stacked.

        Rows that do not divide by `num_parts` are not split: each device has all of them, and
        computes what one device alone would.
        """
        if batch_size % self.num_parts:
            return self.replicated
        return self.batches if stacked else self.batch

    def rows(self, batch_size: int) -> slice | None:
        """Returns which rows of a batch this process reads; None: all of them."""
        if self.batch.is_fully_addressable or batch_size % self.num_parts:
            return None
        parts = self.batch.addressable_devices_indices_map((batch_size,)).values()
        ends = sorted({part[0].indices(batch_size)[:2] for part in parts if part is not None})
        if any(stop != start for (_, stop), (start, _) in itertools.pairwise(ends)):
            raise ValueError(
                f"`mesh` (={dict(self.mesh.shape)}) gives process {jax.process_index()} parts of "
                f"the axis `{DATA_AXIS}` that do not lie side by side. Order its devices by "
                "process, as jax.make_mesh does."
            )
        return slice(ends[0][0], ends[-1][1])

    def send(self, batch: Any, batch_size: int, *, stacked: bool = False) -> Any:
        """Puts the rows that this process read on its devices, as a part of the global batch.

        Args:
            batch: a tree of NumPy arrays `[rows, ...]`, or `[K, rows, ...]` if they are stacked;
                of the rows that `rows` names.
            batch_size: rows of the global batch.
            stacked: see `batch`.

        Returns:
            The same tree, of global arrays, sharded as `of_batch` says.
        """
        sharding = self.of_batch(batch_size, stacked=stacked)
        if sharding.is_fully_addressable:
            return jax.device_put(batch, sharding)
        axis = int(stacked)

        def place(rows: np.ndarray[Any, Any]) -> jax.Array:
            shape = (*rows.shape[:axis], batch_size, *rows.shape[axis + 1 :])
            made: jax.Array = jax.make_array_from_process_local_data(sharding, rows, shape)
            return made

        return jax.tree.map(place, batch)

    def own_rows(self, outputs: Any, part: slice | None = None) -> Any:
        """Returns the rows of arrays `[B, ...]` that this process read; other arrays whole.

        Args:
            outputs: a tree of arrays, split over the axis of the batch or replicated.
            part: the rows, where all of them are replicated, too; None: those are no rows.
        """
        if self.batch.is_fully_addressable:
            return outputs

        def own(array: jax.Array) -> jax.Array:
            if array.is_fully_replicated:
                whole: jax.Array = array.addressable_data(0)
                return whole if part is None else whole[part]
            parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
            here = jax.device_put([parts[start] for start in sorted(parts)], jax.local_devices()[0])
            return jnp.concatenate(here)

        return jax.tree.map(own, outputs)

    def whole(self, array: jax.Array) -> jax.Array:
        """Returns an array that this process can read; all processes call it together."""
        if getattr(array, "is_fully_addressable", True) or array.is_fully_replicated:
            return array
        gathered: jax.Array = _put(array, self.replicated)
        return gathered

    # ---- State ------------------------------------------------------------------------------

    def shardings(self, state: nnx.State[Any, Any]) -> list[NamedSharding]:
        """Returns how each leaf of a state is kept, in the order of `jax.tree.leaves`.

        Args:
            state: of a model or an optimizer; its variables may carry sharding metadata
                (`nnx.with_partitioning`, or `kernel_metadata={"out_sharding": ...}`). An axis
                that the mesh does not have splits nothing.

        Raises:
            ValueError: a dimension does not divide by the axis that its metadata name.
        """
        return [
            NamedSharding(self.mesh, self._over_data(spec, shape) if self.shard_state else spec)
            for spec, shape in self._specs(state)
        ]

    def gathered(self, state: nnx.State[Any, Any]) -> list[NamedSharding]:
        """Returns how a step uses each leaf: as `shardings`, without what `shard_state` adds."""
        return [NamedSharding(self.mesh, spec) for spec, _ in self._specs(state)]

    def check_axes(self, state: nnx.State[Any, Any]) -> None:
        """Raises a `ValueError` for an axis of the mesh that splits nothing."""
        named = {axis for spec, _ in self._specs(state, present=False) for axis in _axes(spec)}
        for axis, size in self.mesh.shape.items():
            if size > 1 and axis != DATA_AXIS and axis not in named:
                knows = f"name {sorted(named)}" if named else "name none"
                raise ValueError(
                    f"`mesh` has an axis {axis!r} of {size} devices over which nothing of the "
                    f"model is split: the sharding metadata of its parameters {knows}. Leave the "
                    "axis out, or build the layers with kernel_metadata="
                    f'{{"out_sharding": (None, {axis!r}), "eager_sharding": False}}.'
                )

    def _specs(
        self, state: nnx.State[Any, Any], *, present: bool = True
    ) -> list[tuple[P, tuple[int, ...]]]:
        """Returns what the metadata say of each leaf, and its shape."""
        names = iter(named_leaves(state))
        found = []
        for variable in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nnx.Variable)):
            leaves = jax.tree.leaves(variable)
            is_one = isinstance(variable, nnx.Variable) and len(leaves) == 1
            spec = (nnx.spmd.get_var_pspec(variable) if is_one else None) or P()
            for leaf in leaves:
                name, shape = next(names), np.shape(leaf)
                # An optimizer may keep a smaller array under its parameter's metadata.
                fitting = spec if len(spec) <= len(shape) else P()
                if present:
                    fitting = self._present(fitting, name, shape, variable)
                found.append((fitting, shape))
        return found

    def _present(self, spec: P, name: str, shape: tuple[int, ...], variable: Any) -> P:
        """Returns a spec without the axes that the mesh does not have."""
        kept = []
        for entry, length in zip(spec, shape, strict=False):
            axes = tuple(axis for axis in _axes(P(entry)) if axis in self.mesh.shape)
            size = math.prod(self.mesh.shape[axis] for axis in axes)
            if length % size:
                if not isinstance(variable, nnx.Param):
                    return P()
                raise ValueError(
                    f"`mesh` ({self.describe()}) splits `{name}` of shape {shape} over {axes}, but "
                    f"{length} is not a multiple of {size}. Another size of the axis, or of the "
                    "layer, works."
                )
            kept.append(axes[0] if len(axes) == 1 else axes or None)
        return _shortest(kept)

    def _over_data(self, spec: P, shape: tuple[int, ...]) -> P:
        """Returns a spec that also splits the longest dimension that divides over `data`."""
        entries = [*spec, *[None] * (len(shape) - len(spec))]
        free = [
            (length, -number)
            for number, (entry, length) in enumerate(zip(entries, shape, strict=True))
            if entry is None and length % self.num_parts == 0
        ]
        is_small = math.prod(shape) < _LEAST_SHARDED
        if self.num_parts == 1 or not free or is_small or DATA_AXIS in _axes(spec):
            return spec
        entries[-max(free)[1]] = DATA_AXIS
        return _shortest(entries)


def _shortest(entries: Sequence[Any]) -> P:
    """Returns a spec that ends with what is split, as JAX writes those of a step's results."""
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
