import pytest

from nnx_alexnet.augmentation import (
    ColorJitter,
    CutMix,
    Lighting,
    MixUp,
    MixUpOrCutMix,
    RandomErasing,
    TrivialAugment,
)  # fmt: skip
from nnx_alexnet.data import ImageTransform, load_data
from nnx_alexnet.data.named_augmentations import named_transforms

PLAIN = ImageTransform(8, translate=0.1)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [PLAIN]),
        ({"flip": True, "translate": 0.2}, [ImageTransform(8, translate=0.2, flip=True)]),
        ({"resized_crop": [0.2, 1]}, [ImageTransform(8, resized_crop=(0.2, 1))]),
        (
            {
                "erasing": {"scale": [0.1, 0.2], "noise": "true"}, "color_jitter": 0.3,
                "lighting": True,
            },
            [
                PLAIN, ColorJitter(0.3, 0.3, 0.3), Lighting(),
                RandomErasing(scale=(0.1, 0.2), noise=True),
            ],
        ),
        ({"color_jitter": {"hue": 0.1}, "mixup": False}, [PLAIN, ColorJitter(hue=0.1)]),
        ({"mixup": 0.3, "trivial_augment": 5}, [PLAIN, TrivialAugment(5), MixUp(0.3)]),
        ({"cutmix": True, "mixup": 0.3}, [PLAIN, MixUpOrCutMix(MixUp(0.3), CutMix())]),
    ],
)  # fmt: skip
def test_names_become_transforms(wanted, expected):
    assert named_transforms(PLAIN, wanted) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"augmentations": {"mixupp": 1}}, ValueError, "`augmentations` .*'mixupp'"),
        ({"augmentations": {"mixup": -1}}, ValueError, "`alpha` .* must be greater than 0"),
        ({"augmentations": {"mixup": {"beta": 1}}}, TypeError, "'mixup' takes true, its first"),
        ({"augmentations": "mixup"}, TypeError, "must be a dict with the names"),
        ({"augmentations": "mixup", "augment": False}, TypeError, "must be a dict with the names"),
        ({"augmentations": {"mixup": 1}, "augment": False}, ValueError, "need `augment`"),
    ],
)
def test_wrong_names_and_values_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        load_data("digits", **arguments)


def test_load_data_augments_and_knows_the_classes():
    data = load_data("digits", image_size=16, augmentations={"erasing": 0.5, "cutmix": 1.0})
    assert data.transform.parts[1:] == (RandomErasing(0.5), CutMix(num_classes=10))
    assert data.transform.image_transform == load_data("digits", image_size=16).transform
