"""LoRA: a trained network is adapted to other data by small matrices; its own weights stay.

The base is trained on the digits, and adapted to the digits turned by 90 degrees. `optax.partition`
gives each group of parameters its own optimizer: Adam, and one that changes nothing.
"""

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from nnx_alexnet import DataModule, Trainer

RANK = 4


class Network(nnx.Module):
    def __init__(self, width=256, *, rngs):
        self.first = nnx.Linear(64, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, image):
        x = nnx.relu(self.first(image.reshape(len(image), -1)))
        return self.out(nnx.relu(self.second(x)))  # B 10


def load_data(is_turned):
    """Returns the digits, as they are or turned."""
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32), digits.target
    if is_turned:
        images = np.rot90(images, axes=(1, 2)).copy()
    train, test = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])
    name = "turned digits" if is_turned else "digits"
    return DataModule(train, test, test, batch_size=50, name=name)


def trained_base():
    """Returns a network that was trained on the digits."""
    base = Network(rngs=nnx.Rngs(0))
    data = load_data(is_turned=False)
    Trainer(base, data, max_epochs=5, log_dir=None, progress_bar=False).fit()
    return base


def with_lora(base, rngs):
    """Adds matrices of a low rank to the layers; at first, they change nothing."""
    for name in ("first", "second", "out"):
        layer = getattr(base, name)
        size = layer.in_features, RANK, layer.out_features
        setattr(base, name, nnx.LoRA(*size, base_module=layer, rngs=rngs))
    return base


def groups(parameters):
    """Returns the name of the group of each parameter, which its path determines."""

    def group(path, _):
        return "lora" if "lora_" in jax.tree_util.keystr(path) else "base"

    return jax.tree_util.tree_map_with_path(group, parameters)


def make_trainer(*, max_epochs=12, **options):
    optimizers = {"lora": optax.adam(5e-3), "base": optax.set_to_zero()}
    return Trainer(
        with_lora(trained_base(), nnx.Rngs(1)),
        load_data(is_turned=True),
        optimizer=optax.partition(optimizers, groups),
        max_epochs=max_epochs,
        **options,
    )


def main(**options):
    trainer = make_trainer(**options)
    accuracy = trainer.test()["test/accuracy"]
    before = {name: np.array(array) for name, array in trainer.parameters().items()}
    trainer.fit()
    after = trainer.parameters()
    changed = [name for name in after if not np.array_equal(before[name], after[name])]
    return {
        "accuracy": trainer.test()["test/accuracy"],
        "accuracy_before": accuracy,
        "changed_parameters": sum(after[name].size for name in changed),
        "changed_in_the_base": sum(after[name].size for name in changed if "lora_" not in name),
        "parameters": sum(array.size for array in after.values()),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
