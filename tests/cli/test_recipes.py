"""The recipes: their files, `--config recipe:NAME`, and the runs that they describe."""

import re
import shlex

import numpy as np
import pytest
import yaml
from PIL import Image

from nnx_alexnet.callbacks import EMA, ReduceLROnPlateau
from nnx_alexnet.cli import main
from nnx_alexnet.cli.options import fit_parser
from nnx_alexnet.cli.parser import parse
from nnx_alexnet.cli.recipes import recipe_names, recipe_path, with_recipe_files
from nnx_alexnet.cli.trainer_factory import build_trainer
from nnx_alexnet.cli.words import complete
from nnx_alexnet.data import load_data
from nnx_alexnet.optimizers import create_optimizer

NAMES = ["digits", "fashion_mnist", "fashion_mnist_best", "imagenet_2012", "imagenet_large_batch"]
FIELDS = ["command", "hardware", "time", "accuracy", "runs", "chosen on"]


def parsed(*words):
    """Returns what `fit` parses, after the checks that come before it."""
    parse(["fit", *words])
    return fit_parser().parse_args(complete(["fit", *words])[1:])


def header(name):
    """Returns the fields in the comment at the top of a recipe."""
    text = recipe_path(name).read_text(encoding="utf-8")
    return dict(re.findall(r"^# ([a-z ]+): (.+)$", text, re.M))


@pytest.fixture
def images(tmp_path):
    """A folder like that of ImageNet, with two classes of three images."""
    for number in range(12):
        folder = tmp_path / ("train", "val")[number // 6] / ("n01440764", "n01443537")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (80, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    return tmp_path


def test_a_recipe_without_its_prefix_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"No such file .* Did you mean recipe:digits\?"):
        complete(["fit", "--config", "digits"])


def test_the_recipes_are_those_of_the_folder():
    assert recipe_names() == NAMES


def test_the_digits_are_the_defaults_of_the_command():
    recipe, defaults = (parsed(*words).as_dict() for words in (["--config", "recipe:digits"], []))
    del recipe["config"], defaults["config"]
    assert recipe == defaults


@pytest.mark.parametrize("name", NAMES)
def test_the_header_of_a_recipe_is_complete_and_its_command_parses(name):
    found = header(name)
    assert [field for field in FIELDS if field not in found] == []
    command = found["command"].removeprefix("time ").partition("&&")[0]
    program, verb, *options = shlex.split(command)
    assert (program, verb) == ("nnx-alexnet", "fit")
    assert options[:2] == ["--config", f"recipe:{name}"]
    parsed(*options)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_a_recipe_reaches_the_configuration(name):
    written = yaml.safe_load(recipe_path(name).read_text(encoding="utf-8"))
    config = parsed("--config", f"recipe:{name}").as_dict()

    def missing(given, got, place=""):
        if isinstance(given, dict):
            for key, value in given.items():
                yield from missing(value, got[key], f"{place}.{key}")
        elif isinstance(given, list):
            for number, pair in enumerate(zip(given, got, strict=True)):
                yield from missing(*pair, f"{place}.{number}")
        elif given != got:
            yield place

    assert [*missing(written, config)] == []


def test_an_unknown_recipe_is_refused_with_the_known_ones(capsys):
    assert main(["fit", "--config", "recipe:imagenet_2021"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "nnx-alexnet: error: --config (=recipe:imagenet_2021) is not a recipe. Did you mean "
        f"recipe:imagenet_2012? Recipes: {', '.join(NAMES)}."
    )


@pytest.mark.parametrize("words", [["--config", "recipe:digits"], ["--config=recipe:digits"]])
def test_options_after_a_recipe_override_it(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words, "--optimizer.learning_rate", "0.5", "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (
        printed["optimizer"] | {"learning_rate": 0.5, "schedule": "cosine"} == printed["optimizer"]
    )


def test_options_of_the_callbacks_of_a_recipe_override_it():
    config = parsed("--config", "recipe:imagenet_2012", "--trainer.callbacks.patience", "3")
    (callback,) = config.trainer.callbacks
    assert (callback.init_args.patience, callback.init_args.factor) == (3, 0.1)


def test_a_wrong_option_after_a_recipe_is_reported(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "recipe:digits", "--trainer.max_epoch", "3"])
    assert stopped.value.code == 2
    assert "Did you mean --trainer.max_epochs?" in capsys.readouterr().err


