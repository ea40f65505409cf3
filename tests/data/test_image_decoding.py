"""What is decoded of each kind of image file."""

import numpy as np
import pytest
from PIL import Image

from nnx_alexnet.data.image_decoding import decode


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (48, 48), (20, 31)])
def test_decoding_resizes_the_shorter_side_and_cuts_out_the_middle(tmp_path, size):
    width, height = size
    ramp = np.add.outer(np.arange(height) * 2, np.arange(width)).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp] * 3, axis=-1))
    image.save(tmp_path / "ramp.png")
    got = decode(str(tmp_path / "ramp.png"), resize=24, size=20)
    scale = 24 / min(size)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = ((length - 20) // 2 for length in resized.size)
    want = np.array(resized.crop((left, top, left + 20, top + 20)))
    assert np.abs(got.astype(int) - want).max() <= 3


def decoded(path, channels=3):
    """The one colour of an image of one colour, as a list."""
    pixels = decode(str(path), resize=6, size=4, channels=channels)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 4, channels)
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0].tolist()


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("RGB", (10, 20, 30), "png", [10, 20, 30]),
        ("L", 77, "png", [77, 77, 77]),
        ("1", 1, "png", [255, 255, 255]),
        ("1", 0, "tif", [0, 0, 0]),
        ("LA", (100, 255), "png", [100, 100, 100]),
        ("LA", (100, 0), "png", [255, 255, 255]),
        ("RGBA", (255, 0, 0, 0), "png", [255, 255, 255]),
        ("RGBA", (200, 100, 0, 51), "png", [244, 224, 204]),  # a fifth of it, over white
        ("RGBA", (200, 100, 0, 51), "tif", [244, 224, 204]),
        ("RGBA", (200, 100, 0, 51), "webp", [244, 224, 204]),
        ("CMYK", (0, 255, 255, 0), "tif", [255, 0, 0]),
        ("CMYK", (0, 255, 255, 0), "jpg", [255, 0, 0]),
        ("YCbCr", (76, 85, 255), "tif", [255, 0, 0]),
        ("YCbCr", (76, 85, 255), "jpg", [255, 0, 0]),
    ],
)
def test_files_of_every_mode_become_rgb_on_white(tmp_path, mode, color, suffix, expected):
    path = tmp_path / f"image.{suffix}"
    how = {"lossless": True} if suffix == "webp" else {}
    Image.new(mode, (12, 9), color).save(path, **how)
    with Image.open(path) as image:  # the file holds what is to be tested
        assert image.mode == ("RGB" if (mode, suffix) == ("YCbCr", "jpg") else mode)
    np.testing.assert_allclose(decoded(path), expected, atol=2 if suffix == "jpg" else 1)


@pytest.mark.parametrize(("index", "expected"), [(0, [255, 255, 255]), (1, [30, 60, 90])])
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_with_a_transparent_colour_is_put_on_white(tmp_path, index, expected, suffix):
    image = Image.new("P", (12, 9), index)
    image.putpalette([200, 0, 0, 30, 60, 90])
    image.save(tmp_path / f"image.{suffix}", transparency=0)
    assert decoded(tmp_path / f"image.{suffix}") == expected


def test_a_palette_without_transparency_keeps_its_colours(tmp_path):
    image = Image.new("P", (12, 9), 1)
    image.putpalette([200, 0, 0, 30, 60, 90])
    image.save(tmp_path / "image.png")
    assert decoded(tmp_path / "image.png") == [30, 60, 90]


@pytest.mark.parametrize(
    ("mode", "key", "expected"),
    [("L", 40, [255, 255, 255]), ("RGB", (40, 40, 40), [255, 255, 255]), ("L", 41, [40, 40, 40])],
)
def test_the_transparent_colour_of_a_png_becomes_white(tmp_path, mode, key, expected):
    color = 40 if mode == "L" else (40, 40, 40)
    Image.new(mode, (12, 9), color).save(tmp_path / "image.png", transparency=key)
    assert decoded(tmp_path / "image.png") == expected


