"""Wraps a user's function as the transform of the images, and checks it."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nnx_alexnet.data.seeding import restored_generators
from nnx_alexnet.data.transform import ImageTransform
from nnx_alexnet.devices import on_host, usual_promotion

_SIGNATURE = "transform(image, *, key=None, index=None)"
_HOW = (
    f"Write it as `{_SIGNATURE}`: `image` is a batch [B, ...]; `key` is a jax.random key in "
    "training and None otherwise; `index` (int32[B]) identifies the examples. Without "
    "augmentation, write it as `transform(image)`."
)


@dataclass(frozen=True, eq=False)  # a function need not be hashable
class FunctionTransform:
    """Calls a function in the place of an `ImageTransform`, inside the compiled step.

    Args:
        function: accepts a batch of images, and `key` and `index` if `takes_key`.
        takes_key: whether it augments with them.

    Example:
        >>> import numpy as np
        >>> from nnx_alexnet.data.function_transform import FunctionTransform
        >>> transform = FunctionTransform(lambda image: image / 255, takes_key=False)
        >>> float(transform(np.full((1, 2, 2, 1), 255), key=None, index=None).max())
        1.0
    """

    function: Callable[..., Any]
    takes_key: bool
    # As in `ImageTransform`, for code that shows the model's input.
    mean: ClassVar[tuple[float, ...]] = (0.0,)
    std: ClassVar[tuple[float, ...]] = (1.0,)

    def __call__(self, image: Any, *, key: jax.Array | None = None, index: Any = None) -> Any:
        """Returns the result of the function for a batch of images."""
        if self.takes_key:
            return self.function(image, key=key, index=index)
        return self.function(image)

    def describe(self) -> dict[str, Any]:
        """Returns the name of the function."""
        named = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return {"function": f"{named.__module__}.{named.__qualname__}"}

    def check(self, shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
        """Returns the shape of one image after the transform.

        Args:
            shape: of one image before the transform.
            dtype: uint8 or float32.

        Raises:
            ValueError: the function cannot be traced, does not return a batch, or draws random
                numbers while it is traced.
        """
        with usual_promotion(), jax.transfer_guard("allow"):
            return _checked(self, shape, np.dtype(dtype).name)

    def moving(self, shape: tuple[int, ...], dtype: Any) -> str | None:
        """Returns a text if pixels of an image move to other places; None if not."""
        with usual_promotion(), jax.transfer_guard("allow"):
            return _moving(self, shape, np.dtype(dtype).name)


def as_transform(value: Any) -> ImageTransform | FunctionTransform:
    """Returns a `transform` of any accepted form as one of the two classes.

    Args:
        value: an `ImageTransform`, or a function `(image)` or `(image, *, key=None, index=None)`;
            None means `ImageTransform()`.

    Raises:
        TypeError: the value has another type, or accepts other arguments.
    """
    if value is None:
        return ImageTransform()
    if isinstance(value, ImageTransform | FunctionTransform):
        return value
    if isinstance(value, type) or not callable(value):
        raise TypeError(
            f"`transform` (={value!r}) must be an ImageTransform, or a function. {_HOW}"
        )
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # functions in C have none
        return FunctionTransform(value, takes_key=False)
    kinds = signature.parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in kinds)
    named = {"key", "index"} & signature.parameters.keys()
    takes_key = takes_any or len(named) == 2
    try:
        signature.bind(None, **({"key": None, "index": None} if takes_key else {}))
    except TypeError as error:
        raise TypeError(f"`transform` has the arguments {signature}: {error}. {_HOW}") from None
    if len(named) == 1 and not takes_any:
        raise TypeError(
            f"`transform` has the arguments {signature}; it must accept both `key` and `index`, "
            "or neither. "
            f"{_HOW}"
        )
    return FunctionTransform(value, takes_key=takes_key)


def _arguments(takes_key: bool, num: int) -> list[dict[str, Any]]:
    """Returns the arguments of evaluation and of training."""
    training = {"key": jax.random.key(0), "index": np.arange(num, dtype=np.int32)}
    return [{}, training] if takes_key else [{}]


_NUM_TRACES = 8  # a coin that is tossed while tracing shows the same side in 1 of 128 runs


@lru_cache(maxsize=16)
def _checked(transform: FunctionTransform, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Returns the shape of one image after the transform; see `FunctionTransform.check`."""
    batch = jax.ShapeDtypeStruct((2, *shape), dtype)
    about = f"`transform` ({transform.describe()['function']}), for images {_text(batch)},"
    shapes = []
    for arguments in _arguments(transform.takes_key, 2):
        shapes.append(_traced_shape(transform, batch, arguments, about))
        if _mixes(transform, batch, arguments):
            raise ValueError(
                f"{about} computes an image from the other images of its batch, so results would "
                "depend on the batch size. Reduce over the axes of each image alone, as in "
                f"image.mean(axis={tuple(range(1, len(batch.shape)))}, keepdims=True)."
            )
    if len({*shapes}) > 1:
        raise ValueError(
            f"{about} returns images of shape {list(shapes[1])} in training and {list(shapes[0])} "
            "in evaluation; both must have the same shape."
        )
    return shapes[0]


