import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from nnx_alexnet.report.html_parts import as_pixels, bar, picture, section, table


def test_a_section_that_fails_shows_the_error():
    assert section("My data", lambda: "body") == (
        '<section id="my-data">\n<h2>My data</h2>\nbody\n</section>'
    )
    failed = section("Curves", lambda: str(1 // 0))
    assert "This section cannot be shown: ZeroDivisionError: integer division" in failed
    assert section("Empty", lambda: "") == ""


def test_columns_of_text_are_aligned_to_the_left():
    html = table(["a<", "b", "c"], [["1", "2", "3"]], texts=2)
    assert "<th>a&lt;</th>" in html
    assert '<tr><th>1</th><td class="text">2</td><td>3</td></tr>' in html


def test_a_bar_stays_within_its_frame():
    assert [re.search(r"width:([\d.]+)%", bar(share))[1] for share in (-1, 0.25, 7)] == [
        "0.0", "25.0", "100.0",
    ]  # fmt: skip


def decoded(html):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1][:-2]))))


def test_a_small_picture_keeps_its_pixels_and_a_large_one_is_reduced():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    html = picture(pixels, "a<b", side=96)
    assert '<img class="small" width="96" height="96" alt="a&lt;b"' in html
    np.testing.assert_array_equal(decoded(html), pixels)
    large = picture(np.zeros((400, 200, 3), np.uint8), "", side=100)
    assert 'width="50" height="100"' in large
    assert decoded(large).shape == (200, 100, 3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), np.full((2, 3), 7)),
        (np.full((2, 3, 1), 7, np.uint8), np.full((2, 3), 7)),
        (np.array([[[-1.0], [1.0]]]), [[0, 255]]),
        (np.full((1, 1, 4), 9, np.uint8), [[[9, 9, 9]]]),
        (np.zeros(5), None),
        (np.zeros((2, 2, 7)), None),
    ],
)
def test_arrays_that_are_images_become_pixels(image, expected):
    pixels = as_pixels(image)
    assert (pixels is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(pixels, expected)
