"""Measures images per second from a folder of JPEG files, and how long training waits for them.

    python tests/benchmarks/folder_loading.py

The files are generated first and are the same each time: `--images` views of scikit-learn's two
sample photographs, cropped and resized to 500x375, a third of them upright, in four classes. Both
sides decode them, resize the shorter side and cut out the middle square (256 for a model of 227) in
`--workers` processes, and put uint8 batches on the device: `load_data("folder", ...)` with JAX, and
torchvision's `ImageFolder` with `Resize` and `CenterCrop` in a torch `DataLoader` with PyTorch.
Neither augments here; ours would do so inside the compiled step. The first epoch is not timed, so
starting the workers does not count. Each contender runs in its own process, in turns.

Two more contenders measure `cache=`. `filling` is the first epoch, which decodes all files and
writes them to the cache, timed from the first answers of all workers. `cached` are the epochs that
read a complete cache.

To measure the waiting, the Trainer trains AlexNet from the folder. The time between two hooks
around the loop's request for a batch, from `on_train_batch_end` (or `on_train_epoch_start`) to the
next `on_train_batch_start`, is reported as a share of all time since step `--warmup`. It is an
upper bound: the loop runs up to two steps ahead of the device, so the device does not wait all of
that time. (Hooks at each step also prevent two steps from sharing a dispatch.) Metrics of the
Trainer under `perf/` whose names contain "wait" or "data" are printed with it.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from turns import Contender, in_turns, markdown, parse, setting, table

_CLASSES = ("a", "b", "c", "d")
_WORDS = ("wait", "data")  # in the names of metrics that say what this script estimates
_FILES = "nnx_alexnet_folder_loading.json"


def make_folder(root: Path, num: int) -> None:
    """Writes `num` JPEG files to `root`/train, and a few to `root`/val, in folders of classes."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    generator = np.random.default_rng(0)
    for split, count in (("train", num), ("val", len(_CLASSES))):
        for index in range(count):
            size = (375, 500) if index % 3 == 2 else (500, 375)
            photograph = photographs[index % len(photographs)]
            scale = generator.uniform(0.6, 1) * min(
                length / side for length, side in zip(photograph.size, size, strict=True)
            )
            width, height = (scale * side for side in size)
            left = generator.uniform(0, photograph.width - width)
            top = generator.uniform(0, photograph.height - height)
            view = photograph.resize(size, box=(left, top, left + width, top + height))
            path = root / split / _CLASSES[index % len(_CLASSES)] / f"{index:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            view.save(path, quality=90)


def ours(arguments: argparse.Namespace) -> float:
    import jax

    from nnx_alexnet.data import load_data

    data = load_data(
        "folder",
        root=arguments.root,
        image_size=arguments.image_size,
        batch_size=arguments.batch_size,
        num_workers=arguments.workers,
    )
    start, num = math.nan, 0
    for epoch in range(arguments.epochs + 1):
        for batch in data.train.batches(epoch=epoch):
            on_device = jax.block_until_ready(jax.device_put(batch))
            num += len(on_device["image"]) if epoch else 0
        if epoch == 0:
            start = time.perf_counter()
    seconds = time.perf_counter() - start
    data.close()
    return num / seconds


def cached(arguments: argparse.Namespace) -> float:
    """Returns the images per second of epochs that read a complete cache."""
    import jax

    from nnx_alexnet.data import load_data

    with tempfile.TemporaryDirectory(dir=arguments.root, prefix=".cache_") as cache:
        data = load_data(
            "folder",
            root=arguments.root,
            image_size=arguments.image_size,
            batch_size=arguments.batch_size,
            num_workers=arguments.workers,
            cache=cache,
        )
        data.fill_cache()
        start, num = math.nan, 0
        for epoch in range(arguments.cached_epochs + 1):
            for batch in data.train.batches(epoch=epoch):
                on_device = jax.block_until_ready(jax.device_put(batch))
                num += len(on_device["image"]) if epoch else 0
            if epoch == 0:  # which has checked all records
                start = time.perf_counter()
        seconds = time.perf_counter() - start
    return num / seconds


def filling(arguments: argparse.Namespace) -> float:
    """Returns the images per second of an epoch that fills a cache, once all workers answered."""
    import jax

    from nnx_alexnet.data import load_data

    with tempfile.TemporaryDirectory(dir=arguments.root, prefix=".cache_") as cache:
        data = load_data(  # "folder" would decode some of the files for its statistics
            "imagenet",
            root=arguments.root,
            image_size=arguments.image_size,
            batch_size=arguments.batch_size,
            num_workers=arguments.workers,
            cache=cache,
        )
        start, num = math.nan, 0
        for number, batch in enumerate(data.train.batches(), start=1):
            on_device = jax.block_until_ready(jax.device_put(batch))
            num += len(on_device["image"]) if number > arguments.workers else 0
            if number == arguments.workers:
                start = time.perf_counter()
        seconds = time.perf_counter() - start
        data.close()
    return num / seconds


