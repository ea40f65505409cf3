"""Decodes image files to squares of one size."""

import contextlib
import os
import stat
from typing import TYPE_CHECKING

import numpy as np

from nnx_alexnet.support import printable

if TYPE_CHECKING:
    from PIL import Image

# Possible values of white, by the first letter of Pillow's mode: integers have 16 or 32 bits (a
# file of either size may have mode `I`); floats are shares, or have the range of 8 or 16 bits.
_WHITE = {"I": (2**16 - 1, 2**31 - 1), "F": (1, 2**8 - 1, 2**16 - 1)}


def decode(path: str, *, resize: int, size: int, channels: int = 3) -> np.ndarray:
    """Decodes an image file, resizes its shorter side and cuts out the middle.

    The image is rotated by its EXIF orientation, and put on white where it is transparent. Grey
    values of 16 or 32 bits are scaled to 8.

    Args:
        path: the file, of any format and mode that Pillow reads; of several frames the first.
        resize: the shorter side's new length, in pixels.
        size: side of the square, in pixels, at most `resize`.
        channels: 3 for RGB (the default), 1 for grey.

    Returns:
        uint8 `[size, size, channels]`.

    Raises:
        ValueError: the file is damaged, is not an image, or is not a regular file (a FIFO or a
            device could be read forever); the message names it.
        OSError: the file cannot be read, though it may be intact: a `FileNotFoundError` if it
            does not exist, a `PermissionError` if that is not allowed, and so on.
        MemoryError: the image does not fit into memory.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from nnx_alexnet.data.image_decoding import decode
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("LA", (30, 20), (0, 0)).save(file.name)  # fully transparent
        ...     decode(file.name, resize=2, size=1)
        array([[[255, 255, 255]]], dtype=uint8)
    """
    from PIL import Image, UnidentifiedImageError

    mode = "L" if channels == 1 else "RGB"
    name = printable(path)
    try:
        _check_regular(path)
        with Image.open(path) as image:
            # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is still large enough.
            image.draft(mode, (resize, resize))
            image.load()
            square = _square(_opaque(_upright(image), mode), resize, size)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image file {name}.") from None
    except UnidentifiedImageError:  # its text repeats the path
        raise ValueError(f"Cannot decode the image file {name}: no known format") from None
    except MemoryError:
        raise MemoryError(f"There is not enough memory to decode the image file {name}.") from None
    except Exception as error:  # Pillow raises a dozen types for damaged files
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # from the system, not from Pillow
            text = f"Cannot read the image file {name}: {error.strerror}"
            raise OSError(error.errno, text) from None
        text = f"Cannot decode the image file {name}: {printable(error)}"
        raise ValueError(text) from None
    return np.array(square).reshape(size, size, channels)


def is_grey(image: "Image.Image") -> bool:
    """Returns whether the mode of an image has no colours.

    Example:
        >>> from PIL import Image
        >>> from nnx_alexnet.data.image_decoding import is_grey
        >>> is_grey(Image.new("1", (2, 2))), is_grey(Image.new("P", (2, 2)))
        (True, False)
    """
    return image.mode in ("1", "L", "LA", "La") or image.mode[0] in _WHITE


def pixels(image: "Image.Image", mode: str) -> np.ndarray:
    """Returns the pixels of a loaded image, without resizing it.

    Args:
        image: of any mode; transparent pixels become white.
        mode: "L" for grey, "RGB" for colour.

    Returns:
        uint8 `[H, W, 1]` or `[H, W, 3]`.

    Example:
        >>> from PIL import Image
        >>> from nnx_alexnet.data.image_decoding import pixels
        >>> pixels(Image.new("LA", (1, 1), (0, 0)), "RGB").tolist()
        [[[255, 255, 255]]]
    """
    array = np.array(_opaque(image, mode))
    return array[..., None] if array.ndim == 2 else array


