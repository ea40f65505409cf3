"""The command line, in this process where that is enough: a tiny model on the real digits."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from flax import nnx
from PIL import Image

from nnx_alexnet import Trainer
from nnx_alexnet.cli.commands import COMMANDS, main
from nnx_alexnet.cli.options import fit_parser
from nnx_alexnet.data import DATASETS, WorkerDiedError

TINY = [
    "--model", "helpers.TinyNet", "--data.image_size", "16", "--data.batch_size", "128",
    "--trainer.max_epochs", "2", "--trainer.progress_bar", "false",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder in which `fit` was called once, and the run in it."""
    folder = tmp_path_factory.mktemp("cli")
    before = Path.cwd()
    os.chdir(folder)
    try:
        arguments = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.patience", "7"]
        arguments += ["--trainer.callbacks+=ModelCheckpoint"]
        arguments += ["--trainer.callbacks.monitor", "val/accuracy"]
        arguments += ["--trainer.callbacks.mode", "max"]
        assert main(["fit", *TINY, "--optimizer.learning_rate", "0.02", *arguments]) == 0
    finally:
        os.chdir(before)
    return folder / "logs/tinynet/version_0"


@pytest.fixture
def elsewhere(run, monkeypatch):
    monkeypatch.chdir(run.parents[2])


