"""Random changes to training images, made inside the compiled step.

Users import the names in `__all__`. The other names are for other packages of `nnx_alexnet`.
"""

from nnx_alexnet.augmentation.arguments import interval as interval
from nnx_alexnet.augmentation.base import Augmentation as Augmentation
from nnx_alexnet.augmentation.color_jitter import ColorJitter as ColorJitter
from nnx_alexnet.augmentation.lighting import Lighting as Lighting
from nnx_alexnet.augmentation.lighting import pca_lighting as pca_lighting
from nnx_alexnet.augmentation.mixing import CutMix as CutMix
from nnx_alexnet.augmentation.mixing import MixUp as MixUp
from nnx_alexnet.augmentation.mixing import MixUpOrCutMix as MixUpOrCutMix
from nnx_alexnet.augmentation.random_erasing import RandomErasing as RandomErasing
from nnx_alexnet.augmentation.regions import Region as Region
from nnx_alexnet.augmentation.regions import central_region as central_region
from nnx_alexnet.augmentation.regions import draw_region as draw_region
from nnx_alexnet.augmentation.trivial_augment import TrivialAugment as TrivialAugment

__all__ = [
    "Augmentation",
    "ColorJitter",
    "CutMix",
    "Lighting",
    "MixUp",
    "MixUpOrCutMix",
    "RandomErasing",
    "TrivialAugment",
    "pca_lighting",
]