def torchvision(arguments: argparse.Namespace) -> float:
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from nnx_alexnet.data import resized_side

    side = resized_side(arguments.image_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(
        ImageFolder(
            Path(arguments.root, "train"),
            v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.PILToTensor()]),
        ),
        batch_size=arguments.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=arguments.workers,
        persistent_workers=arguments.workers > 0,
        pin_memory=device.type == "cuda",
    )
    start, num = math.nan, 0
    for epoch in range(arguments.epochs + 1):
        for images, labels in loader:
            on_device = images.to(device, non_blocking=True)
            labels.to(device, non_blocking=True)
            if device.type == "cuda":
                torch.cuda.synchronize()
            num += len(on_device) if epoch else 0
        if epoch == 0:
            start = time.perf_counter()
    return num / (time.perf_counter() - start)


def waiting(arguments: argparse.Namespace) -> float:
    """Returns the share of the time in percent that the loop waits for a batch."""
    from flax import nnx

    from nnx_alexnet import AlexNet, Trainer
    from nnx_alexnet.callbacks import Callback
    from nnx_alexnet.data import load_data
    from nnx_alexnet.devices.host_memory import keep_freed_memory

    class Asking(Callback):
        """The moments when the loop asks for a batch: the last hook before."""

        priority = 1000
        start = asked = waited = 0.0

        def on_train_epoch_start(self, trainer):
            self.asked = time.perf_counter()

        def on_train_batch_end(self, trainer, outputs, batch, batch_index):
            self.asked = time.perf_counter()
            if trainer.global_step == arguments.warmup:
                self.start, self.waited = self.asked, 0.0

    class Given(Callback):
        """The moments when it has got one: the first hook after."""

        priority = -1000

        def on_train_batch_start(self, trainer, batch, batch_index):
            asking.waited += time.perf_counter() - asking.asked

    keep_freed_memory()
    size, asking = arguments.image_size, Asking()
    data = load_data(
        "folder",
        root=arguments.root,
        image_size=size,
        batch_size=arguments.batch_size,
        num_workers=arguments.workers,
    )
    model = AlexNet(len(_CLASSES), image_size=size, rngs=nnx.Rngs(0), dtype=arguments.dtype)
    trainer = Trainer(
        model,
        data,
        callbacks=[asking, Given()],
        max_steps=arguments.warmup + arguments.steps,
        log_dir=None,
        progress_bar=False,
        log_every_n_steps=1,
        validate_every_n_epochs=10**9,  # the last alone, which is after the last step
    )
    trainer.fit()
    published = {
        name: value
        for name, value in trainer.metrics.items()
        if name.startswith("perf/") and any(word in name for word in _WORDS)
    }
    Path(arguments.root, _FILES).write_text(json.dumps(published))
    data.close()
    return 100 * asking.waited / (asking.asked - asking.start)


LOADERS = {
    "ours": Contender('Ours, `load_data("folder")`', ours, is_peer=False),
    "filling": Contender("Ours, filling a cache", filling, is_peer=False),
    "cached": Contender("Ours, from a cache", cached, is_peer=False),
    "torchvision": Contender("torchvision and torch's `DataLoader`", torchvision, ("torchvision",)),
}
WAITING = {"waiting": Contender("Waiting for data", waiting, is_peer=False)}
CONTENDERS = {**LOADERS, **WAITING}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=384, help="files to make")
    parser.add_argument("--image-size", type=int, default=227)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--epochs", type=int, default=3, help="timed, of the loaders")
    parser.add_argument("--cached-epochs", type=int, default=100, help="timed, from a cache")
    parser.add_argument("--steps", type=int, default=10, help="timed, of the training")
    parser.add_argument("--warmup", type=int, default=3, help="steps before its clock starts")
    parser.add_argument("--root", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    arguments = parse(_parser(), CONTENDERS, rounds=5)
    if arguments.images < arguments.batch_size:
        raise SystemExit("--images must be at least --batch-size.")
    print(setting(["jax", "flax", "torch", "torchvision", "pillow"]))
    root = Path(tempfile.mkdtemp(prefix="folder_loading_"))
    try:
        make_folder(root, arguments.images)
        sys.argv += ["--root", str(root)]
        print(
            f"{arguments.images} JPEG files of 500x375, for {arguments.image_size}x"
            f"{arguments.image_size}, batches of {arguments.batch_size}, "
            f"{arguments.workers} workers"
        )
        chosen = [name for name in arguments.contenders if name in LOADERS]
        loaders = argparse.Namespace(**{**vars(arguments), "contenders": chosen})
        values = in_turns(loaders, LOADERS)
        if values:
            print(table(values, LOADERS, unit="images per second", less_is_better=False))
        if "waiting" in arguments.contenders:
            training = argparse.Namespace(**{**vars(arguments), "contenders": ["waiting"]})
            shares = in_turns(training, WAITING)
            unit = "percent of the time"
            print(table(shares, WAITING, unit=unit, digits=2, less_is_better=True))
            published = json.loads((root / _FILES).read_text())
            if published:
                rows = [[f"`{name}`", f"{value:.4g}"] for name, value in published.items()]
                print(markdown(["the Trainer's own, in the last round", ""], rows))
            else:
                print("The Trainer publishes no metric of waiting (`perf/`) yet.")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
