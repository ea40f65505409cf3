"""The help and the errors of the option parser."""

import pytest

from nnx_alexnet.cli import main
from nnx_alexnet.cli.base_parser import Parser, nearest, shorten
from nnx_alexnet.cli.options import fit_parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--data.nmae", "x"], "Did you mean 'data.name'"),
        (["fit", "--trainer.max_epoch", "3"], "Did you mean 'trainer.max_epochs'"),
        (["fit", "--model.dtpe", "bfloat16"], "Did you mean 'dtype'"),
        (["fit", "--trainer.callbacks+=EarlyStoping"], "Did you mean 'EarlyStopping'"),
        (["fit", "--dat", "digits"], "Did you mean 'data' instead of 'dat'?"),
        (
            ["fit", "--max_epochs", "3"],
            "Did you mean 'trainer.max_epochs' instead of 'max_epochs'?",
        ),
        (["fits"], "'fit', 'validate', 'test', 'predict', 'verify', 'runs', 'report', 'summary'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_key_of_a_configuration_file_is_refused(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("trainer:\n  max_epoch: 3\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "run.yaml")])
    assert "Did you mean 'trainer.max_epochs'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["--trainer.max_epochs", "many"],
            "`trainer.max_epochs` (=many) must be an integer or null.",
        ),
        (
            ["--trainer.callbacks", "EarlyStoping"],
            "`trainer.callbacks` (=EarlyStoping):\n"
            "  EarlyStoping is not a class that can be imported.\n"
            "  Did you mean 'EarlyStopping' instead of 'EarlyStoping'?",
        ),
        (
            ["--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.monito", "x"],
            "`trainer.callbacks`:\n"
            "  Problem with given class_path 'nnx_alexnet.callbacks.ModelCheckpoint':\n"
            "  Option 'monito' is not accepted\n"
            "  Did you mean 'monitor' instead of 'monito'?",
        ),
    ],
)
def test_a_value_of_no_accepted_type_is_reported_briefly(arguments, error, capsys):
    with pytest.raises(SystemExit):
        main(["fit", *arguments])
    assert capsys.readouterr().err == (
        f"nnx-alexnet fit: error: {error}\nAll options: nnx-alexnet fit --help\n"
    )


def test_other_errors_are_not_shortened():
    assert shorten("expected one argument") == "expected one argument"


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ("data.nmae", "data.name"),
        ("name", "data.name"),
        ("optimizer.nam", "optimizer.name"),
        ("trainer.seeed", "seed"),
        ("data.name", None),
        ("xyz", None),
    ],
)
def test_the_nearest_name_is_found_with_or_without_its_group(got, expected):
    assert nearest(got, ["data", "data.name", "optimizer.name", "seed"]) == expected


def test_each_default_is_shown_once():
    parser = Parser()
    parser.add_argument("--a", type=int, default=3, help="A number (default 3).")
    parser.add_argument("--b", type=int | None, help="Another number. By default, that of --a.")
    parser.add_argument("--c", default=None, help="A name.")
    parser.add_argument("--d", type=bool, default=True, help="A switch (default `True`).")
    lines = " ".join(parser.format_help().split())
    assert "A number. (type: int, default: 3)" in lines
    assert "By default, that of --a. (type: int | null)" in lines
    assert "A name." in lines
    assert "A switch. (type: bool, default: True)" in lines
    assert "null)" in lines
    assert "default: null" not in lines


def test_the_help_of_fit_states_the_defaults_of_fit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    text = fit_parser().format_help()
    assert "default: cosine" in text
    assert "(the default" not in text.partition("Builds an optax")[2].partition("Trains,")[0]
    assert "[--data NAME|IMPORT_PATH|CONFIG]" in " ".join(text.split())
    assert "Short for --data.name NAME, or the path of a configuration file." in text
