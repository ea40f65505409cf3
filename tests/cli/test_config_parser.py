"""The errors of configurations: names and values that depend on classes and files."""

import pytest

from nnx_alexnet.cli.config_parser import ConfigParser, explain
from nnx_alexnet.cli.options import fit_parser


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("trainer: {max_epoch: 3}",
         "unknown option --trainer.max_epoch. Did you mean --trainer.max_epochs?"),
        ("trainer: {max_epochs: ten}", "--trainer.max_epochs takes an integer or null, got 'ten'."),
        ("optimizer: {schedule: cosin}",
         "--optimizer.schedule takes constant, cosine, linear, one_cycle or step, got 'cosin'."),
        ("data: {rename: 3}", "--data.rename takes a dict such as {a: b} or null, got '3'."),
        ("foo: 3", "unknown option --foo."),
        (
            "model: {class_path: nnx_alexnet.AlexNet, init_args: {dropout: 0.1}}",
            "unknown option --model.dropout. Did you mean --model.dropout_rate?",
        ),
        (
            "model: {class_path: nnx_alexnet.AlexNet, init_args: {dropout_rate: x}}",
            "--model.dropout_rate takes a number, got 'x'.",
        ),
        (
            "model: {class_path: nothing.Net}",
            "--model (=nothing.Net) cannot be imported: No module named 'nothing'.",
        ),
        (
            "model: {class_path: collections.OrderedDict}",
            "--model takes a subclass of Module, got 'collections.OrderedDict'.",
        ),
        (
            "trainer: {callbacks: [{class_path: EarlyStoping}]}",
            "--trainer.callbacks takes the import path of a class, such as my_package.MyCallback, "
            "got 'EarlyStoping'. Did you mean EarlyStopping?",
        ),
        (
            "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {patince: 3}}]}",
            "unknown option --trainer.callbacks.patince. Did you mean "
            "--trainer.callbacks.patience?",
        ),
        (
            "trainer: {callbacks: [{class_path: Timer, init_args: {duration: 3}}]}",
            "unknown option --trainer.callbacks.duration. Timer has --trainer.callbacks.max_time.",
        ),
        (
            "trainer: {callbacks: [{class_path: Timer}]}",
            "--trainer.callbacks (=Timer) needs --trainer.callbacks.max_time.",
        ),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_one_sentence_and_exits_with_2(config, message, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(config)
    with pytest.raises(SystemExit) as stopped:
        fit_parser().parse_args(["--config", str(tmp_path / "run.yaml")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"nnx-alexnet fit: error: {message}\nAll options: nnx-alexnet fit --help\n"
    )


def test_the_value_of_an_argument_of_a_callback_is_checked(capsys):
    words = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.patience", "x"]
    with pytest.raises(SystemExit):
        fit_parser().parse_args(words)
    assert "--trainer.callbacks.patience takes an integer, got 'x'." in capsys.readouterr().err


def test_other_errors_keep_their_text():
    assert explain("something else", []) == "something else"


def test_a_parser_that_does_not_exit_explains_its_errors():
    parser = ConfigParser()
    parser.add_argument("--limit", type=int)
    assert parser.explain("Option 'limt' is not accepted").endswith("Did you mean --limit?")
