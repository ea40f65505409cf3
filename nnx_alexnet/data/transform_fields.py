"""Checks the fields that an image transform moves, and those that it would have to move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nnx_alexnet.data.examples import ElementSpec, listed, named_fields, spec_text

_SCALABLE = ("uint8", "float16", "bfloat16", "float32")
_FORMS = {
    "masks": "[H, W] or [H, W, C] with the height and width of the image",
    "boxes": "[N, 4], floats in pixels: (x_min, y_min, x_max, y_max)",
    "keypoints": "[N, 2], floats in pixels: (x, y)",
}


def checked_image(spec: ElementSpec, name: str) -> jax.ShapeDtypeStruct:
    """Returns the shape of the image of an example.

    Args:
        spec: the shapes and dtypes of one example.
        name: what to call the transform.

    Raises:
        ValueError: there is no `image`, or its dtype has no known scale.
    """
    image: Any = spec.get("image")
    if not hasattr(image, "shape"):
        what = "it has no `image`" if image is None else "`image` is not one array"
        raise ValueError(
            f"{name} transforms `image`, but the batch has the keys {listed(spec)}: {what}. "
            "Rename the key of the images, or pass a function of the batch as `transform`."
        )
    dtype = np.dtype(image.dtype)
    if dtype.name not in _SCALABLE:
        raise ValueError(
            f"`image` has dtype {dtype}; {name} accepts uint8, which it scales to 0..1, and "
            f"float16, bfloat16 or float32, which it does not scale. {_scaling(dtype)}"
        )
    return jax.ShapeDtypeStruct(image.shape, dtype)


def _scaling(dtype: np.dtype[Any]) -> str:
    """Explains how images of another dtype become float32 on the scale of 0 to 1."""
    if dtype.kind == "c":
        return "np.stack([images.real, images.imag], axis=-1) splits them into two channels."
    if dtype.kind not in "iu":
        return "images.astype(np.float32) converts them."
    return (
        f"images.astype(np.float32) / {np.iinfo(dtype).max} scales them if white is the largest "
        f"{dtype}; divide by another number if it is not."
    )


def check_declared(
    spec: ElementSpec,
    image: jax.ShapeDtypeStruct,
    declared: Mapping[str, tuple[str, ...]],
    *,
    fill: float,
    may_lack: bool,
) -> None:
    """Checks the fields that move with the image.

    Args:
        spec: the shapes and dtypes of one example.
        image: those of the image.
        declared: the keys of `masks`, `boxes` and `keypoints`.
        fill: the value of masks outside of the image.
        may_lack: whether fields may be missing.

    Raises:
        ValueError: a field is missing, has another form, or cannot hold the value outside.
    """
    for kind, names in declared.items():
        for name in names:
            if name not in spec:
                if may_lack:
                    continue
                raise ValueError(
                    f"`{kind}` (={names!r}) names {name!r}, but the batch has the keys "
                    f"{listed(spec)}."
                )
            problem = _problem(kind, spec[name], image)
            if problem is not None:
                raise ValueError(f"`{kind}` (={names!r}): `{name}` {problem}")
            if kind == "masks" and not _holds(np.dtype(spec[name].dtype), fill):
                raise ValueError(
                    f"`mask_fill` (={fill}) is not a value of {spec[name].dtype}, the dtype of the "
                    f"mask `{name}`."
                )


def _problem(kind: str, field: Any, image: jax.ShapeDtypeStruct) -> str | None:
    """Returns what is wrong with the shape or dtype of a declared field."""
    if not hasattr(field, "shape"):
        return "is not one array; name a key whose value is an array."
    if len(image.shape) != 3:
        return f"cannot move with images of shape {image.shape}, which must be [H, W, C]."
    shape, is_float = field.shape, jax.numpy.issubdtype(field.dtype, np.floating)
    fits = {
        "masks": len(shape) in (2, 3) and shape[:2] == image.shape[:2],
        "boxes": len(shape) == 2 and shape[1] == 4,
        "keypoints": len(shape) == 2 and shape[1] == 2,
    }[kind]
    if fits and (is_float or kind == "masks"):
        return None
    remedy = " .astype(np.float32) converts it." if fits else ""
    if kind == "masks" and len(shape) == 3 and shape[1:] == image.shape[:2]:
        remedy = " mask.transpose(1, 2, 0) moves the first axis of a mask to the end."
    if kind == "keypoints" and shape[1:] == (3,):
        remedy = " Pass the visibility of the points as a field of its own."
    return f"is {spec_text(field)} for images {list(image.shape)}; expected {_FORMS[kind]}.{remedy}"


def _holds(dtype: np.dtype[Any], fill: float) -> bool:
    if dtype.kind == "b":
        return fill in (0, 1)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return float(fill).is_integer() and limits.min <= fill <= limits.max
    return True


def fields_of_image(spec: ElementSpec, declared: tuple[str, ...] = ()) -> dict[str, str]:
    """Returns the fields that seem to belong to the pixels of the image, with the reason.

    These are all arrays with the height and width of the image as neighbouring axes, such as
    `[H, W]`, `[H, W, C]` or `[1, H, W]`. If nothing is declared, a label of two or more axes is
    one of them, because it may be a mask, boxes or keypoints.

    Args:
        spec: the shapes and dtypes of one example.
        declared: the keys that move with the image.

    Example:
        >>> import jax, numpy as np
        >>> from nnx_alexnet.data.transform_fields import fields_of_image
        >>> spec = {"image": jax.ShapeDtypeStruct((8, 8, 1), np.uint8),
        ...         "depth": jax.ShapeDtypeStruct((8, 8), np.float32)}
        >>> fields_of_image(spec), fields_of_image(spec, declared=("depth",))
        ({'depth': 'float32[8, 8] has the height and width of the image'}, {})
    """
    shape = getattr(spec.get("image"), "shape", ())
    if len(shape) != 3:
        return {}
    found = {}
    for path, struct in named_fields(
        {name: value for name, value in spec.items() if name not in ("image", *declared)}
    ).items():
        if shape[:2] in [*zip(struct.shape, struct.shape[1:], strict=False)]:
            found[path] = f"{spec_text(struct)} has the height and width of the image"
        elif path == "label" and not declared and len(struct.shape) >= 2:
            found[path] = f"{spec_text(struct)} has several axes, as masks and boxes do"
    return found


def suggested_kind(struct: Any, image: Any) -> str:
    """Returns the argument that declares a field of such a shape: "masks", for example."""
    if struct.shape[:2] == image.shape[:2]:
        return "masks"
    return {4: "boxes", 2: "keypoints"}.get(struct.shape[-1], "masks")
