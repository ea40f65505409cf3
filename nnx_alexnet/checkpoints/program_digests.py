"""Inspects traced functions: digests of what they compute, by which two runs are compared."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# These divide arrays over devices, which does not change what is computed.
_PLACING = {"sharding_constraint", "reshard"}
# Parameters of operations that concern names, placement or compilation, or that hold a function
# whose jaxpr is another parameter.
_IGNORED = {
    "name", "sharding", "out_sharding", "in_shardings", "out_shardings", "in_layouts",
    "out_layouts", "donated_invars", "ctx_mesh", "mesh", "keep_unused", "inline",
    "compiler_options_kvs", "dst_sharding", "unconstrained_dims", "layout", "jvp_jaxpr_fun",
    "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd", "out_trees", "debug_info", "concrete_mesh",
}  # fmt: skip
_MAX_CONSTANTS = 40  # in a message; the digest covers all of them
_ADDRESS = re.compile(r" at 0x[0-9a-f]+|\bid=\d+")


def fingerprint(jaxpr: Any) -> str:
    """Returns a digest of a traced function: its operations, their constants and their shapes.

    It depends on the order of the operations, which is that of the code. It does not depend on
    names of variables and functions, or on the devices over which the function is divided.

    Args:
        jaxpr: result of `jax.make_jaxpr`.

    Returns:
        16 hexadecimal digits. Another version of a library may trace the same code differently.

    Example:
        >>> import jax
        >>> from nnx_alexnet.checkpoints.program_digests import fingerprint
        >>> first, same, other = (
        ...     fingerprint(jax.make_jaxpr(lambda x: x * rate)(1.0)) for rate in (0.1, 0.1, 0.2)
        ... )
        >>> first == same, first == other
        (True, False)
    """
    digest = hashlib.sha256()
    for part in _closed(jaxpr):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def float_constants(jaxpr: Any) -> list[float]:
    """Returns the finite floating-point constants of a traced function, sorted, at most 40.

    Args:
        jaxpr: result of `jax.make_jaxpr`.

    Example:
        >>> import jax
        >>> from nnx_alexnet.checkpoints.program_digests import float_constants
        >>> float_constants(jax.make_jaxpr(lambda x: 0.5 * x + 3.0)(1.0))
        [0.5, 3.0]
    """
    found = {float(f"{value:.6g}") for value in _floats(jaxpr.jaxpr) if math.isfinite(value)}
    return sorted(found)[:_MAX_CONSTANTS]


def unchanged(jaxpr: Any, num: int) -> list[int]:
    """Returns which of the first inputs a traced function returns unchanged, at the same position.

    Args:
        jaxpr: result of `jax.make_jaxpr`.
        num: number of inputs to look at.

    Example:
        >>> import jax
        >>> from nnx_alexnet.checkpoints.program_digests import unchanged
        >>> unchanged(jax.make_jaxpr(lambda x, y: (x, 2 * y))(1.0, 1.0), 2)
        [0]
    """
    origins: dict[Any, Any] = {}
    for equation in jaxpr.jaxpr.eqns:
        if equation.primitive.name in _PLACING and not hasattr(equation.invars[0], "val"):
            before = equation.invars[0]
            origins[equation.outvars[0]] = origins.get(before, before)
    pairs = zip(jaxpr.jaxpr.invars[:num], jaxpr.jaxpr.outvars[:num], strict=True)
    return [
        number
        for number, (given, returned) in enumerate(pairs)
        if not hasattr(returned, "val") and origins.get(returned, returned) is given
    ]


def _floats(jaxpr: Any) -> Iterator[float]:
    for equation in jaxpr.eqns:
        for variable in equation.invars:
            value = getattr(variable, "val", None)
            if value is not None and np.ndim(value) == 0 and _is_floating(value):
                yield float(value)
        for inner in _inner(equation.params):
            yield from _floats(getattr(inner, "jaxpr", inner))


def _is_floating(value: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(value), jnp.floating))


def _inner(params: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs in the parameters of an operation."""
    for value in params.values():
        for each in value if isinstance(value, list | tuple) else (value,):
            if hasattr(getattr(each, "jaxpr", each), "eqns"):
                yield each


def _closed(jaxpr: Any) -> Iterator[bytes]:
    """Yields a jaxpr with its constants, as bytes that are the same in each process."""
    for constant in getattr(jaxpr, "consts", ()):
        yield from _value(constant)
    yield from _open(getattr(jaxpr, "jaxpr", jaxpr))


def _open(jaxpr: Any) -> Iterator[bytes]:
    numbers: dict[Any, int] = {}
    for variable in (*jaxpr.constvars, *jaxpr.invars):
        numbers[variable] = len(numbers)
        yield _shape(variable.aval)
    for equation in jaxpr.eqns:
        if equation.primitive.name in _PLACING and not hasattr(equation.invars[0], "val"):
            numbers[equation.outvars[0]] = numbers[equation.invars[0]]
            continue
        yield equation.primitive.name.encode()
        for name in sorted(equation.params):
            if name not in _IGNORED:
                yield name.encode()
                yield from _value(equation.params[name])
        for variable in equation.invars:
            yield from _operand(variable, numbers)
        for variable in equation.outvars:
            numbers[variable] = len(numbers)
            yield _shape(variable.aval)
    for variable in jaxpr.outvars:
        yield from _operand(variable, numbers)


def _operand(variable: Any, numbers: Mapping[Any, int]) -> Iterator[bytes]:
    if hasattr(variable, "val"):  # a literal
        yield from _value(variable.val)
        yield _shape(variable.aval)
    else:
        yield str(numbers[variable]).encode()


def _shape(aval: Any) -> bytes:
    return f"{getattr(aval, 'dtype', aval)}{getattr(aval, 'shape', '')}".encode()


def _value(value: Any) -> Iterator[bytes]:
    if hasattr(getattr(value, "jaxpr", value), "eqns"):
        yield from _closed(value)
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        yield from _array(value)
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield str(name).encode()
            yield from _value(value[name])
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        yield f"{len(value)}".encode()
        for item in value:
            yield from _value(item)
    elif isinstance(value, set | frozenset):  # their order differs between processes
        yield from sorted(b"".join(_value(item)) for item in value)
    elif isinstance(value, jax.sharding.Mesh | jax.sharding.AbstractMesh | jax.sharding.Sharding):
        return
    elif isinstance(value, Callable):  # type: ignore[arg-type]
        yield str(getattr(value, "__qualname__", type(value).__qualname__)).encode()
    elif hasattr(value, "shape") and hasattr(value, "dtype"):  # an abstract array
        yield _shape(value)
    else:
        yield _ADDRESS.sub("", repr(value)).encode()


def _array(array: Any) -> Iterator[bytes]:
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    values = np.asarray(array)
    yield f"{values.dtype}{values.shape}".encode()
    yield np.ascontiguousarray(values).tobytes()
