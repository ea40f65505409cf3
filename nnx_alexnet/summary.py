"""The table of a model: what each layer takes, returns and holds."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def summarize(model: nnx.Module, input_shape: Sequence[int], *, width: int = 120) -> str:
    """Returns a table of the model's layers, in the order in which a batch goes through them.

    Each row has a layer's path and type, the shapes it takes and returns, and its batch
    statistics and parameters, counted and in bytes; the last line has the totals. It is
    `flax.nnx.tabulate` in evaluation mode, on shapes alone: nothing is computed, and the model
    is not changed.

    Args:
        model: any `nnx.Module` that is called with one batch of float32 arrays.
        input_shape: the shape of that batch, with the batch itself, such as (10, 96, 96, 1).
        width: columns of text (default 120); longer cells are folded.

    Returns:
        Plain text of several lines, the same for the same model and shape.

    Raises:
        ValueError: `input_shape` is not a shape, or `width` is too small; whatever the model
            itself raises for a batch of that shape.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.summary import summarize
        >>> text = summarize(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), (5, 3))
        >>> print(text.splitlines()[-1])
        Total: 8 parameters (32 B) and 0 batch statistics (0 B), 8 in all (32 B).
    """
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            f"`input_shape` (={input_shape!r}) must be positive integers, the batch first: "
            "(10, 96, 96, 1) is 10 grey images of 96x96."
        )
    if width < 60:
        raise ValueError(f"`width` (={width}) must be at least 60 columns.")

    tables: list[str] = []

    def forward(model: Any, inputs: jax.Array) -> Any:
        model.eval()
        return model(inputs)

    def tabulate(model: Any, inputs: jax.Array) -> None:
        model.eval()
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.Dropout):
                module.rngs = None  # not needed in evaluation, and a column of noise
        for _, variable in nnx.iter_graph(model):
            if isinstance(variable, nnx.Variable):
                for name in variable.get_metadata():
                    if "sharding" in name:  # a line for each dimension of each array
                        variable.del_metadata(name)
        tables.append(
            nnx.tabulate(
                model,
                inputs,
                table_kwargs={"box": None, "pad_edge": False},
                column_kwargs={"overflow": "fold"},
                console_kwargs={
                    "force_terminal": False,
                    "force_jupyter": False,
                    "color_system": None,
                    "width": width,
                },
            )
        )

    # `nnx.eval_shape` hands over a copy of the model that holds no values.
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    # `nnx.tabulate` patches the layers' classes while it runs, and leaves them so if the model
    # raises. So the model must raise before.
    nnx.eval_shape(forward, model, inputs)
    nnx.eval_shape(tabulate, model, inputs)
    lines = [line.rstrip() for line in tables[0].splitlines()]

    parameters, parameter_bytes = _count(model, nnx.Param)
    statistics, statistic_bytes = _count(model, nnx.BatchStat)
    total = (
        f"Total: {parameters:,} parameters ({readable_size(parameter_bytes)}) and "
        f"{statistics:,} batch statistics ({readable_size(statistic_bytes)}), "
        f"{parameters + statistics:,} in all ({readable_size(parameter_bytes + statistic_bytes)})."
    )
    return "\n".join([*lines, total])


def _count(model: nnx.Module, kind: type[nnx.Variable[Any]]) -> tuple[int, int]:
    """Returns how many numbers, and how many bytes, the variables of one kind hold."""
    leaves = jax.tree.leaves(nnx.state(model, kind))
    return sum(leaf.size for leaf in leaves), sum(
        leaf.size * leaf.dtype.itemsize for leaf in leaves
    )


def readable_size(num_bytes: int) -> str:
    """Returns a size in decimal units with one decimal, as `nnx.tabulate` prints it.

    Example:
        >>> from nnx_alexnet.summary import readable_size
        >>> readable_size(86_406_696)
        '86.4 MB'
    """
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if num_bytes > scale:
            return f"{num_bytes / scale:,.1f} {unit}"
    return f"{num_bytes} B"
