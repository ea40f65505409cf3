"""Arguments of another type are refused by name, before anything is compiled or written.

The text "false" would otherwise have the effect of True, True would be the number 1, and the
comparison of a text with a number fails without naming the argument.
"""

import numpy as np
import optax
import pytest
from flax import nnx
from parts import split_of

from nnx_alexnet import (
    AlexNet,
    BinaryClassification,
    Classification,
    DataModule,
    Trainer,
    create_optimizer,
    load_data,
)
from nnx_alexnet.callbacks import (
    EMA,
    EarlyStopping,
    GradualUnfreezing,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    ReduceLROnPlateau,
    TensorBoard,
    Timer,
)  # fmt: skip
from nnx_alexnet.data import Loader
from nnx_alexnet.optimizers import dynamic_loss_scale, layer_factors
from nnx_alexnet.tuning import find_learning_rate


def alexnet(**arguments):
    return AlexNet(**{"image_size": 67, **arguments}, rngs=nnx.Rngs(0))


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


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (EMA, ["decay"]),
        (EarlyStopping, ["min_delta", "threshold", "divergence_threshold"]),
        (ReduceLROnPlateau, ["factor", "min_lr"]),
        (ModelCheckpoint, ["every_n_seconds"]),
        (ProgressBar, ["refresh_seconds"]),
        (LearningRateMonitor, ["schedule"]),
        (Timer, ["max_time"]),
        (GradualUnfreezing, ["groups"]),
        (Classification, ["focal_gamma", "label_smoothing", "class_weights"]),
        (BinaryClassification, ["threshold", "pos_weight"]),
        (load_data, ["seed", "image_size"]),
        (alexnet, ["num_classes", "image_size", "in_channels", "dropout_rate"]),
        (
            create_optimizer,
            ["learning_rate", "momentum", "weight_decay", "clip_norm", "num_steps", "rate_factors"],
        ),
        (lambda **given: create_optimizer(schedule="step", drop_every=1, **given), ["drop_factor"]),
        (
            lambda **given: dynamic_loss_scale(optax.sgd(1.0), **given),
            ["initial_scale", "growth_interval"],
        ),
        (lambda **given: layer_factors(["a"], **given), ["decay"]),
        (lambda **given: find_learning_rate(None, None, **given), ["lowest", "highest"]),
        (trainer, ["limit_batches", "overfit_batches", "num_micro_batches"]),
    ],
)
def test_text_and_bools_are_no_numbers(build, names):
    allowed = {"momentum", "decay", "factor", "lowest"}  # True is out of the range of these
    for name in names:
        for value in ("x", True) if name not in allowed else ("x",):
            if name == "groups" and value == "x":
                continue  # one group
            with pytest.raises((TypeError, ValueError), match=rf"`{name}` \(={value!r}\)"):
                build(**{name: value})


def test_numbers_of_numpy_are_numbers():
    assert trainer(limit_batches=np.int64(1), num_micro_batches=np.int64(1)).batch_size == 2
    assert trainer(limit_batches={"train": np.float32(0.5)}, fast_dev_run=np.True_).max_epochs == 1
    assert trainer(overfit_batches=np.int64(1)).data.val is not None
    assert EMA(np.float32(0.5)).decay == 0.5
