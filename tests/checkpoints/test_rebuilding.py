"""Rebuilding the model of a run, of the command line or of Python."""

import json

import numpy as np
import optax
import pytest
from helpers import Dense, alexnet_shapes, tiny_arrays
from small_runs import tiny_data, tiny_trainer

from nnx_alexnet import AlexNet, DataModule, Trainer, load_model
from nnx_alexnet.checkpoints.identity import describe_module
from nnx_alexnet.cli.data_option import build_data
from nnx_alexnet.cli.options import fit_parser
from nnx_alexnet.cli.trainer_factory import build_trainer


def predictions(model, data):
    return Trainer(model, data, log_dir=None, progress_bar=False).predict()


def test_the_model_of_a_command_line_run_predicts_as_its_trainer(tmp_path):
    options = ["--model", "helpers.TinyNet", "--data.image_size", "16", "--seed", "3"]
    options += [
        "--trainer.max_steps",
        "1",
        "--trainer.limit_batches",
        "1",
        "--trainer.progress_bar",
        "false",
    ]
    config = fit_parser().parse_args([*options, "--trainer.log_dir", str(tmp_path)])
    data = build_data(config.data)
    trainer = build_trainer(config, data)
    trainer.fit()
    np.testing.assert_array_equal(predictions(load_model(trainer.run_dir), data), trainer.predict())


def test_the_model_of_a_python_run_predicts_as_its_trainer(tmp_path):
    trainer = tiny_trainer(log_dir=tmp_path, max_epochs=1, optimizer=optax.sgd(0.1))
    trainer.fit()
    loaded = load_model(trainer.run_dir, which="last")
    np.testing.assert_array_equal(predictions(loaded, tiny_data()), trainer.predict())


def dense_run(folder, model, size):
    train = tiny_arrays(size=size)
    trainer = tiny_trainer(
        model=model, data=DataModule(train, batch_size=16), log_dir=folder, max_steps=1
    )
    trainer.fit()
    return trainer.run_dir


def test_arguments_that_a_run_does_not_record_are_refused(tmp_path):
    run = dense_run(tmp_path, Dense(4), 4)
    with pytest.raises(ValueError, match=r"not record all .* load_checkpoint\(.*\n.*in_features"):
        load_model(run)


def test_a_class_that_cannot_be_imported_is_refused(tmp_path):
    class Local(Dense):
        pass

    run = dense_run(tmp_path, Local(), 8)
    with pytest.raises(ValueError, match=r"which cannot be imported: .* load_checkpoint\("):
        load_model(run)


def test_alexnet_keeps_all_its_arguments():
    arguments = {"num_classes": 3, "image_size": 67, "in_channels": 1, "dropout_rate": 0.25}
    arguments |= {"dtype": "bfloat16", "param_dtype": "float32"}
    found = json.loads(json.dumps(describe_module(alexnet_shapes(**arguments))))
    assert arguments.items() <= found.items()
    again = alexnet_shapes(**{name: found[name] for name in arguments})
    assert isinstance(again, AlexNet)
    assert describe_module(again) == describe_module(alexnet_shapes(**arguments))
