import pytest

from nnx_alexnet.runs.settings import read_settings


def test_nested_settings_have_names_with_dots(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "model:\n  class_path: helpers.TinyNet\n  init_args: {}\n"
        "trainer:\n  max_epochs: 3\n  log_dir: null\n  callbacks: [{class_path: A}]\n  fast: true\n"
    )
    assert read_settings(tmp_path) == {
        "model.class_path": "helpers.TinyNet",
        "model.init_args": "{}",
        "trainer.max_epochs": "3",
        "trainer.log_dir": "null",
        "trainer.callbacks": '[{"class_path": "A"}]',
        "trainer.fast": "true",
    }


@pytest.mark.parametrize("content", ["", "3", "[1]", "a: [", "\x00"])
def test_what_cannot_be_read_has_no_settings(tmp_path, content):
    assert read_settings(tmp_path) == {}
    (tmp_path / "config.yaml").write_text(content)
    assert read_settings(tmp_path) == {}
