"""The summary table of a model: inputs, outputs and parameters of each layer."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from nnx_alexnet.models.modes import define, tell_mode

# The attribute that holds the path of a layer in the traced copy. nnx.bridge.ToNNX would treat an
# attribute with another name as a variable of its Linen module.
_PATH = "to_nnx__path"
# The inputs and outputs of each layer's first call, by path, while a model is traced.
_calls: ContextVar[dict[str, tuple[str, str]] | None] = ContextVar("calls", default=None)


def summarize(model: nnx.Module, input_shape: Sequence[int], *, width: int = 120) -> str:
    """Returns a table of the model's layers, in the order in which they are called.

    Each row has a layer's path and type, its input and output shapes in evaluation mode, and its
    own parameters and batch statistics, without those of its sublayers. The last line has the
    totals. Layers that the model does not call are last and have no shapes. Only shapes are
    traced, on a copy: nothing is computed, and neither the model nor a class is changed.

    Args:
        model: any `nnx.Module` that is called with one batch of float32 arrays.
        input_shape: the shape of that batch, such as (10, 96, 96, 1) for 10 images.
        width: the number of columns of text (default 120); longer cells are folded.

    Returns:
        Plain text of several lines, the same for the same model and shape.

    Raises:
        ValueError: `input_shape` is not a shape, or `width` is too small.
        Exception: the model itself raised an error for a batch of that shape.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.summary import summarize
        >>> print(summarize(nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0))), (5, 3), width=90))
        layer     type    input         output        parameters  statistics
        layers/0  Linear  float32[5,3]  float32[5,2]  8 (32 B)
        Total: 8 parameters (32 B) and 0 batch statistics (0 B), 8 in all (32 B).
    """
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            f"`input_shape` (={input_shape!r}) must be positive integers, the batch first, such as "
            "(10, 96, 96, 1) for 10 grey images of 96x96."
        )
    if width < 60:
        raise ValueError(f"`width` (={width}) must be at least 60 columns.")
    definitions = define(model)
    modules = {_name(path): module for path, module in nnx.iter_modules(model)}
    with _recorded() as calls:
        jax.eval_shape(
            functools.partial(_forward, definitions.evaluation),
            definitions.state,
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )
    held = {
        kind: _held(nnx.filter_state(definitions.state, kind), modules)
        for kind in (nnx.Param, nnx.BatchStat)
    }
    order = [*calls, *(name for name in modules if name not in calls and _holds(held, name))]
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in ("layer", "type", "input", "output", "parameters", "statistics"):
        table.add_column(heading, overflow="fold")
    for name in order:
        if not name and not _holds(held, name) and len(order) > 1:
            continue  # the model itself, if only its layers hold arrays
        counts = (_counted(held[kind].get(name, ())) for kind in held)
        table.add_row(
            name or "(model)", type(modules[name]).__name__, *calls.get(name, ("", "")), *counts
        )
    return f"{_text(table, width)}\n{_totals(definitions.state)}"


def _forward(definition: Any, state: Any, inputs: jax.Array) -> Any:
    """Calls a copy of the model whose layers record their inputs and outputs."""
    model = nnx.merge(definition, state)
    for path, module in nnx.iter_modules(model):
        module.__class__ = _recording_subclass(type(module))
        setattr(module, _PATH, _name(path))
    tell_mode(model, training=False)
    return model(inputs)


@contextmanager
def _recorded() -> Iterator[dict[str, tuple[str, str]]]:
    calls: dict[str, tuple[str, str]] = {}
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


@functools.cache
def _recording_subclass(layer_class: type[nnx.Module]) -> type[nnx.Module]:
    """Returns a subclass that records the shapes of its first call."""
    call: Any = next(
        (vars(c)["__call__"] for c in layer_class.__mro__ if "__call__" in vars(c)), None
    )
    if call is None:
        return layer_class

    @functools.wraps(call)
    def call_and_record(self: Any, *arguments: Any, **named: Any) -> Any:
        calls = _calls.get()
        path = getattr(self, _PATH, None)
        if calls is not None and path is not None and path not in calls:
            calls[path] = (
                _shapes((arguments, named)),
                "",
            )  # listed before its sublayers
            outputs = call(self, *arguments, **named)
            calls[path] = (calls[path][0], _shapes(outputs))
            return outputs
        return call(self, *arguments, **named)

    namespace = {
        "__call__": call_and_record,
        "__module__": layer_class.__module__,
        "__qualname__": layer_class.__qualname__,
        "__doc__": layer_class.__doc__,
    }
    return type(layer_class.__name__, (layer_class,), namespace)


def _name(path: Sequence[Any]) -> str:
    return "/".join(map(str, path))


def _shapes(tree: Any) -> str:
    """Returns dtype and shape of each array in a pytree."""
    return ", ".join(
        f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "dtype") and hasattr(leaf, "shape")
    )


def _held(state: Any, modules: dict[str, Any]) -> dict[str, list[Any]]:
    """Returns the arrays that each layer holds itself, by path."""
    held: dict[str, list[Any]] = {}
    for path, variable in nnx.to_flat_state(state):
        owner = next(
            name for end in reversed(range(len(path))) if (name := _name(path[:end])) in modules
        )
        held.setdefault(owner, []).extend(jax.tree.leaves(variable))
    return held


def _holds(held: dict[Any, dict[str, list[Any]]], name: str) -> bool:
    return any(name in by_layer for by_layer in held.values())


def _counted(leaves: Sequence[Any]) -> str:
    number, num_bytes = _size(leaves)
    return f"{number:,} ({readable_size(num_bytes)})" if leaves else ""


def _size(leaves: Sequence[Any]) -> tuple[int, int]:
    """Returns the number of elements of arrays, and of their bytes."""
    sizes = [(int(np.prod(np.shape(leaf))), jnp.result_type(leaf).itemsize) for leaf in leaves]
    return sum(size for size, _ in sizes), sum(size * itemsize for size, itemsize in sizes)


def _totals(state: Any) -> str:
    parameters, parameter_bytes = _size(jax.tree.leaves(nnx.filter_state(state, nnx.Param)))
    statistics, statistic_bytes = _size(jax.tree.leaves(nnx.filter_state(state, nnx.BatchStat)))
    return (
        f"Total: {parameters:,} parameters ({readable_size(parameter_bytes)}) and "
        f"{statistics:,} batch statistics ({readable_size(statistic_bytes)}), "
        f"{parameters + statistics:,} in all ({readable_size(parameter_bytes + statistic_bytes)})."
    )


def _text(table: Table, width: int) -> str:
    written = io.StringIO()
    console = Console(
        file=written, width=width, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip("\n").splitlines())


def readable_size(num_bytes: int) -> str:
    """Returns a size in decimal units with one decimal.

    Example:
        >>> from nnx_alexnet.models.summary import readable_size
        >>> readable_size(86_406_696)
        '86.4 MB'
    """
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if num_bytes > scale:
            return f"{num_bytes / scale:,.1f} {unit}"
    return f"{num_bytes} B"
