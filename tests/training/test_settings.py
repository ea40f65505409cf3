"""`Settings`: the plain arguments of a trainer, checked once."""

import dataclasses
from pathlib import Path

import pytest

from nnx_alexnet.training.settings import Settings, as_name


def settings_of(**arguments):
    return Settings(**{"name": "run", "log_dir": None, **arguments})


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        *(
            (name, value, "must be a positive integer")
            for name in (
                "max_epochs", "max_steps", "log_every_n_steps", "validate_every_n_epochs",
                "num_micro_batches", "steps_per_execution",
            )
            for value in (0, -1, 2.0, True, "many")
        ),
        *(("seed", value, "must be an integer of at least 0") for value in (-1, 0.5, True, None)),
        ("steps_per_execution", None, "must be a positive integer"),
        ("name", "", "`name`"),
        ("name", "../elsewhere", "`name`"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(argument, value, rule):
    with pytest.raises(ValueError, match=rf"`{argument}` \(={value!r}\)|{rule}") as raised:
        settings_of(**{argument: value})
    assert f"`{argument}` (={value!r})" in str(raised.value)
    assert rule in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_epochs": 1, "max_steps": 1},
        {"max_epochs": None, "max_steps": None},
        {"seed": 0},
        {"steps_per_execution": 1},
        {"steps_per_execution": "auto"},
        {"log_every_n_steps": 1, "validate_every_n_epochs": 1},
    ],
    ids=str,
)
def test_the_smallest_values_work(arguments):
    settings = settings_of(**arguments)
    assert {name: getattr(settings, name) for name in arguments} == arguments


def test_settings_cannot_be_changed_later():
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings_of().seed = 3


def test_processes_share_all_settings_but_the_folder_of_their_runs():
    assert settings_of(seed=3, max_epochs=2, log_dir="/here").shared() == {
        "name": "run", "max_epochs": "2", "max_steps": "None", "seed": "3",
        "log_every_n_steps": "50", "validate_every_n_epochs": "1",
        "validate_every_n_steps": "None", "num_micro_batches": "1",
        "steps_per_execution": "auto", "check_finite": "True", "tags": "()",
    }  # fmt: skip
    assert settings_of(log_dir="/here").shared() == settings_of(log_dir="/there").shared()


def test_a_name_may_be_a_path():
    assert as_name(Path("sweep") / "first") == "sweep/first"
    assert as_name("first") == "first"


@pytest.mark.parametrize("name", [3, b"run", ["run"]])
def test_a_name_of_another_type_is_refused(name):
    with pytest.raises(TypeError, match=r"`name` \(=.*must be a str"):
        as_name(name)
