"""Datasets of image files, one folder a class; ImageNet among them."""

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnx_alexnet.data.class_folders import (
    class_folders,
    find_splits,
    is_unlabelled,
    list_images,
)
from nnx_alexnet.data.dataset_splits import Request, Splits, channel_statistics, held_out
from nnx_alexnet.data.sources import MapSource
from nnx_alexnet.support import printable

if TYPE_CHECKING:
    from PIL import Image

_STATISTICS_FILES = 256
# What white may be, by the first letter of Pillow's mode: integers are of 16 or 32 bits; floats
# are shares, or have the range of 8 or 16 bits. (`I` may be a file of either size.)
_WHITE = {"I": (2**16 - 1, 2**31 - 1), "F": (1, 2**8 - 1, 2**16 - 1)}


class ImageFiles:
    """A map-style dataset of image files, each decoded to a square of one size.

    Args:
        root: the folder that the paths begin at.
        paths: the files, relative to `root`.
        targets: the class of each, int32[N].
        resize: the shorter side is resized to this, in pixels.
        size: side of the square that is cut out of the middle, in pixels.
    """

    def __init__(
        self, root: Path, paths: list[str], targets: np.ndarray, *, resize: int, size: int
    ) -> None:
        self.targets = targets
        self._root = os.fspath(root)
        # One block of bytes: a million Python strings would be slow to send to the workers.
        self._paths = np.array([os.fsencode(path) for path in paths])
        self._resize = resize
        self._size = size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path = f"{self._root}/{os.fsdecode(bytes(self._paths[index]))}"
        return decode(path, resize=self._resize, size=self._size), int(self.targets[index])

    def subset(self, indices: np.ndarray) -> "ImageFiles":
        """Returns the dataset of these files alone."""
        part = object.__new__(ImageFiles)
        part.__dict__.update(self.__dict__)
        part.targets, part._paths = self.targets[indices], self._paths[indices]
        return part


def decode(path: str, *, resize: int, size: int, channels: int = 3) -> np.ndarray:
    """Decodes an image file, resizes its shorter side and cuts out the middle.

    It is turned upright as its EXIF says, and on white where it is transparent. Grey values of 16
    or 32 bits are scaled to 8.

    Args:
        path: the file, of any format and mode that Pillow reads; the first frame of several.
        resize: the shorter side's new length, in pixels.
        size: side of the square, in pixels, at most `resize`.
        channels: 3 for RGB (the default), 1 for grey.

    Returns:
        uint8 `[size, size, channels]`.

    Raises:
        ValueError: the file is damaged, is not an image, or is not a regular file (a FIFO or a
            device could be read for ever); the message names it.
        OSError: the file cannot be read; a `FileNotFoundError` if there is none, a
            `PermissionError` if it is not allowed, and so on. It may be whole.
        MemoryError: the image does not fit into memory.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from nnx_alexnet.data.image_folder import decode
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("LA", (30, 20), (0, 0)).save(file.name)  # nothing but transparent
        ...     decode(file.name, resize=2, size=1)
        array([[[255, 255, 255]]], dtype=uint8)
    """
    from PIL import Image, UnidentifiedImageError

    mode = "L" if channels == 1 else "RGB"
    name = printable(path)
    try:
        _check_regular(path)
        with Image.open(path) as image:
            # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still large enough.
            image.draft(mode, (resize, resize))
            image.load()
            pixels = _opaque(_upright(image), mode)
            # The square of the original that becomes the result, resized in one go.
            side = min(pixels.size) * size / resize
            left, top = ((length - side) / 2 for length in pixels.size)
            box = (left, top, left + side, top + side)
            square = pixels.resize((size, size), Image.Resampling.BILINEAR, box=box)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image file {name}.") from None
    except UnidentifiedImageError:  # its text has the path once more
        raise ValueError(f"Cannot decode the image file {name}: no known format") from None
    except MemoryError:
        raise MemoryError(f"There is not enough memory to decode the image file {name}.") from None
    except Exception as error:  # Pillow raises a dozen types for damaged files
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
            text = f"Cannot read the image file {name}: {error.strerror}"
            raise OSError(error.errno, text) from None
        text = f"Cannot decode the image file {name}: {printable(error)}"
        raise ValueError(text) from None
    return np.array(square).reshape(size, size, channels)


