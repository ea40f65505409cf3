"""Tries a user's transform on shapes and on small batches, before anything is compiled."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from nnx_alexnet.data.applied_transform import (
    example_structs,
    transformed_batch,
)
from nnx_alexnet.data.batching import example_batch
from nnx_alexnet.data.examples import ElementSpec, named_fields, spec_text
from nnx_alexnet.data.seeding import restored_generators
from nnx_alexnet.data.transform_fields import fields_of_image
from nnx_alexnet.devices import on_host

Transform = Callable[..., Any]
HashableSpec = tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]  # the tree, and its leaves

_NUM_TRACES = 8  # a coin that is tossed while tracing shows the same side in 1 of 128 runs
_NUM_MIXED = 16  # examples; a permutation of them mixes no halves in 1 of 12,870 cases
_NUM_PROBED = 16  # images; a random flip mirrors none of them in 1 of 65,536 cases
_MAX_ELSEWHERE = 0.1  # share of a change that may occur elsewhere, as by a blur or contrast


def hashable_spec(spec: ElementSpec) -> HashableSpec:
    """Returns the shapes of one example as a value that a cache can use as its key."""
    leaves, tree = jax.tree.flatten(dict(spec))
    return tree, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)


@lru_cache(maxsize=16)
def checked_spec(
    transform: Transform, hashable: HashableSpec, name: str, takes_key: bool, how: str
) -> ElementSpec:
    """Returns the shapes of one example after a transform.

    Args:
        transform: called as `transform(batch, key)`.
        hashable: the shapes of one example, by `hashable_spec`.
        name: of the function.
        takes_key: whether the transform depends on the key of training.
        how: explains how a transform is written.

    Raises:
        ValueError: see `FunctionTransform.check`.
    """
    tree, leaves = hashable
    spec: ElementSpec = jax.tree.unflatten(tree, leaves)
    about = f"`transform` ({name}), for a batch of {_shown(spec)},"
    traces = [_traced(transform, spec, key, about, how) for key in _keys(takes_key)]
    _check_same_shapes(traces[0].result, traces[-1].result, about)
    if (path := _mixed_field(transform, spec)) is not None:
        raise ValueError(
            f"{about} computes `{path}` of an example from the other examples of its batch, so "
            "results in evaluation would depend on the batch size. Reduce over the axes of each "
            "example alone, as in image.mean(axis=(1, 2, 3), keepdims=True); mix examples only "
            "if `key` is not None."
        )
    for trace in traces:
        left = trace.untouched & fields_of_image(spec).keys()
        if left and (moving := _moving(transform, spec, trace.key)) is not None:
            path = min(left)
            raise ValueError(
                f"`transform` ({name}) {moving}, but returns `{path}` as it is: "
                f"{fields_of_image(spec)[path]}. Move it in the same way as the image. If its axes "
                "are not those of the image, flatten them to one."
            )
    return traces[0].result


class _Trace(NamedTuple):
    """The result of tracing a transform.

    Attributes:
        key: of training; None in evaluation.
        result: the shapes of one example after the transform.
        untouched: the paths of the arrays that the transform returns as they are.
    """

    key: jax.Array | None
    result: ElementSpec
    untouched: set[str]


def _keys(takes_key: bool) -> list[jax.Array | None]:
    """Returns the keys of evaluation and of training."""
    return [None, jax.random.key(0)] if takes_key else [None]


def _shown(spec: ElementSpec) -> str:
    shown = {path: spec_text(struct) for path, struct in named_fields(spec).items()}
    return ", ".join(f"`{path}` {text}" for path, text in shown.items())


def _check_same_shapes(evaluated: dict[str, Any], trained: dict[str, Any], about: str) -> None:
    others = named_fields(evaluated)
    for path, struct in named_fields(trained).items():
        other = others.get(path, struct)
        if other.shape != struct.shape:
            raise ValueError(
                f"{about} returns `{path}` of shape {list(struct.shape)} in training and "
                f"{list(other.shape)} in evaluation; both must have the same shape."
            )


# ---- Traces --------------------------------------------------------------------------------------


def _traced(
    transform: Transform, spec: ElementSpec, key: jax.Array | None, about: str, how: str
) -> _Trace:
    """Traces the function several times."""
    batch = example_batch(spec, 2)

    def called(batch: Any, key: Any) -> Any:
        try:
            return transform(batch, key)
        except Exception as error:
            if isinstance(error, KeyError) and error.args and error.args[0] not in batch:
                raise ValueError(
                    f"{about} reads {error}, which the batch does not have; its keys are "
                    f"{', '.join(sorted(batch))}. Fields that only some splits or the data of a "
                    f"prediction lack need a condition: if {error} in batch."
                ) from error
            why = f"{error}".partition("\n")[0].rstrip(".")
            raise ValueError(
                f"{about} fails: {type(error).__name__}: {why}. It runs inside the compiled step, "
                "so write it with jax.numpy. Transforms of PIL images or torch tensors, such as "
                f"torchvision's, belong in the dataset. {how}"
            ) from error

    def trace() -> Any:
        # A new function each time, or JAX would reuse the first trace.
        function = lambda batch, key: transformed_batch(called, batch, key, name=about)  # noqa: E731
        return jax.make_jaxpr(function, return_shape=True)(batch, key)

    with restored_generators():
        traces = [trace() for _ in range(_NUM_TRACES)]
    if len({_program(jaxpr) for jaxpr, _ in traces}) > 1:
        raise ValueError(
            f"{about} traces to a different program each time: it draws random numbers outside "
            "JAX, and the compiled step would reuse the same ones for all examples. Draw them "
            f"with jax.random from `key`. {how}"
        )
    closed, result = traces[0]
    before, after = [*named_fields(batch)], [*named_fields(result)]
    passed = zip(after, _passed_on(closed.jaxpr), strict=True)
    # The inputs are the arrays of the batch, and the key after them.
    untouched = {
        path for path, n in passed if n is not None and n < len(before) and before[n] == path
    }
    return _Trace(key, example_structs(result), untouched)


def _program(jaxpr: Any) -> tuple[str, bytes]:
    """Returns a traced program as text without addresses of functions, and its constants."""
    constants = b"".join(on_host(constant).tobytes() for constant in jaxpr.consts)
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr)), constants


def _passed_on(jaxpr: Any) -> list[int | None]:
    """Returns which input each output of a program is, also through compiled functions."""
    inputs = {id(variable): number for number, variable in enumerate(jaxpr.invars)}
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("jit", "pjit"):
            passed = _passed_on(equation.params["jaxpr"].jaxpr)
            for variable, number in zip(equation.outvars, passed, strict=True):
                if number is not None and id(equation.invars[number]) in inputs:
                    inputs[id(variable)] = inputs[id(equation.invars[number])]
    return [inputs.get(id(variable)) for variable in jaxpr.outvars]


# ---- Trials --------------------------------------------------------------------------------------


def _filled(spec: ElementSpec, num: int, *, other: bool = False) -> dict[str, Any]:
    """Returns a batch of random values, the same for each call.

    Args:
        spec: the shapes of one example.
        num: the number of examples.
        other: whether to return values that differ as much as possible from the usual ones.
    """
    random = np.random.default_rng(0)

    def values(struct: Any) -> np.ndarray[Any, Any]:
        drawn = random.random((num, *struct.shape))
        return _of_dtype(1 - drawn if other else drawn, np.dtype(struct.dtype))

    filled = jax.tree.map(values, spec)
    return {**filled, "mask": np.ones(num, bool), "index": np.arange(num, dtype=np.int32)}


def _of_dtype(values: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Returns numbers from 0 to 1 as a dtype; small integers, except for pixels of 8 bits."""
    if dtype.kind == "b":
        values = values >= 0.5
    if dtype.kind in "iu":
        values = np.rint(values * (255 if dtype == np.uint8 else 7))
    return values.astype(dtype)


