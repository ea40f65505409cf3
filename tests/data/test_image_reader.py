"""Images are read as squares of the form of the training images."""

import numpy as np
import pytest
from PIL import Image

from nnx_alexnet.data.image_reader import ImageReader, Images, is_image, square_reader


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 102), (np.float32, 0.4)])
def test_files_and_pil_images_are_read_alike(tmp_path, dtype, value):
    image = Image.new("RGB", (20, 10), (102, 102, 102))
    image.save(tmp_path / "a.png")
    read = ImageReader(resize=6, size=4, channels=1, dtype=dtype)
    for pixels in (read(image), read(tmp_path / "a.png"), Images([image], read)[0]):
        assert (pixels.shape, pixels.dtype) == ((4, 4, 1), dtype)
        np.testing.assert_allclose(pixels, value)


def test_a_pil_image_is_turned_by_its_orientation_and_not_changed():
    image = Image.new("L", (4, 2))
    image.putpixel((0, 0), 255)
    image.getexif()[0x0112] = 6  # rotated by 90 degrees
    tall = ImageReader(resize=2, size=2, channels=1)(image)
    assert image.size == (4, 2)
    assert image.getexif()[0x0112] == 6
    assert tall.shape == (2, 2, 1)
    assert tall.max() == 0, "the white pixel is at the upper end, which is cut off"


@pytest.mark.parametrize("shape", [(), (8,), (8, 8), (8, 9, 3), (8, 8, 2), (8, 8, 8, 3)])
def test_only_squares_of_one_or_three_channels_can_be_read(shape):
    assert square_reader(shape) is None
    assert square_reader((8, 8, 3), resize=9) == ImageReader(resize=9, size=8, channels=3)
    assert square_reader((8, 8, 1)) == ImageReader(resize=8, size=8, channels=1)


def test_paths_and_pil_images_are_images(tmp_path):
    assert all(map(is_image, ["a", tmp_path, Image.new("L", (1, 1))]))
    assert not any(map(is_image, [b"a", 1, None, np.zeros((2, 2)), ["a"]]))
