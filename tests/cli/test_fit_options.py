"""The help of `fit`, and what is checked before anything is loaded."""

import re

import pytest

from nnx_alexnet.cli.fit_options import cache_options, fit_options, summary_options
from nnx_alexnet.cli.options import fit_parser
from nnx_alexnet.training import Settings


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    return fit_options([]).format_help()


def test_the_help_begins_with_examples_and_common_options(page):
    examples, common = page.partition("Examples:\n")[2].split("\n\n")[:2]
    assert len(re.findall(r"^  nnx-alexnet fit --", examples, re.MULTILINE)) == 3
    assert re.findall(r"^  (--[\w.]+)", common, re.MULTILINE) == [
        "--data", "--data.batch_size", "--model", "--optimizer", "--optimizer.learning_rate",
        "--trainer.max_epochs", "--trainer.name", "--seed", "--resume", "--config",
    ]  # fmt: skip


def test_the_help_lists_every_option_once(page):
    listed = re.findall(r"(?:^  |, )(--[\w.-]+)", page.partition("Common options")[2], re.MULTILINE)
    assert len(listed) == len(set(listed))
    keys = [name.replace(".init_args", "") for name in fit_parser().get_defaults().keys()]  # noqa: SIM118
    known = {f"--{key}" for key in keys if not key.endswith(".class_path")}
    assert known <= {name.replace("-", "_").replace("__", "--") for name in listed}


def test_the_examples_of_the_help_are_valid(page):
    examples = [line.split()[2:] for line in page.splitlines() if line.startswith("  nnx-alexnet")]
    for words in examples[:2]:
        fit_options(words).parse_args(words)


def test_the_help_shows_the_options_of_the_chosen_model():
    text = fit_options(["--model", "helpers.TinyNet"]).format_help()
    assert "--model.dropout_rate" not in text


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "helpers.TinyNet", "--config", "run.yaml"],
        ["--config", "run.yaml", "--model.width", "3"],
        ["--config", "run.yaml", "--trainer.callbacks.period", "3"],
        ["--trainer.callbacks+=my.Own", "--trainer.callbacks.period", "3"],
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.patience", "3",
         "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k", "3"],
        ["--model.init_args.dropout_rate", "0.1"],
        ["--data.rename.img", "image", "--trainer.devices.data", "1"],
        ["--data.columns", "[a,b]", "--data.columns+", "c"],
        ["--data", "mnist", "--optimizer=sgd", "--print_config"],
        ["--resume-accept", "data", "model", "--resume-weights-only"],
        ["--trainer.max_epochs", "null", "--trainer.devices=auto", "--data.keep_on_device=auto"],
    ],
)  # fmt: skip
def test_valid_words_are_accepted(words):
    fit_options(words).parse_args(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.patince", "3"],
         "Did you mean --trainer.callbacks.patience?"),
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.patience", "x"],
         "--trainer.callbacks.patience takes a positive integer, got 'x'."),
        (["--model", "helpers.TinyNet", "--model.dropout_rate", "0.1"],
         "unknown option --model.dropout_rate."),
    ],
)  # fmt: skip
def test_options_of_chosen_classes_are_checked(words, message, capsys):
    with pytest.raises(SystemExit):
        fit_options(words).parse_args(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--trainer.callbacks+=EarlyStoping"], ["--model", "AlexNt"]])
def test_an_unknown_class_is_refused_with_the_nearest(words):
    with pytest.raises(ValueError, match=r"Did you mean (EarlyStopping|AlexNet)\?"):
        fit_options(words)


@pytest.mark.parametrize("name", ["max_epochs", "max_steps", "log_every_n_steps"])
def test_positive_options_are_positive_in_python(name):
    values = {"name": "a", "log_dir": None, "max_epochs": 1, "max_steps": None, "seed": 0,
              "log_every_n_steps": 1, "validate_every_n_epochs": 1, "num_micro_batches": 1,
              "steps_per_execution": 1, "check_finite": True}  # fmt: skip
    with pytest.raises(ValueError, match="must be a positive integer"):
        Settings(**{**values, name: 0})


def test_cache_and_summary_have_the_options_of_data_and_model():
    assert {"list", "remove", "data", "data.root"} <= set(cache_options([]).option_names())
    assert {"model", "model.dtype", "batch_size"} <= set(summary_options([]).option_names())
