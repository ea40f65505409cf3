import pytest

from nnx_alexnet.runs.settings import Settings, compare_settings, read_settings


def test_nested_settings_have_names_with_dots(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "model:\n  class_path: helpers.TinyNet\n  init_args: {}\n"
        "task: {class_path: my.Task, init_args: {smoothing: 0.1}}\n"
        "trainer:\n  max_epochs: 3\n  log_dir: null\n  callbacks: [{class_path: A}]\n  fast: true\n"
    )
    assert read_settings(tmp_path) == (
        {
            "model": "helpers.TinyNet",
            "task": "my.Task",
            "task.smoothing": "0.1",
            "trainer.max_epochs": "3",
            "trainer.log_dir": "null",
            "trainer.callbacks": '[{"class_path": "A"}]',
            "trainer.fast": "true",
        },
        True,
    )


def test_a_key_with_a_dot_is_not_a_key_in_a_group(tmp_path):
    (tmp_path / "config.yaml").write_text("a.b: 1\na: {b: 2}")
    assert read_settings(tmp_path).values == {'"a.b"': "1", "a.b": "2"}


@pytest.mark.parametrize("content", ["", "3", "[1]", "a: [", "\x00"])
def test_what_cannot_be_read_has_no_settings(tmp_path, content):
    assert read_settings(tmp_path).values == {}
    (tmp_path / "config.yaml").write_text(content)
    assert read_settings(tmp_path).values == {}


def test_the_same_run_of_the_command_and_of_python_has_no_differences(tmp_path):
    texts = {
        "command": "model: {class_path: nnx_alexnet.AlexNet, init_args: {dropout_rate: 0.5}}\n"
        "seed: 0\ntrainer: {devices: auto}",
        "python": "model: {class: AlexNet}\nseed: 0\ntrainer: {max_steps: null}",
    }
    runs = []
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
        runs.append(read_settings(tmp_path / name))
    assert compare_settings(runs) == ([], ["model.dropout_rate", "trainer.devices"])
    assert [run.text("trainer.devices") for run in runs] == ["auto", "not recorded"]


def test_a_setting_that_a_complete_run_does_not_have_is_a_difference():
    runs = [Settings({"max_steps": "3", "model": "a.Net"}), Settings({"model": "b.Net"})]
    assert compare_settings(runs) == (["max_steps", "model"], [])
    assert runs[1].text("max_steps") == "-"
