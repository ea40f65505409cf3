"""The arguments of functions and classes, with and without importing them."""

import pytest

from nnx_alexnet import AlexNet, Classification, Trainer, create_optimizer, load_data
from nnx_alexnet.callbacks import EarlyStopping, ModelCheckpoint, RunSummary
from nnx_alexnet.cli.signatures import REQUIRED, inspect_signature, read_signature
from nnx_alexnet.devices import initialize_distributed


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("data/datasets.py", load_data),
        ("optimizers/create.py", create_optimizer),
        ("trainer.py", Trainer),
        ("models/alexnet.py", AlexNet),
        ("task/classification.py", Classification),
        ("devices/join_job.py", initialize_distributed),
        ("callbacks/early_stopping.py", EarlyStopping),
        ("callbacks/model_checkpoint.py", ModelCheckpoint),
        ("callbacks/run_summary.py", RunSummary),
    ],
)
def test_the_source_gives_the_arguments_of_the_object(path, target):
    read, inspected = read_signature(path, target.__name__), inspect_signature(target)
    assert read.summary == inspected.summary
    assert [(a.name, a.default, a.help) for a in read.arguments] == [
        (a.name, a.default, a.help) for a in inspected.arguments
    ]
    assert all(argument.help for argument in read.arguments)


def test_names_of_types_stand_for_their_alternatives():
    kinds = {a.name: a.kinds for a in read_signature("data/datasets.py", "load_data").arguments}
    assert kinds["on_bad_sample"] == ("'raise'", "'skip'")
    assert kinds["keep_on_device"] == ("bool", "'auto'")
    assert kinds["cache"] == ("bool", "str", "PathLike")


def test_a_function_without_documentation_has_arguments():
    def plain(size, *others, scale=2.0, **more):
        return size

    size, scale = inspect_signature(plain).arguments
    assert (size.name, size.kinds, size.default, size.help) == ("size", (), REQUIRED, "")
    assert (scale.name, scale.default) == ("scale", 2.0)
