"""The summary table of a model: inputs, outputs and parameters of each layer."""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from nnx_alexnet.models.call_arguments import pass_arguments, with_call
from nnx_alexnet.models.modes import define

# The attribute that holds the place of a layer in the traced copy. nnx.bridge.ToNNX would treat an
# attribute with another name as a variable of its Linen module.
_PLACE = "to_nnx__place"
_UNLIMITED = 1_000_000  # the width of a table
# The inputs and outputs of each layer's first call, by path.
Calls = dict[str, tuple[str, str]]
# The calls of the trace under way; None outside of `recorded_calls`.
_calls: ContextVar[Calls | None] = ContextVar("calls", default=None)


class _Place:
    """The path of a layer in one trace.

    Two places are never equal, so a layer that is compiled by itself (`nnx.jit`) is traced again
    for each table.
    """

    def __init__(self, path: Sequence[Any]) -> None:
        self.name = _name(path)


def summarize(model: nnx.Module, input_shape: Sequence[int], *, width: int = 120) -> str:
    """Returns a table of the model's layers, in the order in which they are called.

    Each row has a layer's path and type, its input and output shapes in evaluation mode, and its
    own parameters and batch statistics, without those of its sublayers. The last line has the
    totals. Layers that the model does not call are last and have no shapes. Only shapes are
    traced, on a copy: nothing is computed, and neither the model nor a class is changed.

    Args:
        model: any `nnx.Module` that is called with one batch of float32 arrays.
        input_shape: the shape of that batch, such as (10, 96, 96, 1) for 10 images.
        width: the number of columns of text (default 120). A narrow table omits float32 and the
            sizes in bytes; cells that are still too long are folded.

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
        layers/0  Linear  float32[5,3]  float32[5,2]    8 (32 B)
        Total: 8 parameters (32 B) and 0 batch statistics (0 B), 8 in all (32 B).
    """
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            f"`input_shape` (={input_shape!r}) must be positive integers, the batch first, such as "
            "(10, 96, 96, 1) for 10 grey images of 96x96."
        )
    definitions = define(model)

    def forward(state: Any, inputs: jax.Array, key: jax.Array) -> Any:
        copy: Any = nnx.merge(definitions.evaluation, state)
        pass_arguments(copy, training=False, key=key)
        record_calls(copy)
        return copy(inputs)

    key = jax.eval_shape(lambda: jax.random.key(0))
    with recorded_calls() as calls:
        jax.eval_shape(forward, definitions.state, jax.ShapeDtypeStruct(shape, jnp.float32), key)
    return layer_table(model, calls, width=width)


@contextmanager
def recorded_calls() -> Iterator[Calls]:
    """Collects the calls of the layers of models that `record_calls` has prepared.

    Yields:
        The inputs and outputs of each layer's first call, by path and in the order of the calls.
        The dict is filled while the block runs.
    """
    calls: Calls = {}
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def record_calls(model: nnx.Module) -> None:
    """Lets each layer record its first call; does nothing outside of `recorded_calls`.

    Args:
        model: a copy that is being traced; the class of each of its layers becomes a subclass.
    """
    if _calls.get() is None:
        return
    for path, module in [*nnx.iter_modules(model)]:
        if not callable(module):  # an attribute of an nnx.Dict would be one of its items
            continue
        with suppress(Exception):  # a class that cannot have subclasses is left out of the table
            module.__class__ = _recording_subclass(type(module))
            setattr(module, _PLACE, _Place(path))


def layer_table(model: nnx.Module, calls: Calls, *, width: int = 120) -> str:
    """Returns the table that `summarize` describes, for calls that were recorded before.

    Args:
        model: the model.
        calls: the result of `recorded_calls`; layers that are missing have no shapes.
        width: the number of columns of text, as for `summarize`.

    Raises:
        ValueError: `width` is too small.

    Example:
        >>> from flax import nnx
        >>> from nnx_alexnet.models.summary import layer_table
        >>> print(layer_table(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), {}))
        layer    type    input  output  parameters  statistics
        (model)  Linear                   8 (32 B)
        Total: 8 parameters (32 B) and 0 batch statistics (0 B), 8 in all (32 B).
    """
    if width < 60:
        raise ValueError(f"`width` (={width}) must be at least 60 columns.")
    state = define(model).state
    modules = {_name(path): module for path, module in nnx.iter_modules(model)}
    held = {
        kind: _held(nnx.filter_state(state, kind), modules) for kind in (nnx.Param, nnx.BatchStat)
    }
    order = [*calls, *(name for name in modules if name not in calls and _holds(held, name))]
    if len(order) > 1 and not _holds(held, ""):
        order = [name for name in order if name]  # without the model: only its layers hold arrays
    rows = [
        [name or "(model)", _kind(modules[name]), *calls.get(name, ("", ""))]
        + [_counted(held[kind].get(name, ())) for kind in held]
        for name in order
    ]
    text = _text(rows, _UNLIMITED)
    if max(map(len, text.splitlines())) > width:
        text = _text([_shortened(row) for row in rows], width)
    return f"{text}\n{textwrap.fill(_totals(state), width)}"


def _shortened(row: Sequence[str]) -> list[str]:
    """Omits float32 and the sizes in bytes."""
    *cells, parameters, statistics = row
    counts = (text.partition(" ")[0] for text in (parameters, statistics))
    return [*(text.replace("float32[", "[") for text in cells), *counts]


@functools.cache
def _recording_subclass(layer_class: type[nnx.Module]) -> type[nnx.Module]:
    """Returns a subclass that records the shapes of its first call."""
    original: Any = layer_class.__call__

    @functools.wraps(original)
    def call_and_record(self: Any, *arguments: Any, **named: Any) -> Any:
        call: Any = super(subclass, self).__call__
        calls = _calls.get()
        place = getattr(self, _PLACE, None)
        if calls is None or place is None or place.name in calls:
            return call(*arguments, **named)
        inputs = _shapes((arguments, named))
        calls[place.name] = inputs, ""  # listed before its sublayers
        outputs = call(*arguments, **named)
        calls[place.name] = inputs, _shapes(outputs)
        return outputs

    subclass = with_call(layer_class, call_and_record)
    return subclass


def _kind(module: nnx.Module) -> str:
    """Returns the name of a layer's type; for a bridge to Linen, that of its module."""
    return type(getattr(module, "to_nnx__module", module)).__name__


def _name(path: Sequence[Any]) -> str:
    return "/".join(map(str, path))


def _shapes(tree: Any) -> str:
    """Returns dtype and shape of each array in a pytree, except random number generators."""
    generators = (nnx.Rngs, nnx.RngStream)
    try:
        leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, generators))
    except Exception:  # such as a dict whose keys cannot be sorted
        return "?"
    return ", ".join(
        f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for leaf in leaves
        if not isinstance(leaf, generators) and hasattr(leaf, "dtype") and hasattr(leaf, "shape")
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


def _text(rows: Sequence[Sequence[str]], width: int) -> str:
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in ("layer", "type", "input", "output", "parameters", "statistics"):
        is_count = heading in ("parameters", "statistics")
        table.add_column(heading, overflow="fold", justify="right" if is_count else "left")
    for row in rows:
        table.add_row(*row)
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
