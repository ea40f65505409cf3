"""What a run from Python records: names, rates and schedules of optimizers, and tags."""

import optax
import pytest
from helpers import TinyNet, trainer_of

from nnx_alexnet import create_optimizer
from nnx_alexnet.callbacks import LearningRateMonitor
from nnx_alexnet.dashboard.hparams import FIRST_HPARAMS, hyperparameters
from nnx_alexnet.optimizers import as_transformation
from nnx_alexnet.training.run_config import optimizer_record

COSINE = optax.cosine_decay_schedule(0.1, 100)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (optax.adam(0.1), ("adam", 0.1, "constant")),
        (optax.adamw(COSINE), ("adamw", 0.1, "cosine_decay")),
        (optax.sgd(0.2, momentum=0.9), ("sgd", 0.2, "constant")),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.lion(0.3)), ("lion", 0.3, "constant")),
        (optax.rmsprop(lambda step: 0.1 * step), ("rmsprop", None, "lambda")),
        (optax.sgd(optax.linear_schedule(0.0, 0.3, 10)), ("sgd", 0.3, "polynomial")),
        (optax.lion(optax.piecewise_constant_schedule(0.1)), ("lion", None, "piecewise_constant")),
        (optax.inject_hyperparams(optax.adam)(0.2), ("adam", 0.2, "constant")),
        (optax.inject_hyperparams(optax.adagrad)(COSINE), ("adagrad", 0.1, "cosine_decay")),
        (optax.MultiSteps(optax.adam(0.1), 4), ("adam", 0.1, "constant")),
        (
            optax.partition({"a": optax.sgd(0.1), "b": optax.sgd(0.2)}, lambda _: "a"),
            ("sgd", 0.2, "constant"),
        ),
        (
            optax.partition({"a": optax.sgd(0.1), "b": optax.sgd(lambda _: 0.2)}, lambda _: "a"),
            ("sgd", None, None),
        ),
        (optax.identity(), (None, None, None)),
        (create_optimizer(), ("adam", 1e-3, "constant")),
        (create_optimizer("lion", 0.02, warmup_steps=5), ("lion", 0.02, "constant")),
        (create_optimizer("adam", 0.02, rate_factors={"a*": 0.1}), ("adam", 0.02, "constant")),
        (
            create_optimizer("adamw", 0.02, schedule="cosine", num_steps=100, clip_norm=1.0),
            ("adamw", 0.02, "cosine"),
        ),
    ],
)
def test_an_optimizer_is_recorded_as_on_the_command_line(optimizer, expected):
    record = optimizer_record(as_transformation(optimizer))
    assert record == dict(zip(("name", "learning_rate", "schedule"), expected, strict=True))


def test_the_schedule_of_a_monitor_is_recorded_if_the_optimizer_hides_its_own():
    hidden = optax.GradientTransformation(lambda p: (), lambda g, s, p=None: (g, s))
    trainer = trainer_of(optimizer=hidden, callbacks=[LearningRateMonitor(COSINE)], log_dir=None)
    record = trainer.config["optimizer"]
    assert record == {"name": None, "learning_rate": 0.1, "schedule": "cosine_decay"}


def test_a_run_from_python_has_a_value_for_the_first_columns(tmp_path):
    trainer = trainer_of(optimizer=optax.adam(0.1), log_dir=None, tags=["wide", "a b"])
    found = hyperparameters(trainer.config)
    assert found.keys() >= {*FIRST_HPARAMS}
    assert (found["model"], found["trainer.tags"]) == (TinyNet.__name__, "wide, a b")


def test_tags_are_added_to_a_given_configuration():
    config = {"seed": 3, "trainer": {"max_epochs": 1}}
    assert trainer_of(config=config, log_dir=None).config == config
    tagged = trainer_of(config=config, log_dir=None, tags="wide").config
    assert tagged == {"seed": 3, "trainer": {"max_epochs": 1, "tags": ["wide"]}}


@pytest.mark.parametrize(("tags", "error"), [([1], TypeError), ("", ValueError)])
def test_tags_that_are_no_words_are_refused(tags, error):
    with pytest.raises(error, match="`tags`"):
        trainer_of(tags=tags, log_dir=None)
