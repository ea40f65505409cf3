"""How the batches and the state of a run are split over its devices.

The program is written for the whole batch and the whole model. XLA divides it according to the
shardings of its inputs and inserts the communication (Xu et al. 2021, "GSPMD",
https://arxiv.org/abs/2105.04663). Means, BatchNorm's statistics and random draws therefore are
those of the global batch, whatever the number of devices.
"""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P  # the name that JAX's documentation uses

from nnx_alexnet.devices.mesh import DATA_AXIS, Devices, describe_mesh, make_mesh
from nnx_alexnet.devices.shared_program import SharedProgram
from nnx_alexnet.devices.state_sharding import check_axes, state_specs
from nnx_alexnet.support import check_bools

_put = SharedProgram(jax.device_put)


class Placement:
    """The devices of a run, and how its arrays are split over them.

    Args:
        devices: the number of this process's devices to use, or `"auto"` (the default): all
            devices of all processes, or only that of `jax.default_device` if it is set. The batch
            is split over them. Or a `jax.sharding.Mesh`, or the sizes of its axes by name: the
            axis `data` splits the batch; every other axis splits the parameters whose sharding
            metadata name it.
        shard_state: whether parameters and optimizer state are split over `data` as well
            (Rajbhandari et al. 2020, "ZeRO", https://arxiv.org/abs/1910.02054).

    Attributes:
        mesh: the mesh. The compiler chooses how it divides each operation over the axes.
        batch: sharding of a batch, `[B, ...]`.
        batches: sharding of several stacked batches, `[K, B, ...]`.
        replicated: sharding of an array of which each device has a copy.
        shard_state: as given.

    Raises:
        ValueError: there are fewer devices than asked for, or the mesh has no axis `data`.

    Example:
        >>> from nnx_alexnet.devices.sharding import Placement
        >>> placement = Placement(devices=1)
        >>> placement.describe(), placement.batch.spec
        ('data 1', P('data',))
    """

    def __init__(
        self,
        devices: Devices = "auto",
        *,
        shard_state: bool = False,
    ) -> None:
        check_bools(shard_state=shard_state)
        self.mesh: Mesh = make_mesh(devices)
        self.shard_state = shard_state
        self.batch = NamedSharding(self.mesh, P(DATA_AXIS))
        self.batches = NamedSharding(self.mesh, P(None, DATA_AXIS))
        self.replicated = NamedSharding(self.mesh, P())

    @property
    def num_devices(self) -> int:
        """Number of devices in use, of all processes."""
        return int(self.mesh.size)

    @property
    def num_parts(self) -> int:
        """Number of parts into which a batch is split: the size of the axis `data`."""
        return int(self.mesh.shape[DATA_AXIS])

    def describe(self) -> str:
        """Returns the axes of the mesh and their sizes, such as "data 2 x model 2"."""
        return describe_mesh(self.mesh)

    def context(self) -> AbstractContextManager[Any]:
        """Returns a context that hides any other mesh that the caller has set.

        In a mesh of explicit axes, such as `jax.make_mesh` makes, the compiler divides nothing.
        """
        present = jax.sharding.get_mesh()
        context: AbstractContextManager[Any] = jax.set_mesh(
            present if present == self.mesh else None
        )
        return context

    # ---- Batches ----------------------------------------------------------------------------

    def check_batch_size(self, batch_size: int) -> None:
        """Raises a `ValueError` unless a batch splits into equal parts."""
        parts = self.num_parts
        if batch_size % parts == 0:
            return
        below = batch_size // parts * parts
        nearest = " or ".join(str(size) for size in (below, below + parts) if size)
        raise ValueError(
            f"`batch_size` (={batch_size}) must be a multiple of the {parts} parts into which a "
            f"batch is split, one for each device along the axis `{DATA_AXIS}` "
            f"({self.describe()}). The nearest sizes that work are {nearest}; or use fewer "
            "`devices`."
        )

    def of_batch(self, batch_size: int, *, stacked: bool = False) -> NamedSharding:
        """Returns the sharding of a batch, or of several stacked batches.

        A batch whose size is not a multiple of `num_parts` is not split: every device holds all
        rows and computes what a single device would.
        """
        if batch_size % self.num_parts:
            return self.replicated
        return self.batches if stacked else self.batch

    def rows(self, batch_size: int) -> slice | None:
        """Returns which rows of a batch this process reads; None for all."""
        if self.batch.is_fully_addressable or batch_size % self.num_parts:
            return None
        parts = self.batch.addressable_devices_indices_map((batch_size,)).values()
        ends = sorted({part[0].indices(batch_size)[:2] for part in parts if part is not None})
        if any(stop != start for (_, stop), (start, _) in itertools.pairwise(ends)):
            raise ValueError(
                f"`devices` (={dict(self.mesh.shape)}) gives process {jax.process_index()} "
                f"parts of the axis `{DATA_AXIS}` that are not adjacent. Order its devices by "
                "process, as jax.make_mesh does."
            )
        return slice(ends[0][0], ends[-1][1])

    def send(self, batch: Any, batch_size: int, *, stacked: bool = False) -> Any:
        """Puts the rows that this process has read on its devices, as part of the global batch.

        Args:
            batch: a tree of NumPy arrays `[rows, ...]`, or `[K, rows, ...]` if stacked, which hold
                the rows that `rows` returns.
            batch_size: number of rows of the global batch.
            stacked: whether `batch` holds several stacked batches.

        Returns:
            The same tree of global arrays, sharded as `of_batch` returns. For a single device,
            `batch` itself: passing NumPy arrays to a compiled step takes less time.
        """
        if self.mesh.size == 1:
            return batch
        sharding = self.of_batch(batch_size, stacked=stacked)
        if sharding.is_fully_addressable:
            return jax.device_put(batch, sharding)
        axis = int(stacked)

        def place(rows: np.ndarray[Any, Any]) -> jax.Array:
            shape = (*rows.shape[:axis], batch_size, *rows.shape[axis + 1 :])
            made: jax.Array = jax.make_array_from_process_local_data(sharding, rows, shape)
            return made

        return jax.tree.map(place, batch)

    def sent(self, example: Any, batch_size: int, *, num_steps: int | None = None) -> Any:
        """Returns the shapes and shardings of what `send` returns.

        Args:
            example: a tree of shapes and dtypes `[batch_size, ...]`.
            batch_size: number of rows of the global batch.
            num_steps: how many batches are stacked (default None: one batch, not stacked).
        """
        is_stacked = num_steps is not None
        sharding = None
        if self.mesh.size > 1:
            sharding = self.of_batch(batch_size, stacked=is_stacked)
        front = (num_steps,) if is_stacked else ()
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((*front, *leaf.shape), leaf.dtype, sharding=sharding),
            example,
        )

    def own_rows(self, outputs: Any, part: slice | None = None) -> Any:
        """Returns the rows of arrays `[B, ...]` that this process read; other arrays whole.

        Args:
            outputs: a tree of arrays, split over the batch axis or replicated.
            part: the rows to take from replicated arrays; None if those have no batch axis.
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
        """Returns an array that this process can read; all processes must call it together."""
        if getattr(array, "is_fully_addressable", True) or array.is_fully_replicated:
            return array
        gathered: jax.Array = _put(array, self.replicated)
        return gathered

    # ---- State ------------------------------------------------------------------------------

    def shardings(self, state: nnx.State[Any, Any]) -> list[NamedSharding]:
        """Returns how each leaf of a state is stored, in the order of `jax.tree.leaves`.

        Args:
            state: of a model or an optimizer; its variables may carry sharding metadata
                (`nnx.with_partitioning`, or `kernel_metadata={"out_sharding": ...}`). Axes that
                the mesh does not have split nothing.

        Raises:
            ValueError: a dimension is not a multiple of the axis that its metadata name.
        """
        specs = state_specs(state, self.mesh, over_data=self.shard_state)
        return [NamedSharding(self.mesh, spec) for spec in specs]

    def gathered(self, state: nnx.State[Any, Any]) -> list[NamedSharding]:
        """Returns how a step uses each leaf: like `shardings`, but without `shard_state`."""
        specs = state_specs(state, self.mesh, over_data=False)
        return [NamedSharding(self.mesh, spec) for spec in specs]

    def check_axes(self, state: nnx.State[Any, Any]) -> None:
        """Raises a `ValueError` if an axis of the mesh splits nothing of a model's state."""
        check_axes(state, self.mesh)