@pytest.mark.parametrize(
    ("values", "suffix", "mode", "expected"),
    [
        (np.full((9, 12), 30_000, np.uint16), "png", "I;16", 117),
        (np.full((9, 12), 65_535, np.uint16), "png", "I;16", 255),
        (np.full((9, 12), 255, np.uint16), "png", "I;16", 1),  # nearly black, not white
        (np.full((9, 12), 30_000, np.uint16), "tif", "I;16", 117),
        (np.full((9, 12), 30_000, ">u2"), "tif", "I;16B", 117),
        (np.full((9, 12), 30_000, np.int32), "tif", "I", 117),
        (np.full((9, 12), 2**30, np.int32), "tif", "I", 128),
        (np.full((9, 12), -5, np.int32), "tif", "I", 0),
        (np.full((9, 12), 30_000, np.uint16), "pgm", "I;16", 117),
        (np.full((9, 12), 0.5, np.float32), "tif", "F", 128),
        (np.full((9, 12), 128.2, np.float32), "tif", "F", 128),
        (np.full((9, 12), 30_000, np.float32), "tif", "F", 117),
        (np.full((9, 12), np.nan, np.float32), "tif", "F", 0),
    ],
)
def test_grey_of_more_than_8_bits_is_scaled(tmp_path, values, suffix, mode, expected):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(values).save(path)
    with Image.open(path) as image:
        assert image.mode in (mode, "I")  # an older Pillow has one mode for all integers
    assert decoded(path) == [expected] * 3
    assert decoded(path, channels=1) == [expected]


def test_shades_of_a_16_bit_file_keep_their_order(tmp_path):
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    got = decode(str(tmp_path / "ramp.png"), resize=16, size=16, channels=1)
    assert got.reshape(-1).tolist() == list(range(256))


QUADRANTS = np.zeros((96, 160, 3), np.uint8)


QUADRANTS[:48, :80], QUADRANTS[:48, 80:] = (250, 0, 0), (0, 250, 0)


QUADRANTS[48:, :80], QUADRANTS[48:, 80:] = (0, 0, 250), (250, 250, 250)


def as_stored(orientation):
    """How a camera held so stores the quadrants."""
    turned = {
        1: QUADRANTS, 2: QUADRANTS[:, ::-1], 3: QUADRANTS[::-1, ::-1], 4: QUADRANTS[::-1],
        5: QUADRANTS.swapaxes(0, 1), 6: np.rot90(QUADRANTS, 1),
        7: QUADRANTS[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(QUADRANTS, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(np.ascontiguousarray(turned[orientation])), exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_images_are_rotated_by_their_exif_orientation(tmp_path, orientation, suffix):
    image, exif = as_stored(orientation)
    how = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    image.save(tmp_path / f"image.{suffix}", exif=exif, **how)
    # 24 of 96 pixels: a JPEG is decoded at a quarter of its size, and turned after that.
    got = decode(str(tmp_path / f"image.{suffix}"), resize=24, size=24)
    Image.fromarray(QUADRANTS).save(tmp_path / "upright.png")
    want = decode(str(tmp_path / "upright.png"), resize=24, size=24)
    inside = np.r_[:10, 14:24]  # away from the edges, which a smaller JPEG blurs
    assert np.abs(got.astype(int) - want)[np.ix_(inside, inside)].max() <= 2


def test_a_large_jpeg_is_decoded_small_and_rotated(tmp_path, monkeypatch):
    sizes = []
    resize = Image.Image.resize

    def spy(self, *arguments, **more):
        sizes.append(self.size)
        return resize(self, *arguments, **more)

    image, exif = as_stored(6)
    image.save(tmp_path / "image.jpg", exif=exif)
    monkeypatch.setattr(Image.Image, "resize", spy)
    decode(str(tmp_path / "image.jpg"), resize=24, size=20)
    assert sizes == [(40, 24)]  # stored as 96x160, upright 160x96


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"MM\0*\0\0\0\x08\0\x09\x01\x12", b"this is no TIFF header"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_damaged_exif_is_ignored(tmp_path, exif, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (12, 9), (0, 0, 0)).save(path, exif=b"Exif\0\0" + exif)
    assert decoded(path) == [0, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (700, 2)])
def test_the_smallest_and_narrowest_images_can_be_decoded(tmp_path, size):
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "image.png")
    assert decoded(tmp_path / "image.png") == [1, 2, 3]
