"""`--model.help` and the like."""

import pytest

from nnx_alexnet.cli import main
from nnx_alexnet.cli.class_help import class_help


def printed(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [["--model.help"], ["--model.help", "AlexNet"]])
def test_the_help_of_the_model_lists_its_options(words, capsys):
    text = printed(["fit", *words], capsys)
    assert text.startswith("AlexNet\n\nAlexNet with BatchNorm")
    for name in ("dropout_rate X", "dtype TEXT", "param_dtype TEXT"):
        assert f"--model.{name}" in text
    assert "--model my_package.MyModel" in text


def test_the_help_of_a_chosen_model_is_its_own(capsys):
    text = printed(["fit", "--model", "helpers.TinyNet", "--model.help"], capsys)
    assert text.startswith("TinyNet\n")
    assert "dropout_rate" not in text


def test_the_help_of_callbacks_lists_them_or_the_options_of_one(capsys):
    assert "  EarlyStopping         Stops training" in printed(
        ["fit", "--trainer.callbacks.help"], capsys
    )
    assert "--trainer.callbacks.patience N" in printed(
        ["fit", "--trainer.callbacks.help", "EarlyStopping"], capsys
    )


def test_a_class_without_arguments_has_no_options():
    assert "It has no options." in class_help("trainer.callbacks", "JSONLogger")
