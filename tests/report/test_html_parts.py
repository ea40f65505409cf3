import base64
import io
import re

import numpy as np
from PIL import Image

from nnx_alexnet.report.html_parts import bar, picture, section, table


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
    large = picture(np.tile(np.uint8([9, 0, 0]), (400, 200, 1)), "", side=100)
    assert 'width="50" height="100"' in large
    assert decoded(large).shape == (200, 100, 3)


def test_a_grey_picture_in_three_channels_is_stored_in_one():
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    html = picture(np.stack([grey] * 3, -1), "")
    np.testing.assert_array_equal(decoded(html), grey)
