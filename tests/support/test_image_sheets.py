import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import HOSTILE

from nnx_alexnet.support import image_sheets as module


def test_values_from_0_to_1_are_kept_and_other_ranges_are_scaled():
    unit = module.as_pixels(np.array([[0.2, 0.4]]))
    assert unit[0, :, 0].tolist() == [51, 102]
    wide = module.as_pixels(np.array([[-3.0, 1.0, 5.0]]))
    assert wide[0, :, 0].tolist() == [0, 128, 255]
    assert module.as_pixels(np.array([[np.nan, 1.0]]))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, [9, 9, 9]), (2, [9, 9, 9]), (3, [9, 8, 7]), (4, [9, 8, 7])]
)
def test_any_number_of_channels_becomes_three(channels, expected):
    image = np.broadcast_to(np.arange(9, 9 - channels, -1), (2, 2, channels)).astype(np.uint8)
    assert module.as_pixels(image)[0, 0].tolist() == expected


@pytest.mark.parametrize(("num", "size"), [(1, 8), (5, 28), (16, 96), (16, 500)])
def test_each_image_is_on_the_sheet_at_a_legible_size(num, size):
    dark = [np.zeros((size, size, 1), np.uint8)] * num
    sheet = module.captioned(dark, ["a caption that is far longer than its image"] * num)
    black = (sheet == 0).all(axis=-1)
    side = np.sqrt(black.sum() / num)
    assert 80 <= side <= 240
    assert sheet.shape[0] <= 1400 >= sheet.shape[1]


def test_captions_are_drawn_below_their_image():
    blank = module.captioned([np.zeros((8, 8))], [""])
    named = module.captioned([np.zeros((8, 8))], ["seven"])
    rows = np.flatnonzero((blank != named).any(axis=(1, 2)))
    assert rows.size
    assert rows.min() > np.flatnonzero((named == 0).all(axis=-1).sum(axis=1) > 50).max()


def test_a_caption_may_have_any_characters():
    image = np.zeros((8, 8, 1))
    plain = module.captioned([image], ["a"])
    assert module.captioned([image], [HOSTILE.replace("\n", "")]).shape == plain.shape


def test_a_sheet_is_shown_pixel_by_pixel():
    matplotlib.use("agg")
    sheet = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    canvas = module.show(sheet).figure.canvas
    canvas.draw()
    np.testing.assert_array_equal(np.array(canvas.buffer_rgba())[..., :3], sheet)
    plt.close("all")