def _check_regular(path: str) -> None:
    """Raises a `ValueError` for a file that is empty, or whose reading may never end."""
    about = os.stat(path)  # noqa: PTH116  # a `Path` for each file would take longer
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
    """Turns a loaded image as its EXIF says it was taken."""
    from PIL import ImageOps

    # In place, which copies no pixels where there is nothing to turn. EXIF that is damaged, as in
    # some files of ImageNet, does not make a damaged image.
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
    """Scales grey values so that white, the first of `whites` that none exceeds, becomes 255."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    highest = float(values.max())
    room = 1.1 if values.dtype.kind == "f" else 1  # resampling overshoots
    white = next((white for white in whites if highest <= white * room), highest)
    scaled = np.rint(np.clip(values * np.float32(255 / white), 0, 255))
    return scaled.astype(np.uint8)


def image_folder(request: Request) -> Splits:
    """`root`/train, and if there are, `root`/val and `root`/test, with one folder per class."""
    root = request.root
    folders = find_splits(root, ("train", "val", "test"))
    if "train" not in folders:
        raise FileNotFoundError(_needs_train(root))
    classes = class_folders(root, folders["train"])
    train = _files(request, folders["train"], classes)
    if "val" in folders:
        val = _files(request, folders["val"], classes)
    else:
        kept, held = held_out(train.targets, seed=request.seed)
        train, val = train.subset(kept), train.subset(held)
    has_test = "test" in folders and not is_unlabelled(root, folders["test"], classes)
    source = _source(request, train, "train")
    sample = np.unique(np.linspace(0, len(train) - 1, _STATISTICS_FILES).astype(int))
    mean, std = channel_statistics(source.take(sample, seed=0, epoch=0).image)
    return Splits(
        train=source,
        val=_source(request, val, "val"),
        test=_source(request, _files(request, "test", classes), "test") if has_test else None,
        class_names=classes,
        mean=mean,
        std=std,
        translate=0.08,
        flip=True,
        crop=request.image_size / _stored_size(request),
        num_workers=default_workers(),
    )


def imagenet(request: Request) -> Splits:
    """ILSVRC 2012 in torchvision's layout; the published validation data are `val`.

    `root` holds train/ and val/ with one folder a class (n01440764, ...), and meta.bin, which
    names the classes. torchvision makes all three from the archives; `download=True` lets it.
    """
    from torchvision import datasets

    if request.download:
        for split in ("train", "val"):
            try:
                datasets.ImageNet(request.root, split)
            except (RuntimeError, OSError) as error:
                raise FileNotFoundError(_needs_imagenet(request, str(error))) from error
    folders = find_splits(request.root, ("train", "val"))
    for split in ("train", "val"):
        if split not in folders:
            raise FileNotFoundError(_needs_imagenet(request, f"There is no {split}/"))
    classes = class_folders(request.root, folders["train"])

    def source(split: str) -> MapSource:
        return _source(request, _files(request, folders[split], classes), split)

    names = classes
    if (request.root / "meta.bin").is_file():
        words = datasets.imagenet.load_meta_file(request.root)[0]
        names = tuple(", ".join(words.get(name, (name,))) for name in names)
    return Splits(
        train=source("train"),
        val=source("val"),
        test=None,
        class_names=names,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        translate=0.0,  # the random patches move the image enough
        flip=True,
        crop=request.image_size / _stored_size(request),
        num_workers=default_workers(),
    )


def _needs_imagenet(request: Request, problem: str) -> str:
    return (
        f"{problem} in `root` (={str(request.root)!r}). ImageNet cannot be downloaded without an "
        "account: get ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar from image-net.org, put them there, and pass download=True once "
        "to have them unpacked into train/, val/ and meta.bin."
    )


def resized_side(image_size: int) -> int:
    """Returns the shorter side of a resized image: 256 for a view of 227, as in the paper."""
    return round(image_size * 256 / 227)


def _stored_size(request: Request) -> int:
    """The side of a decoded image: with a margin for random patches, if there are to be any."""
    return resized_side(request.image_size) if request.augment else request.image_size


def default_workers() -> int:
    """Returns how many files to decode at once."""
    # A container may use fewer CPUs than there are.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, usable or 1)


def _needs_train(root: Path) -> str:
    there = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    found = f" It has the folders {', '.join(map(repr, sorted(there)[:8]))}." if there else ""
    return (
        f"`root` (={str(root)!r}) has no folder train/.{found} Put one folder per class there, "
        f"with the class's images: {root}/train/<class>/<image>.jpg; and in the same way "
        "val/ (also valid/ or validation/) and test/, if there are any."
    )


def _source(request: Request, files: ImageFiles, split: str) -> MapSource:
    return MapSource(files, argument=split, on_bad_sample=request.on_bad_sample, is_trusted=True)


def _files(request: Request, split: str, classes: tuple[str, ...]) -> ImageFiles:
    """Lists the files of a split; its classes are those of the training split."""
    paths, targets = list_images(request.root, split, classes)
    return ImageFiles(
        request.root / split,
        paths,
        targets,
        resize=resized_side(request.image_size),
        size=_stored_size(request),
    )