def test_fit_leaves_a_run_whose_configuration_is_complete(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["name"] == "digits"
    assert config["model"]["class_path"] == "helpers.TinyNet"
    assert config["optimizer"]["learning_rate"] == 0.02
    stopping, saver = config["trainer"]["callbacks"]
    assert stopping["class_path"] == "nnx_alexnet.callbacks.EarlyStopping"
    assert stopping["init_args"]["patience"] == 7
    assert saver["init_args"] | {"monitor": "val/accuracy", "mode": "max"} == saver["init_args"]


def test_the_configuration_of_a_run_reproduces_it_to_the_bit(run, elsewhere, capsys):
    assert main(["fit", "--config", str(run / "config.yaml")]) == 0
    again = run.with_name("version_1")
    rows = [
        [
            {k: v for k, v in json.loads(line).items() if not k.startswith("perf/")}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (run, again)
    ]
    assert rows[0] == rows[1]
    assert (run / "config.yaml").read_text() == (again / "config.yaml").read_text()


def metrics_of(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def test_validate_rebuilds_the_run_and_finds_the_same_metrics(run, elsewhere, capsys):
    assert main(["validate", str(run), "--checkpoint", "last", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    step = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert (found["checkpoint"], found["reason"]) == (
        str(run / f"checkpoints/{step}"), f"step {step}, the latest",
    )  # fmt: skip
    expected = metrics_of(run)
    assert found["val/loss"] == pytest.approx(expected["val/loss"], rel=1e-6)
    assert found["val/accuracy"] == pytest.approx(expected["val/accuracy"])


def test_test_takes_the_newest_run_and_writes_no_other(run, elsewhere, capsys):
    runs = sorted(run.parent.iterdir())
    assert main(["test"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"test/accuracy +0\.\d{4}", out)
    assert re.search(r"Checkpoint: .*/(\d+) \(step \1, the best by val/accuracy \(0\.\d+\)\)", out)
    assert sorted(run.parent.iterdir()) == runs


def save_digits(folder, num):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    paths = []
    for number in range(num):
        image = np.rint(bunch.images[number] * (255 / 16)).astype(np.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(image).convert("RGB").save(paths[-1])
    return paths, bunch.target[:num]


def test_a_run_of_more_devices_than_there_are_is_measured_here(run, tmp_path, capsys):
    copy = tmp_path / "version_0"
    shutil.copytree(run, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["trainer"]["mesh"] = {"data": 512}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", str(copy)]) == 0
    assert "test/accuracy" in capsys.readouterr().out


def test_predict_prints_class_and_probability_of_image_files(run, elsewhere, tmp_path, capsys):
    paths, _ = save_digits(tmp_path, 3)
    assert main(["predict", str(run), *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == paths
    assert all(re.search(r"  \d [01]\.\d{4}$", line) for line in lines)


def test_predict_prints_json_with_the_best_classes_in_order(run, elsewhere, tmp_path, capsys):
    paths, _ = save_digits(tmp_path, 2)
    assert main(["predict", str(run), *paths, "--format", "json", "--top_k", "10"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == paths
    for row in rows:
        probabilities = [each["probability"] for each in row["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert {each["class"] for each in row["classes"]} == set("0123456789")


def test_predict_needs_none_of_the_data(run, elsewhere, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(DATASETS, "digits", None)
    paths, _ = save_digits(tmp_path, 1)
    assert main(["predict", str(run), *paths]) == 0


def test_summary_prints_the_table_of_alexnet(capsys):
    assert main(["summary"]) == 0
    out = capsys.readouterr().out
    assert "21,601,674 parameters (86.4 MB) and 2,752 batch statistics (11.0 KB)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--data.nmae", "x"], "Did you mean 'data.name'"),
        (["fit", "--trainer.max_epoch", "3"], "Did you mean 'trainer.max_epochs'"),
        (["fit", "--model.dtpe", "bfloat16"], "Did you mean 'dtype'"),
        (["fit", "--trainer.callbacks+=EarlyStoping"], "Did you mean 'EarlyStopping'"),
        (["fit", "--trainer.max_epochs", "many"], "many"),
        (["fits"], "'fit', 'validate', 'test', 'predict', 'verify', 'runs', 'report', 'summary'"),
    ],
)
def test_an_option_that_is_none_is_refused_with_the_nearest(arguments, message, capsys):
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
    ("arguments", "message"),
    [
        (["--data", "fashon_mnist"], "did you mean 'fashion_mnist'?"),
        (["--optimizer.name", "adm"], "did you mean 'adam'?"),
        (["--task.label_smoothing", "2"], "`label_smoothing` (=2.0) must be in [0, 1)"),
        (["--data", "mnist", "--data.root", "nowhere"], "nowhere"),
        (["--optimizer.weight_decay", "0.1"], "`weight_decay`"),
        (["--optimizer", "adm"], "did you mean 'adam'?"),
        (["--trainer.max_epochs", "0"], "`max_epochs` (=0) must be a positive integer"),
    ],
)
def test_a_value_that_does_not_work_is_one_message_without_a_traceback(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [\n", "is not YAML in UTF-8: while parsing a flow node"),
        (b"\xff\xfe\0", "is not YAML in UTF-8: 'utf-8' codec can't decode"),
        (b"- 1\n", "must hold options by their names; it is a list."),
        (b"", "must hold options by their names; it is a NoneType."),
        (b"[" * 10_000, "is not YAML in UTF-8: "),
    ],
    ids=["half", "binary", "list", "empty", "deep"],
)
@pytest.mark.parametrize("option", ["--config {0}/config.yaml", "--config={0}/config.yaml",
                                    "--resume {0}"])  # fmt: skip
def test_a_configuration_that_cannot_be_read_is_one_line(
    content, message, option, capsys, tmp_path
):
    (tmp_path / "config.yaml").write_bytes(content)
    assert main(["fit", *option.format(tmp_path).split()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nnx-alexnet: error: {tmp_path}/config.yaml {message}")


@pytest.mark.parametrize(
    ("name", "reason"), [("", "Is a directory"), ("x.yaml", "No such file or directory")]
)
def test_a_configuration_that_is_no_file_is_one_line(name, reason, capsys, tmp_path):
    assert main(["fit", "--config", str(tmp_path / name)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"nnx-alexnet: error: {tmp_path / name} cannot be read: {reason}."


def test_options_may_be_given_in_place_of_a_configuration_file(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "{seed: 7}", "--print_config"])
    assert stopped.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 7


def test_a_configuration_is_utf_8_whatever_the_locale(tmp_path):
    (tmp_path / "run.yaml").write_bytes("trainer: {name: café}".encode())
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, "-m", "nnx_alexnet", "fit", "--config", "run.yaml", "--print_config"],
        env={**environment, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert r"  name: caf\xe9" in done.stdout.splitlines()  # as this locale can print it


@pytest.mark.parametrize("content", ["model: 3", "- 1", "a: [", "model: {class_path: nope.Nope}"])
def test_a_run_whose_configuration_was_changed_is_one_line(content, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(content)
    (tmp_path / "checkpoints/1/loop").mkdir(parents=True)
    for command in (["validate", str(tmp_path)], ["predict", str(tmp_path), "x.png"]):
        assert main(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("nnx-alexnet: error: ")
        assert str(tmp_path) in line


class Opens(nnx.Module):
    """A model that needs a file which is not there."""

    def __init__(self, *, rngs):
        Path("weights.bin").read_bytes()


class Mistaken(nnx.Module):
    """A model with a bug."""

    def __init__(self, *, rngs):
        int("x")


def test_what_the_system_refuses_is_one_line_and_a_bug_has_its_traceback(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--model", "test_cli.Opens"]) == 1
    assert capsys.readouterr().err == (
        "nnx-alexnet: error: No such file or directory: 'weights.bin'\n"
    )
    with pytest.raises(ValueError, match="invalid literal"):
        main(["fit", "--model", "test_cli.Mistaken"])
    assert not any(tmp_path.iterdir())


def test_a_worker_that_dies_is_one_line(capsys, tmp_path, monkeypatch):
    def dies(config):
        raise WorkerDiedError("A data worker died.")

    monkeypatch.setitem(COMMANDS, "fit", dies)
    assert main(["fit"]) == 1
    assert capsys.readouterr().err == "nnx-alexnet: error: A data worker died.\n"


def test_a_metric_that_is_no_number_is_null_in_json(run, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "validate", lambda self: {"val/loss": math.nan, "val/a": 0.5})
    assert main(["validate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (found["val/loss"], found["val/a"]) == (None, 0.5)


def test_a_corrupt_or_missing_image_is_named(run, elsewhere, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    for name in ("broken.png", "missing.png"):
        assert main(["predict", str(run), str(tmp_path / name)]) == 1
        assert f"image file {tmp_path / name}" in capsys.readouterr().err


def test_a_run_started_from_python_says_how_to_load_it(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model:\n  class: TinyNet\n")
    assert main(["test", str(tmp_path)]) == 1
    assert "load_checkpoint" in capsys.readouterr().err


def test_no_run_is_said_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["test"]) == 1
    assert "`run`" in capsys.readouterr().err


def test_a_model_in_the_present_folder_is_found_by_its_import_path(tmp_path):
    (tmp_path / "mine.py").write_text("from flax import nnx\nclass Net(nnx.Module): pass\n")
    command = Path(sys.executable).with_name("nnx-alexnet")
    argv = [command, "fit", "--model", "mine.Net", "--print_config"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "class_path: mine.Net" in done.stdout


def test_a_resumed_run_may_differ_in_what_is_accepted(run, tmp_path, monkeypatch, capsys):
    copied = shutil.copytree(run, tmp_path / "logs/tinynet/version_0")
    monkeypatch.chdir(tmp_path)
    again = ["fit", "--resume", str(copied), "--trainer.max_epochs", "3", "--data.batch_size", "64"]
    assert main(again) == 1
    assert "--resume-accept on the command line" in capsys.readouterr().err
    assert main([*again, "--resume-accept", "data", "seed"]) == 0
    config = yaml.safe_load((copied / "config.yaml").read_text())
    assert config["data"]["batch_size"] == 64
    assert "resume_accept" not in config


def test_a_new_run_from_the_weights_of_another_has_its_configuration(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = ["fit", "--resume", str(run), "--resume-weights-only", "--trainer.max_epochs", "1"]
    assert main([*again, "--seed", "1"]) == 0
    config = yaml.safe_load(Path("logs/tinynet/version_0/config.yaml").read_text())
    assert config["model"]["class_path"] == "helpers.TinyNet"
    assert (config["seed"], config["optimizer"]["num_steps"]) == (1, 10)  # 1,293 examples by 128


def test_a_run_that_is_longer_than_its_schedule_is_reported(run, tmp_path, monkeypatch, warnings):
    copied = shutil.copytree(run, tmp_path / "logs/tinynet/version_0")
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--resume", str(copied), "--trainer.max_epochs", "3"]) == 0
    (line,) = [each for each in warnings.messages if "schedule ends" in each]
    assert line.startswith("The schedule ends at step 20 (`--optimizer.num_steps`)")
    assert "the run has 30 steps" in line


def test_the_name_of_the_data_has_a_short_form():
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--data", "fashion_mnist", "--print_config"])
    assert stopped.value.code == 0


def test_the_options_of_fit_are_these():
    """The surface that users script against: change it knowingly."""
    names = set(fit_parser().get_defaults().keys())
    assert names == {
        "config", "seed", "resume", "resume_accept", "resume_weights_only",
        "distributed.coordinator", "distributed.num_processes", "distributed.process_id",
        "distributed.timeout", "distributed.heartbeat_timeout",
        "data.name", "data.image_size", "data.batch_size", "data.root", "data.seed",
        "data.augment", "data.num_workers", "data.download", "data.drop_last",
        "data.on_bad_sample", "data.keep_on_device",
        "model.class_path", "model.init_args.dropout_rate", "model.init_args.dtype",
        "model.init_args.param_dtype",
        "task.class_path", "task.init_args.label_smoothing",
        "optimizer.name", "optimizer.learning_rate", "optimizer.schedule",
        "optimizer.warmup_steps", "optimizer.weight_decay", "optimizer.clip_norm",
        "optimizer.num_steps",
        "trainer.callbacks", "trainer.max_epochs", "trainer.max_steps", "trainer.log_dir",
        "trainer.name", "trainer.devices", "trainer.mesh", "trainer.shard_state",
        "trainer.log_every_n_steps", "trainer.validate_every_n_epochs",
        "trainer.steps_per_execution", "trainer.check_finite", "trainer.progress_bar",
        "trainer.profile",
    }  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_leaves_a_run_that_can_be_tested(tmp_path, monkeypatch, capsys):
    command = [sys.executable, "-m", "nnx_alexnet"]
    arguments = [*TINY, "--trainer.max_epochs", "100000"]
    process = subprocess.Popen(
        [*command, "fit", *arguments], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = tmp_path / "logs/tinynet/version_0/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert f"Run folder: {tmp_path / 'logs/tinynet/version_0'}" in said
    assert f"nnx-alexnet fit --resume {tmp_path / 'logs/tinynet/version_0'}" in said
    monkeypatch.chdir(tmp_path)
    assert main(["test", "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["test/accuracy"] <= 1
