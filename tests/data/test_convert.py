import re

import ml_dtypes
import numpy as np
import pytest
import torch
from data_helpers import Examples, first_example
from PIL import Image

from nnx_alexnet.data import DataModule
from nnx_alexnet.data.sources import IterableSource, MapSource

# What is advised for a dtype, and which values it makes of the largest ones that there are.
DTYPES = {
    np.float16: ("images.astype(np.float32)", [1.5, -2.0]),
    ml_dtypes.bfloat16: ("images.astype(np.float32)", [1.5, -2.0]),
    np.longdouble: ("images.astype(np.float32)", [1.5, -2.0]),
    np.uint16: ("images.astype(np.float32) / 65535", [65535, 1000]),
    np.uint32: ("images.astype(np.float32) / 4294967295", [2**32 - 1, 2**30]),
    np.int8: ("images.astype(np.float32) / 255", [127, -128]),
    np.int16: ("images.astype(np.float32) / 255", [1000, -1000]),
    np.int32: ("images.astype(np.float32) / 255", [255, 0]),
    np.int64: ("images.astype(np.float32) / 255", [255, 0]),
    bool: ("images.astype(np.float32)", [True, False]),
    np.complex64: ("np.stack([images.real, images.imag], axis=-1)", [1 + 2j, 3 - 1j]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_the_remedy_for_an_image_dtype_keeps_all_values(dtype):
    advice, values = DTYPES[dtype]
    images = np.array(values).astype(dtype).reshape(2, 1)
    name = np.dtype(dtype).name
    with pytest.raises(ValueError, match=rf"`train` has dtype {name}; .*{re.escape(advice)}"):
        DataModule((images, np.zeros(2, int)), batch_size=1)
    with pytest.raises(ValueError, match=rf"`train\[0\]` has dtype {name}; .*np.float32|np.stack"):
        DataModule([(images[0], 0)], batch_size=1)
    mended = eval(advice, {"images": images, "np": np})
    kept = DataModule((mended, np.zeros(2, int)), batch_size=1).train.arrays()["image"]
    assert len(np.unique(kept, axis=0)) == 2  # as many values as before
    scale = float(advice.partition(" / ")[2] or 1)
    restored = kept * scale if kept.shape == images.shape else kept[..., 0] + 1j * kept[..., 1]
    np.testing.assert_allclose(restored, images.astype(restored.dtype), rtol=1e-6)


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        ("RGBA", r"image.convert\('RGB'\)"),
        ("P", r"image.convert\('RGB'\)"),
        ("1", r"image.convert\('L'\)"),
        ("I;16", r"np.asarray\(image, np.float32\)\[..., None\], scaled"),
        ("F", r"np.asarray\(image, np.float32\)\[..., None\], scaled"),
    ],
)
def test_pil_images_of_other_modes_are_rejected_with_a_remedy(mode, advice):
    with pytest.raises(
        ValueError, match=rf"`train\[0\]` is a PIL image of mode '{mode}'.*{advice}"
    ):
        DataModule(Examples(lambda index: (Image.new(mode, (4, 4)), 0)), batch_size=1)


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (Image.new("L", (5, 4)), (4, 5, 1)),
        (Image.new("RGB", (5, 4)), (4, 5, 3)),
        (torch.zeros(3, 4, 5), (4, 5, 3)),
        (torch.zeros(13, 4, 5), (4, 5, 13)),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), (5, 3, 4)),
        (torch.zeros(7, 5, 3), (7, 5, 3)),
        (np.zeros((4, 5, 1)), (4, 5, 1)),
        (torch.zeros(6), (6,)),
    ],
)
def test_example_images_become_numpy_arrays_in_hwc(image, shape):
    source = MapSource(Examples(lambda index: (image, index)))
    rows = first_example(source)
    assert type(rows.image) is np.ndarray
    assert rows.image.shape == (1, *shape)
    assert source.element_spec()["image"] == (shape, rows.image.dtype)


def test_torch_images_are_transposed_to_hwc():
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    rows = first_example(MapSource([(image, 0)]))
    for channel in range(3):
        np.testing.assert_array_equal(rows.image[0, :, :, channel], image[channel].numpy())


@pytest.mark.parametrize("label", [2, np.int64(2), torch.tensor(2), True])
def test_integer_labels_of_any_kind_become_int32(label):
    rows = first_example(
        MapSource(Examples(lambda index: {"image": np.zeros((2, 2, 1)), "label": label}))
    )
    assert rows.label.tolist() == [int(label)]
    assert rows.label.dtype == np.int32


def test_items_of_another_form_are_rejected():
    with pytest.raises(ValueError, match="a tuple of length 3; expected"):
        IterableSource([(1, 2, 3)]).element_spec()
    with pytest.raises(ValueError, match=r"keys \['pixels'\]"):
        MapSource(Examples(lambda index: {"pixels": 1}))