def square_pixels(image: "Image.Image", mode: str, *, side: int) -> np.ndarray:
    """Returns the pixels of the largest square in the middle of a loaded image, resized.

    Args:
        image: see `pixels`.
        mode: see `pixels`.
        side: of the result, in pixels.

    Example:
        >>> from PIL import Image
        >>> from nnx_alexnet.data.image_decoding import square_pixels
        >>> square_pixels(Image.new("L", (30, 20)), "RGB", side=8).shape
        (8, 8, 3)
    """
    return pixels(_square(_opaque(image, mode), side, side), mode)


def squared(image: "Image.Image", *, resize: int, size: int, channels: int = 3) -> np.ndarray:
    """Returns the pixels of a PIL image, as `decode` returns those of a file.

    The image itself is not changed.

    Args:
        image: of any mode.
        resize: see `decode`.
        size: see `decode`.
        channels: see `decode`.

    Example:
        >>> from PIL import Image
        >>> from nnx_alexnet.data.image_decoding import squared
        >>> squared(Image.new("RGB", (30, 20), (9, 9, 9)), resize=2, size=1, channels=1)
        array([[[9]]], dtype=uint8)
    """
    mode = "L" if channels == 1 else "RGB"
    return pixels(_square(_opaque(_upright(image.copy()), mode), resize, size), mode)


def _square(image: "Image.Image", resize: int, size: int) -> "Image.Image":
    """Returns the middle of an image whose shorter side has the length `resize`, as a square."""
    from PIL import Image

    # The square of the original that becomes the result, resized in one step.
    side = min(image.size) * size / resize
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _check_regular(path: str) -> None:
    """Raises a `ValueError` for a file that is empty, or that could be read forever."""
    about = os.stat(path)  # noqa: PTH116  # a `Path` for each file would be slower
    if stat.S_ISREG(about.st_mode):
        if about.st_size == 0:
            raise ValueError("it is empty")
        return
    kinds = {
        stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    }  # fmt: skip
    kind = kinds.get(stat.S_IFMT(about.st_mode), "of another kind")
    raise ValueError(f"it is not a regular file, but {kind}")


def _upright(image: "Image.Image") -> "Image.Image":
    """Rotates a loaded image by its EXIF orientation."""
    from PIL import ImageOps

    # In place, so that upright images are not copied. Damaged EXIF, as in some files of ImageNet,
    # does not make an image unusable.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _opaque(image: "Image.Image", mode: str) -> "Image.Image":
    """Returns an image in `mode`, L or RGB, on white where it is transparent."""
    from PIL import Image

    if image.mode[0] in _WHITE:
        image = Image.fromarray(_as_8_bits(np.asarray(image), _WHITE[image.mode[0]]))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _as_8_bits(values: np.ndarray, whites: tuple[int, ...]) -> np.ndarray:
    """Scales grey values so that white, the first of `whites` that no value exceeds, is 255."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    highest = float(values.max())
    room = 1.1 if values.dtype.kind == "f" else 1  # resampling overshoots
    white = next((white for white in whites if highest <= white * room), highest)
    scaled = np.rint(np.clip(values * np.float32(255 / white), 0, 255))
    return scaled.astype(np.uint8)


def decoder_versions() -> dict[str, str | None]:
    """Returns the versions of the libraries that determine the pixels of a decoded file.

    `decode` is the version of this module: increase it whenever `decode()` returns other pixels.
    """
    import PIL
    from PIL import features

    codecs = {name: features.version(name) for name in ("libjpeg_turbo", "webp", "libtiff")}
    return {"decode": "1", "pillow": PIL.__version__, **codecs}


def resized_side(image_size: int) -> int:
    """Returns the shorter side of a resized image: 256 for a view of 227, as in the paper."""
    return round(image_size * 256 / 227)


def default_workers() -> int:
    """Returns how many files to decode at once: one per CPU, at most 8."""
    # A container may use fewer CPUs than there are.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, usable or 1)
