"""The words of a command line: short forms and configuration files."""

import os
import subprocess
import sys

import pytest
import yaml

from nnx_alexnet.cli import main
from nnx_alexnet.cli.words import complete, import_path_in


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [\n", "is not YAML in UTF-8: while parsing a flow node"),
        (b"\xff\xfe\0", "is not YAML in UTF-8: 'utf-8' codec can't decode"),
        (b"- 1\n", "must hold options by their names; it holds a list."),
        (b"", "must hold options by their names; it holds a NoneType."),
        (b"[" * 10_000, "is not YAML in UTF-8: "),
    ],
    ids=["half", "binary", "list", "empty", "deep"],
)
@pytest.mark.parametrize("option", ["--config {0}/config.yaml", "--config={0}/config.yaml",
                                    "--resume {0}"])  # fmt: skip
def test_an_unreadable_configuration_is_reported_on_one_line(
    content, message, option, capsys, tmp_path
):
    (tmp_path / "config.yaml").write_bytes(content)
    assert main(["fit", *option.format(tmp_path).split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nnx-alexnet: error: --config (={tmp_path}/config.yaml) {message}")


@pytest.mark.parametrize(
    ("name", "reason"), [("", "Is a directory"), ("x.yaml", "No such file or directory")]
)
def test_a_missing_configuration_is_reported_on_one_line(name, reason, capsys, tmp_path):
    assert main(["fit", "--config", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"nnx-alexnet: error: --config (={tmp_path / name}) cannot be read: {reason}."


def test_a_group_of_a_configuration_must_hold_options(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("trainer: 3\n")
    assert main(["fit", "--config", str(tmp_path / "run.yaml")]) == 2
    assert "run.yaml): trainer must hold options by their names." in capsys.readouterr().err


def test_config_accepts_options_in_place_of_a_file(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "{seed: 7}", "--print_config"])
    assert stopped.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 7


def test_a_configuration_is_utf_8_in_any_locale(tmp_path):
    (tmp_path / "run.yaml").write_bytes("trainer: {name: café}".encode())
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, "-m", "nnx_alexnet", "fit", "--config", "run.yaml", "--print_config"],
        env={**environment, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert r"  name: caf\xe9" in done.stdout.splitlines()  # as this locale can print it


def test_data_has_a_short_form():
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--data", "fashion_mnist", "--print_config"])
    assert stopped.value.code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "--data", "mnist"], ["fit", "--data.name", "mnist"]),
        (["fit", "--data=mnist"], ["fit", "--data.name=mnist"]),
        (["fit", "--data", "hf:a/b.csv"], ["fit", "--data.name", "hf:a/b.csv"]),
        (["fit", "--data=npz:a=b.npz"], ["fit", "--data.name=npz:a=b.npz"]),
        (["fit", "--data", "shop.images"], ["fit", "--data.import_path", "shop.images"]),
        (["fit", "--data=shop.images"], ["fit", "--data.import_path=shop.images"]),
        (["fit", "--optimizer", "sgd"], ["fit", "--optimizer.name", "sgd"]),
        (["fit", "--data", "data.yaml"], ["fit", "--data", "data.yaml"]),
        (["fit", "--data={name: mnist}"], ["fit", "--data={name: mnist}"]),
        (["fit", "--data"], ["fit", "--data"]),
    ],
)
def test_names_of_data_and_optimizers_are_expanded(words, expected):
    assert complete(words) == expected


def test_the_configuration_of_a_resumed_run_precedes_the_options(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1")
    saved = ["fit", "--config", str(tmp_path / "config.yaml")]
    words = ["--resume", str(tmp_path), "--seed", "2"]
    assert complete(["fit", *words]) == [*saved, *words]
    words.append("--resume-weights-only")
    assert complete(["fit", *words]) == [*saved, "--optimizer.num_steps", "null", *words]
    assert complete(["fit", "--resume", "auto"]) == ["fit", "--resume", "auto"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit"], None),
        (["fit", "--data.name", "mnist"], None),
        (["fit", "--data.import_path", "a.b"], "a.b"),
        (["fit", "--data.import_path=a.b", "--seed", "1"], "a.b"),
        (["fit", "--config", "run.yaml"], "c.d"),
        (["fit", "--config", "missing.yaml"], None),
        (["fit", "--config", "run.yaml", "--data.import_path", "a.b"], "a.b"),
        (["fit", "--data", "data.yaml"], "e.f"),
        (["fit", "--data={import_path: g.h}"], "g.h"),
    ],
)
def test_the_import_path_is_found_before_the_options(words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("data: {import_path: c.d}")
    (tmp_path / "data.yaml").write_text("import_path: e.f")
    assert import_path_in(words) == expected


@pytest.mark.parametrize("words", [["--resume", "a/version_0"], ["--resume=a/version_0"]])
@pytest.mark.parametrize("log_dir", ["logs", "other"])
def test_a_run_to_resume_may_be_named_in_the_log_folder(words, log_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / log_dir / "a/version_0").mkdir(parents=True)
    words = [*words, "--trainer.log_dir", log_dir]
    assert complete(["fit", *words])[1:-2] == [
        word.replace("a/", f"{log_dir}/a/") for word in words[:-2]
    ]
    (tmp_path / "a/version_0").mkdir(parents=True)  # a folder takes precedence
    assert complete(["fit", *words]) == ["fit", *words]
