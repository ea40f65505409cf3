"""What is built from a parsed configuration."""

import itertools

import numpy as np
import pytest
from helpers import tiny_arrays

from nnx_alexnet import DataModule
from nnx_alexnet.cli import trainer_factory
from nnx_alexnet.cli.options import fit_parser
from nnx_alexnet.cli.trainer_factory import build_model, build_trainer


def built(*options, data=None):
    split = tiny_arrays(num=64)
    data = DataModule(split, split, batch_size=8) if data is None else data
    options = ["--model", "helpers.TinyNet", "--trainer.log_dir", "null", *options]
    return build_trainer(fit_parser().parse_args(options), data)


@pytest.mark.parametrize(("image_size", "keeps"), [(31, False), (32, True), (None, False)])
def test_freed_memory_is_kept_for_large_images(monkeypatch, image_size, keeps):
    calls = []
    monkeypatch.setattr(trainer_factory, "keep_freed_memory", lambda: calls.append(True))
    config = fit_parser().parse_args(["--model", "helpers.TinyNet"]).model
    build_model(config, 0, {"num_classes": 3, "image_size": image_size, "in_channels": 2})
    assert bool(calls) is keeps


def test_the_model_gets_the_arguments_that_it_has():
    config = fit_parser().parse_args(["--model", "helpers.TinyNet"]).model
    model = build_model(config, 0, {"num_classes": 3, "image_size": 8, "in_channels": 2})
    assert model.dense.out_features == 3
    assert model.conv.in_features == 2


def test_a_model_with_arguments_that_the_data_lack_uses_its_defaults():
    split = {"tokens": np.zeros((8, 4), np.int32)}
    trainer = built("--model", "nnx_alexnet.AlexNet", data=DataModule(split, batch_size=8))
    assert trainer.model.num_classes == 1000
    with pytest.raises(
        ValueError, match="TinyNet\\) requires `num_classes`, which the data do not"
    ):
        built(data=DataModule(split, batch_size=8))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--trainer.max_epochs", "3"], 24),
        (["--trainer.max_steps", "5"], 5),
        (["--trainer.max_epochs", "1", "--trainer.max_steps", "20"], 8),
        ([], 80),
        (["--optimizer.num_steps", "200"], 200),
        (["--optimizer.schedule", "one_cycle"], 80),
        (["--optimizer.schedule", "constant"], None),
    ],
)
def test_the_cosine_schedule_ends_with_the_run(options, expected):
    trainer = built(*options)
    assert trainer.config["optimizer"].get("num_steps") == expected


def test_a_cosine_schedule_needs_a_known_length():
    class Endless:
        def __iter__(self):
            return itertools.repeat(tiny_arrays(num=8))

    data = DataModule(Endless(), class_names=tuple("abcd"))
    with pytest.raises(ValueError, match=r"`num_steps` \(=None\)"):
        built(data=data)


def test_drops_are_counted_in_epochs_of_the_data():
    options = ["--optimizer.schedule", "step", "--optimizer.drop_every", "3"]
    assert built(*options).config["optimizer"]["steps_per_epoch"] == 8
    given = built(*options, "--optimizer.steps_per_epoch", "1").config["optimizer"]
    assert given["steps_per_epoch"] == 1


def test_the_record_does_not_hold_the_options_of_a_single_process():
    config = built("--resume", "never").config
    assert not {"distributed", "resume", "resume_accept", "resume_weights_only"} & {*config}
    assert config["model"]["class_path"] == "helpers.TinyNet"


def test_a_schedule_shorter_than_the_run_is_reported(warnings):
    built("--trainer.max_epochs", "3", "--optimizer.num_steps", "20")
    (line,) = [each for each in warnings.messages if "schedule ends" in each]
    assert line.startswith("The schedule ends at step 20 (`--optimizer.num_steps`)")
    assert "the run has 24 steps" in line