def _traced_shape(
    transform: FunctionTransform,
    batch: jax.ShapeDtypeStruct,
    arguments: dict[str, Any],
    about: str,
) -> tuple[int, ...]:
    """Traces the function several times, and returns the shape of one image of its result."""

    def trace() -> Any:
        # A new function each time, or JAX would reuse the first trace.
        function = lambda image, arguments: transform(image, **arguments)  # noqa: E731
        return jax.make_jaxpr(function, return_shape=True)(batch, arguments)

    try:
        with restored_generators():
            traces = [trace() for _ in range(_NUM_TRACES)]
    except Exception as error:
        why = f"{error}".partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{about} fails: {type(error).__name__}: {why}. It runs inside the compiled step, "
            "so write it with jax.numpy. Transforms of PIL images or torch tensors, such as "
            f"torchvision's, belong in the dataset. {_HOW}"
        ) from error
    result = traces[0][1]
    if getattr(result, "shape", ())[:1] != (2,):
        raise ValueError(
            f"{about} returns {jax.tree.map(_text, result)}; it must return the batch, one "
            "image for each image that it receives."
        )
    if len({_program(jaxpr) for jaxpr, _ in traces}) > 1:
        raise ValueError(
            f"{about} traces to another program each time: it draws random numbers outside "
            "JAX, and the compiled step would reuse the same ones for all examples. Draw them "
            f"with jax.random from `key`. {_HOW}"
        )
    return tuple(result.shape[1:])


def _program(jaxpr: Any) -> tuple[str, bytes]:
    """Returns a traced program as text without addresses of functions, and its constants."""
    constants = b"".join(on_host(constant).tobytes() for constant in jaxpr.consts)
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr)), constants


def _mixes(transform: FunctionTransform, batch: Any, arguments: dict[str, Any]) -> bool:
    """Returns whether the result for one image changes with another image of its batch."""
    white = 255 if batch.dtype == np.uint8 else 1
    first = np.random.default_rng(0).random((1, *batch.shape[1:]))
    function = jax.jit(
        lambda images: transform(images, **arguments)
    )  # faster than operation by operation
    before, after = (
        np.asarray(function((white * images).astype(batch.dtype))[0], np.float32)
        for images in (np.concatenate([first, first]), np.concatenate([first, 1 - first]))
    )
    return not np.allclose(before, after, rtol=1e-3, atol=1e-5, equal_nan=True)


def _text(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


_NUM_PROBED = 16  # images; a random flip mirrors none of them in 1 of 65,536 cases
_MAX_ELSEWHERE = 0.1  # share of a change that may occur elsewhere, as by a blur or contrast


@lru_cache(maxsize=16)
def _moving(transform: FunctionTransform, shape: tuple[int, ...], dtype: str) -> str | None:
    """Changes a part of some images, and checks whether the results change elsewhere."""
    if len(shape) != 3:
        return None
    name = transform.describe()["function"]
    height, width = shape[:2]
    white, reach = 255 if dtype == "uint8" else 1, 1 if min(height, width) < 16 else 2
    top, left = height // 4, 5 * width // 8
    bottom, right = top + -(-height // 4), left + -(-width // 4)  # no mirror image overlaps it
    first = white * np.random.default_rng(0).random((_NUM_PROBED, *shape))
    second = first.copy()
    second[:, top:bottom, left:right] = white - first[:, top:bottom, left:right]
    near = np.zeros((1, height, width, 1), bool)
    near[:, max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach] = True
    for arguments in _arguments(transform.takes_key, _NUM_PROBED):
        before, after = (
            np.asarray(transform(jnp.asarray(images.astype(dtype)), **arguments), np.float64)
            for images in (first, second)
        )
        if before.shape[1:3] != (height, width):
            return f"{name} turns images {list(shape)} into {list(before.shape[1:])}"
        change = np.square(after - before).reshape(_NUM_PROBED, height, width, -1)
        elsewhere = np.where(near, 0, change).sum(axis=(1, 2, 3))
        if (elsewhere > _MAX_ELSEWHERE * change.sum(axis=(1, 2, 3))).any():
            return f"{name} moves pixels to other places"
    return None