def test_only_the_value_of_config_is_a_recipe():
    words = ["fit", "--trainer.name", "recipe:digits", "--config", "run.yaml"]
    assert with_recipe_files(words) == words


def test_a_run_records_the_options_and_not_the_recipe():
    data = load_data("digits", image_size=16)
    tiny = ["--model", "helpers.TinyNet", "--trainer.log_dir", "null"]
    first, second = (
        build_trainer(parsed(*words, *tiny), data).config
        for words in (["--config", "recipe:digits"], [])
    )
    assert first == second
    assert "config" not in first


def test_the_images_and_the_length_of_imagenet_2012_are_the_paper_s(images):
    config = parsed("--config", "recipe:imagenet_2012", "--data.root", str(images))
    data = load_data(**{**config.data, "drop_last": False})  # six images are no batch of 128
    patches, lighting = data.transform.parts
    assert (patches.image_size, patches.flip, patches.translate) == (227, True, 0.0)
    assert patches.crop * data.train.element_spec()["image"].shape[0] == 227
    assert patches.ten_crops
    assert lighting.sigma == 0.1
    assert (config.data.batch_size, config.trainer.max_epochs) == (128, 90)
    (plateau,) = fit_parser().instantiate(config).trainer.callbacks
    assert isinstance(plateau, ReduceLROnPlateau)
    assert (plateau.monitor, plateau.factor) == ("val/accuracy", 0.1)


def test_the_optimizer_of_imagenet_2012_is_the_paper_s():
    config = parsed("--config", "recipe:imagenet_2012")
    # Section 5 of the paper: v <- 0.9 v - 0.0005 * rate * w - rate * g; w <- w + v.
    optimizer = create_optimizer(**config.optimizer)
    w, v = np.full((2, 2), 3.0, np.float32), 0.0
    state, params = optimizer.init({"kernel": w}), {"kernel": w}
    for gradient in (1.0, -2.0, 0.5):
        grads = {"kernel": np.full((2, 2), gradient, np.float32)}
        updates, state = optimizer.update(grads, state, params)
        params = {"kernel": params["kernel"] + updates["kernel"]}
        v = 0.9 * v - 0.0005 * 0.01 * w - 0.01 * gradient
        w = w + v
    np.testing.assert_allclose(params["kernel"], w, rtol=1e-6)


def test_the_best_recipe_averages_the_weights_and_mixes_examples(fashion_mnist):
    config = parsed("--config", "recipe:fashion_mnist_best", "--data.root", str(fashion_mnist))
    transforms = [type(each).__name__ for each in load_data(**config.data).transform.parts]
    assert transforms == ["ImageTransform", "RandomErasing", "MixUp"]
    (average,) = fit_parser().instantiate(config).trainer.callbacks
    assert isinstance(average, EMA)
    assert config.optimizer.schedule == "one_cycle"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains(name, images, request, monkeypatch):
    small = ["--data.image_size", "67", "--data.batch_size", "3", "--trainer.fast_dev_run", "2"]
    if name.startswith("imagenet"):
        small += ["--data.root", str(images), "--data.num_workers", "0"]
    elif name.startswith("fashion"):
        small += ["--data.root", str(request.getfixturevalue("fashion_mnist"))]
    monkeypatch.chdir(images)
    assert main(["fit", "--config", f"recipe:{name}", *small]) == 0
    assert not (images / "logs").exists()
