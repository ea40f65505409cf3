"""The options of `fit` by group."""

import pytest

from nnx_alexnet import callbacks
from nnx_alexnet.cli.option_groups import class_group, known_classes, option_groups
from nnx_alexnet.cli.options import fit_parser


def test_the_groups_have_the_options_of_the_configuration():
    names = {name.replace(".init_args", "") for name in fit_parser().get_defaults().keys()}  # noqa: SIM118
    names -= {"config", "seed", "resume", "resume_accept", "resume_weights_only"}
    names -= {"model.class_path", "task.class_path"}
    assert {option.name for group in option_groups() for option in group.options} == names


def test_the_help_is_in_the_words_of_the_command_line():
    texts = {option.name: option.help for group in option_groups() for option in group.options}
    assert texts["data.batch_size"] == "Examples per step. (default: 32)"
    assert "fall to zero at --optimizer.num_steps" in texts["optimizer.schedule"]
    assert texts["task.label_smoothing"].endswith("(default: 0.1)")
    assert texts["trainer.log_dir"].startswith("The parent folder of all runs; null writes nothing")
    assert not [name for name, text in texts.items() if "`" in text or "None" in text]


def test_callbacks_with_short_names_are_all_of_the_package():
    found = {name for name in vars(callbacks) if isinstance(vars(callbacks)[name], type)
             and issubclass(vars(callbacks)[name], callbacks.Callback)}  # fmt: skip
    assert set(known_classes("trainer.callbacks")) == found - {
        "Callback",
        "MetricMonitor",
        "WeightAveraging",
    }


def test_the_options_of_a_class_are_its_arguments():
    options = class_group("model", "helpers.TinyNet").options
    assert "model.rngs" not in [option.name for option in options]
    names = [option.name for option in class_group("trainer.callbacks", "Profiler").options]
    assert names == ["trainer.callbacks.start_step", "trainer.callbacks.num_steps"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing.Net", r"--model \(=nothing.Net\) cannot be imported: No module named 'nothing'"),
        ("AlexNe", "got 'AlexNe'. Did you mean AlexNet?"),
        ("os.path.join", "--model takes the import path of a class"),
    ],
)
def test_other_paths_are_refused(path, message):
    with pytest.raises(ValueError, match=message):
        class_group("model", path)
