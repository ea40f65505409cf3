"""Measures seconds per epoch of Fashion-MNIST, with validation and augmentation, against Lightning.

    python tests/benchmarks/epochs.py --root PATH

and on a GPU:

    python tests/benchmarks/epochs.py --root PATH --batch-size 1024 --dtype bfloat16 --epochs 20

`PATH/FashionMNIST/raw` holds the data set's four files. Both train the same AlexNet with Adam at
1e-3. Images are translated by up to a tenth, mirrored, resized from 28x28 and standardised. Loss
and accuracy are measured on held out images after each epoch. Lightning reads uint8 tensors in
persistent worker processes, which apply torchvision's transforms to each image, as its users do; on
a GPU its model is compiled. The result is the median over the epochs of a run, without the first,
which includes compilation. `--images 6000` uses only that many training images.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

from clocks import Epochs
from training_speed import torch_model
from turns import Contender, accelerators, in_turns, parse, setting, table


def _data(arguments: argparse.Namespace) -> Any:
    """The data as the command loads them, with some of the training images."""
    from nnx_alexnet import DataModule, load_data

    data = load_data(
        "fashion_mnist",
        root=arguments.root,
        image_size=arguments.image_size,
        batch_size=arguments.batch_size,
    )
    train, val = data.train.arrays(), data.val.arrays()
    num = arguments.images
    return DataModule(
        (train["image"][:num], train["label"][:num]),
        (val["image"][: num and num // 9], val["label"][: num and num // 9]),
        batch_size=arguments.batch_size,
        transform=data.transform,
    )


def ours(arguments: argparse.Namespace, *, is_bare: bool) -> float:
    import optax
    from flax import nnx

    from nnx_alexnet import AlexNet, Trainer
    from nnx_alexnet.callbacks import Callback
    from nnx_alexnet.devices.host_memory import keep_freed_memory

    class Clock(Callback):
        def on_train_epoch_end(self, trainer):
            epochs.ended()

    keep_freed_memory()
    epochs = Epochs()
    model = AlexNet(
        10,
        image_size=arguments.image_size,
        in_channels=1,
        dtype=arguments.dtype,
        rngs=nnx.Rngs(0),
    )
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model,
            _data(arguments),
            optimizer=optax.adam(1e-3),
            callbacks=[Clock()],
            max_epochs=arguments.epochs + 1,
            log_dir=None if is_bare else folder,
            progress_bar=not is_bare,
        ).fit()
    return epochs.median()


def lightning(arguments: argparse.Namespace) -> float:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    class Images(Dataset):
        def __init__(self, split, transform) -> None:
            self.images = torch.from_numpy(split["image"]).permute(0, 3, 1, 2)
            self.labels = torch.from_numpy(split["label"]).long()
            self.transform = transform

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index):
            return self.transform(self.images[index]), self.labels[index]

    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch_model(channels=1, num_classes=10, image_size=arguments.image_size)

        def forward(self, batch):
            image, label = batch
            image = image.contiguous(memory_format=torch.channels_last)
            logits = self.layers(image)
            loss = torch.nn.functional.cross_entropy(logits, label)
            return loss, (logits.argmax(1) == label).float().mean()

        def training_step(self, batch, batch_index):
            return self(batch)[0]

        def validation_step(self, batch, batch_index):
            loss, accuracy = self(batch)
            self.log_dict({"val/loss": loss, "val/accuracy": accuracy})

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-3, fused=True)

    class Clock(Callback):
        def on_train_epoch_end(self, trainer, module):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            epochs.ended()

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    data = _data(arguments)
    mean, std = data.transform.mean, data.transform.std
    common = [v2.Resize(arguments.image_size), v2.ToDtype(torch.float32, scale=True)]
    common.append(v2.Normalize(mean, std))
    moved = [v2.RandomAffine(0, translate=(0.1, 0.1)), v2.RandomHorizontalFlip()]
    workers = arguments.workers
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    options |= {"batch_size": arguments.batch_size, "pin_memory": torch.cuda.is_available()}
    train = Images(data.train.arrays(), v2.Compose([*moved, *common]))
    val = Images(data.val.arrays(), v2.Compose(common))
    model = Model()
    if torch.cuda.is_available():
        model.layers = torch.compile(model.layers)
    epochs = Epochs()
    Trainer(
        max_epochs=arguments.epochs + 1,
        devices=1,
        precision="bf16-mixed" if arguments.dtype == "bfloat16" else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Clock()],
    ).fit(
        model,
        DataLoader(train, shuffle=True, drop_last=True, **options),
        DataLoader(val, **options),
    )
    return epochs.median()


CONTENDERS = {
    "ours": Contender(
        "Ours, with progress bar, TensorBoard, log, checkpoints",
        lambda arguments: ours(arguments, is_bare=False),
        is_peer=False,
    ),
    "ours-bare": Contender(
        "Ours, with none of them", lambda arguments: ours(arguments, is_bare=True), is_peer=False
    ),
    "lightning": Contender("Lightning, with none of them", lightning, ("lightning",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="the folder of FashionMNIST/raw")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--epochs", type=int, default=2, help="timed")
    parser.add_argument("--images", type=int, help="training images (default: all)")
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="Lightning's"
    )
    arguments = parse(parser, CONTENDERS, rounds=3)
    print(setting(["jax", "flax", "torch", "torchvision", "lightning"]))
    print(
        f"AlexNet, {arguments.image_size}x{arguments.image_size}x1, Fashion-MNIST"
        f"{f', {arguments.images} images' if arguments.images else ''}, batches of "
        f"{arguments.batch_size}, {arguments.dtype}{', a GPU' if accelerators() else ''}"
    )
    values = in_turns(arguments, CONTENDERS)
    print(table(values, CONTENDERS, unit="seconds per epoch", digits=2, less_is_better=True))


if __name__ == "__main__":
    main()
