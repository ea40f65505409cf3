"""Text is refused where a bool is expected: "false" would otherwise have the effect of True."""

import pytest
from flax import nnx
from parts import split_of

from nnx_alexnet import AlexNet, DataModule, Trainer, create_optimizer, load_data
from nnx_alexnet.callbacks import EMA, EarlyStopping, ModelCheckpoint, TensorBoard
from nnx_alexnet.data import Loader


def alexnet(**arguments):
    return AlexNet(2, image_size=67, rngs=nnx.Rngs(0), **arguments)


def trainer(**arguments):
    data = DataModule(split_of(1.0, 2.0), batch_size=2)
    return Trainer(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), data, log_dir=None, **arguments)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (alexnet, ["remat"]),
        (trainer, ["shard_state", "progress_bar"]),
        (load_data, ["augment", "download", "drop_last"]),
        (create_optimizer, ["nesterov", "decay_biases"]),
        (EarlyStopping, ["check_finite", "restore_best"]),
        (ModelCheckpoint, ["save_on_exception", "restore_best"]),
        (EMA, ["warmup"]),
        (TensorBoard, ["histograms", "norms", "gradients", "texts"]),
        (lambda **arguments: Loader(None, **arguments), ["shuffle", "drop_last"]),
    ],
)
def test_text_is_no_bool(build, names):
    for name in names:
        with pytest.raises(TypeError, match=rf"`{name}` \(='false'\) must be True or False"):
            build(**{name: "false"})
