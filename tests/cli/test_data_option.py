"""The user's own data on the command line."""

import textwrap

import numpy as np
import pytest
import yaml
from PIL import Image

from nnx_alexnet.cli import main
from nnx_alexnet.cli.data_option import build_data
from nnx_alexnet.cli.options import fit_parser

SHOP = """
import numpy as np
from nnx_alexnet import DataModule

def split(num, size):
    rng = np.random.default_rng(num)
    return rng.integers(0, 256, (num, size, size, 1), dtype=np.uint8), np.arange(num) % 3

def images(size: int = 8, *, batch_size: int = 8, noise=None):
    '''Makes images.

    Args:
        size: the side in pixels.
        batch_size: rows of a batch.
    '''
    splits = split(32, size), split(16, size), split(16, size)
    return DataModule(*splits, batch_size=batch_size)

class Images(DataModule):
    def __init__(self, size: int = 8):
        super().__init__(split(32, size), split(16, size), batch_size=8)

ready = DataModule(split(32, 8), split(16, 8), batch_size=8)
number = 3

def wrong():
    return 3
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The name of a module with data, in the working directory."""
    name = f"shop_{tmp_path.name}".replace("-", "_")  # each test imports its own
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SHOP))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def parsed(path, *options):
    return fit_parser(path).parse_args(["--data.import_path", path, *options]).data


@pytest.mark.parametrize("name", ["images", "Images", "ready"])
def test_a_function_a_class_or_an_instance_is_the_data(name, shop):
    data = build_data(parsed(f"{shop}.{name}"))
    assert (data.image_shape, data.batch_size, data.train.num_examples) == ((8, 8, 1), 8, 32)


@pytest.mark.parametrize("name", ["images", "Images"])
def test_its_arguments_are_options(name, shop):
    assert build_data(parsed(f"{shop}.{name}", "--data.size", "12")).image_shape == (12, 12, 1)


def test_an_argument_without_a_type_is_an_option(shop):
    assert parsed(f"{shop}.images", "--data.noise", "0.5").noise == 0.5


def test_its_own_defaults_apply_instead_of_the_recipe(shop):
    assert parsed(f"{shop}.images").batch_size == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "is 3; it must be your own function that returns a DataModule"),
        ("split.nothing", "cannot be imported"),
        ("nothing", "cannot be imported"),
    ],
)
def test_other_objects_are_refused(name, message, shop, capsys):
    assert main(["fit", "--data", f"{shop}.{name}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"nnx-alexnet: error: --data (={shop}.{name}) {message}")


def test_a_function_that_returns_no_data_is_refused(shop):
    with pytest.raises(ValueError, match="returned 3; it must return a DataModule"):
        build_data(parsed(f"{shop}.wrong"))


def test_the_help_lists_the_arguments_of_the_function(shop, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--data", f"{shop}.images", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "The side in pixels." in text
    assert "--data.image_size" not in text


def test_an_unknown_argument_of_the_function_is_reported(shop, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--data", f"{shop}.images", "--data.sise", "3"])
    assert "Did you mean --data.size?" in capsys.readouterr().err


def test_a_saved_run_finds_its_data_again(shop, tmp_path, capsys):
    options = ["--model", "helpers.TinyNet", "--trainer.name", "a", "--trainer.devices", "1"]
    words = ["--data", f"{shop}.images", "--data.size", "6", "--trainer.max_epochs", "1"]
    assert main(["fit", *words, *options]) == 0
    run = tmp_path / "logs/a/version_0"
    saved = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert saved["import_path"] == f"{shop}.images"
    assert saved["size"] == 6
    assert main(["test", str(run)]) == 0
    assert "test/accuracy" in capsys.readouterr().out
    longer = ["fit", "--resume", str(run), "--trainer.max_epochs", "2"]
    assert main([*longer, "--resume-accept", "schedule"]) == 0
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / "x.png")
    capsys.readouterr()
    assert main(["predict", str(run), "x.png"]) == 0
    assert capsys.readouterr().out.startswith("x.png  ")
