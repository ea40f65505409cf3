"""Runs whose configuration is read."""

import pytest

from nnx_alexnet.cli import main
from nnx_alexnet.cli.saved_run import split_run


@pytest.mark.parametrize(
    ("content", "code"),
    [("model: 3", 2), ("- 1", 1), ("a: [", 1), ("model: {class_path: nope.Nope}", 2)],
)
def test_an_invalid_saved_configuration_is_reported_on_one_line(content, code, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(content)
    (tmp_path / "checkpoints/1/loop").mkdir(parents=True)
    for command in (["validate", str(tmp_path)], ["predict", str(tmp_path), "x.png"]):
        assert main(command) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("nnx-alexnet: error: ")
        assert str(tmp_path) in line


def test_a_run_started_from_python_is_refused_with_a_remedy(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model:\n  class: TinyNet\n")
    assert main(["test", str(tmp_path)]) == 2
    assert "load_checkpoint" in capsys.readouterr().err


def test_a_missing_run_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["test"]) == 2
    assert "RUN (=null) must be the folder of a run" in capsys.readouterr().err


def test_the_first_path_of_predict_may_be_a_run(tmp_path):
    (tmp_path / "copied").mkdir()
    (tmp_path / "copied/config.yaml").touch()
    (tmp_path / "pictures").mkdir()
    copied, pictures = str(tmp_path / "copied"), str(tmp_path / "pictures")
    assert split_run([copied, "a.png"]) == (copied, ["a.png"])
    assert split_run(["missing/version_7", "a.png"]) == ("missing/version_7", ["a.png"])
    assert split_run([pictures, copied]) == (None, [pictures, copied])
    with pytest.raises(ValueError, match="`paths` must be image files"):
        split_run([copied])
