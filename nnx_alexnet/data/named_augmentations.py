"""The augmentations that `load_data` knows by name, in the order in which they are applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from nnx_alexnet.augmentation import (
    Augmentation,
    ColorJitter,
    CutMix,
    Lighting,
    MixUp,
    MixUpOrCutMix,
    RandomErasing,
    TrivialAugment,
)
from nnx_alexnet.data.transform import ImageTransform
from nnx_alexnet.support import unknown


def _color_jitter(strength: float = 0.4, **arguments: Any) -> ColorJitter:
    alike = dict.fromkeys(("brightness", "contrast", "saturation"), strength)
    return ColorJitter(**{**alike, **arguments})


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "trivial_augment": TrivialAugment,
    "color_jitter": _color_jitter,
    "lighting": Lighting,
    "erasing": RandomErasing,
    "mixup": MixUp,
    "cutmix": CutMix,
}
OF_IMAGES = ("resized_crop", "ratio", "translate", "flip", "ten_crops")
"""Names of arguments of `ImageTransform`."""


def check_names(wanted: Any) -> None:
    """Checks the names of augmentations.

    Raises:
        ValueError: a name is unknown.
        TypeError: `wanted` is neither a dict nor None.
    """
    if wanted is not None and not isinstance(wanted, Mapping):
        raise TypeError(
            f"`augmentations` (={wanted!r}) must be a dict with the names of augmentations, such "
            'as {"mixup": 0.2}.'
        )
    for name in wanted or ():
        if name not in (*AUGMENTATIONS, *OF_IMAGES):
            raise unknown("augmentations", name, [*AUGMENTATIONS, *OF_IMAGES])


def named_transforms(transform: ImageTransform, wanted: Mapping[str, Any]) -> list[Any]:
    """Returns the transforms for augmentations by name.

    Args:
        transform: of the dataset.
        wanted: for each name, which `check_names` accepts, True, the first argument, or a dict of
            arguments; False leaves the augmentation out. The arguments of `ImageTransform` have
            their own values.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an augmentation has no such argument.

    Example:
        >>> from nnx_alexnet.data import ImageTransform
        >>> from nnx_alexnet.data.named_augmentations import named_transforms
        >>> named_transforms(ImageTransform(8), {"flip": True, "erasing": 0.25})[1].probability
        0.25
    """
    changes = {name: wanted[name] for name in OF_IMAGES if name in wanted}
    if changes.get("resized_crop") is not None:
        changes = {"translate": 0.0} | changes
    chosen = {
        name: _created(name, create, wanted[name])
        for name, create in AUGMENTATIONS.items()
        if wanted.get(name, False) not in (False, None)
    }
    if "mixup" in chosen and "cutmix" in chosen:
        both = MixUpOrCutMix(chosen.pop("mixup"), chosen.pop("cutmix"))  # type: ignore[arg-type]
        chosen["both"] = both
    return [dataclasses.replace(transform, **changes), *chosen.values()]


def _read(value: Any) -> Any:
    """Reads text as YAML, because options such as `--data.augmentations.mixup.alpha` are text."""
    import yaml

    return yaml.safe_load(value) if isinstance(value, str) else value


def _created(name: str, create: Callable[..., Augmentation], value: Any) -> Augmentation:
    try:
        if value is True:
            return create()
        if isinstance(value, Mapping):
            return create(**{argument: _read(each) for argument, each in value.items()})
        return create(value)
    except (TypeError, ValueError) as error:
        how = f"{name!r} takes true, its first argument, or a dict of its arguments"
        raise type(error)(f"`augmentations`: {how}; {error}") from error