def _mixed_field(transform: Transform, spec: ElementSpec) -> str | None:
    """Returns a field whose value for an example changes with another example of its batch."""
    function = jax.jit(lambda batch: transformed_batch(transform, batch))
    half = _NUM_MIXED // 2
    values = _filled(spec, 1), _filled(spec, 1, other=True)

    def results(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        halves = jax.tree.map(
            lambda a, b: np.concatenate([a.repeat(half, axis=0), b.repeat(half, axis=0)]),
            first, second,
        )  # fmt: skip
        halves["index"] = np.arange(_NUM_MIXED, dtype=np.int32)
        return named_fields(function(halves))

    # Both ways, because a maximum over the batch changes in only one of them.
    for first, second in (values, values[::-1]):
        others = results(first, second)
        for path, result in results(first, first).items():
            alone, paired = (_comparable(each[:half]) for each in (result, others[path]))
            if not np.allclose(alone, paired, rtol=1e-3, atol=1e-5, equal_nan=True):
                return path
    return None


def _comparable(array: jax.Array) -> np.ndarray[Any, Any]:
    values = np.asarray(array)
    is_known = values.dtype.kind in "biufc"  # NumPy cannot compare bfloat16
    return values if is_known else values.astype(np.float32)


def _moving(transform: Transform, spec: ElementSpec, key: jax.Array | None) -> str | None:
    """Changes a part of some images, and checks whether the results change elsewhere.

    Returns:
        A description of the movement; None if no pixels move to other places.
    """
    shape, dtype = spec["image"].shape, np.dtype(spec["image"].dtype)
    height, width = shape[:2]
    reach = 1 if min(height, width) < 16 else 2
    top, left = height // 4, 5 * width // 8
    bottom, right = top + -(-height // 4), left + -(-width // 4)  # no mirror image overlaps it
    first = np.random.default_rng(0).random((_NUM_PROBED, *shape))
    second = first.copy()
    second[:, top:bottom, left:right] = 1 - first[:, top:bottom, left:right]
    near = np.zeros((1, height, width, 1), bool)
    near[:, max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach] = True
    function = jax.jit(lambda batch: transformed_batch(transform, batch, key).get("image"))
    rest = _filled(spec, _NUM_PROBED)
    before, after = (
        function({**rest, "image": _of_dtype(images, dtype)}) for images in (first, second)
    )
    if not hasattr(before, "shape"):
        return None  # there is no image afterwards
    if before.shape[1:3] != (height, width):
        return f"turns images {list(shape)} into {list(before.shape[1:])}"
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    change = np.square(difference).reshape(_NUM_PROBED, height, width, -1)
    elsewhere = np.where(near, 0, change).sum(axis=(1, 2, 3))
    if (elsewhere > _MAX_ELSEWHERE * change.sum(axis=(1, 2, 3))).any():
        return "moves pixels of the images to other places"
    return None
