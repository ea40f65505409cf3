"""The subcommands, with a tiny model on the digits."""

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
from PIL import Image

from nnx_alexnet import Trainer
from nnx_alexnet.cli import main
from nnx_alexnet.data import DATASETS

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


def test_fit_writes_a_complete_configuration(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["name"] == "digits"
    assert config["model"]["class_path"] == "helpers.TinyNet"
    assert config["optimizer"]["learning_rate"] == 0.02
    stopping, saver = config["trainer"]["callbacks"]
    assert stopping["class_path"] == "nnx_alexnet.callbacks.EarlyStopping"
    assert stopping["init_args"]["patience"] == 7
    assert saver["init_args"] | {"monitor": "val/accuracy", "mode": "max"} == saver["init_args"]


def test_the_configuration_of_a_run_reproduces_it_exactly(run, elsewhere, capsys):
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
    first, second = (yaml.safe_load((each / "config.yaml").read_text()) for each in (run, again))
    assert first == second


def metrics_of(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def test_validate_gives_the_metrics_of_the_run(run, elsewhere, capsys):
    assert main(["validate", str(run), "--checkpoint", "last", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    step = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert (found["checkpoint"], found["reason"]) == (
        str(run / f"checkpoints/{step}"), f"step {step}, the latest",
    )  # fmt: skip
    expected = metrics_of(run)
    assert found["val/loss"] == pytest.approx(expected["val/loss"], rel=1e-6)
    assert found["val/accuracy"] == pytest.approx(expected["val/accuracy"])


def test_test_evaluates_the_newest_run_and_writes_no_other(run, elsewhere, capsys):
    runs = sorted(run.parent.iterdir())
    assert main(["test"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"test/accuracy +0\.\d{4}", out)
    assert re.search(r"Checkpoint: .*/(\d+) \(step \1, the best by val/accuracy \(0\.\d+\)\)", out)
    assert sorted(run.parent.iterdir()) == runs


def test_report_measures_the_best_checkpoint_on_the_data_of_the_run(run, elsewhere, capsys):
    output = ["--output", "report.html"]
    assert main(["report", str(run), *output]) == 0
    assert "<th>examples</th><td>144</td><td>360</td>" in Path("report.html").read_text()
    assert main(["report", str(run), *output, "--checkpoint", "none"]) == 0
    assert "Nothing was measured" in Path("report.html").read_text()
    capsys.readouterr()
    assert main(["report", str(run), *output, "--checkpoint", "7"]) == 0
    assert "The run is not measured: ValueError: `which` (='7')" in capsys.readouterr().err
    Path("report.html").unlink()


def save_digits(folder, num):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    paths = []
    for number in range(num):
        image = np.rint(bunch.images[number] * (255 / 16)).astype(np.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(image).convert("RGB").save(paths[-1])
    return paths, bunch.target[:num]


def test_a_run_on_more_devices_can_be_evaluated_on_fewer(run, tmp_path, capsys):
    copy = tmp_path / "version_0"
    shutil.copytree(run, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["trainer"]["devices"] = {"data": 512}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", str(copy)]) == 0
    assert "test/accuracy" in capsys.readouterr().out


def test_each_test_is_recorded_in_the_run(run, tmp_path, capsys):
    copy = tmp_path / "tinynet/version_0"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("evaluations.jsonl"))
    for checkpoint in ("best", "last"):
        assert main(["test", str(copy), "--checkpoint", checkpoint, "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [json.loads(line) for line in (copy / "evaluations.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["test", "test"]
    for row, shown in zip(rows, printed, strict=True):
        assert row["test/accuracy"] == shown["test/accuracy"]
        assert row["step"] == int(Path(shown["checkpoint"]).name)
        assert row["reason"] == shown["reason"]
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test/accuracy"] == rows[1]["test/accuracy"]
    assert main(["report", str(copy), "--checkpoint", "none"]) == 0
    assert f"{rows[1]['test/accuracy']:.2%}" in Path(capsys.readouterr().out.strip()).read_text()


def test_predict_prints_class_and_probability_of_each_file(run, elsewhere, tmp_path, capsys):
    paths, _ = save_digits(tmp_path, 3)
    assert main(["predict", str(run), *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == paths
    assert all(re.search(r"  \d [01]\.\d{4}$", line) for line in lines)


def test_predict_without_a_run_uses_the_newest(run, elsewhere, tmp_path, capsys):
    paths, _ = save_digits(tmp_path, 2)
    assert main(["predict", str(run), *paths]) == 0
    expected = capsys.readouterr().out
    assert main(["predict", *paths]) == 0
    assert capsys.readouterr().out == expected


def test_predict_prints_json_with_classes_in_order(run, elsewhere, tmp_path, capsys):
    paths, _ = save_digits(tmp_path, 2)
    assert main(["predict", str(run), *paths, "--format", "json", "--top_k", "10"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == paths
    for row in rows:
        probabilities = [each["probability"] for each in row["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert {each["class"] for each in row["classes"]} == set("0123456789")


def test_predict_does_not_load_the_data(run, elsewhere, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(DATASETS, "digits", None)
    paths, _ = save_digits(tmp_path, 1)
    assert main(["predict", str(run), *paths]) == 0


def test_summary_prints_the_table_of_alexnet(capsys):
    assert main(["summary"]) == 0
    out = capsys.readouterr().out
    assert "21,601,674 parameters (86.4 MB) and 2,752 batch statistics (11.0 KB)" in out


def test_summary_names_the_image_size_that_does_not_suit_a_model(tmp_path, monkeypatch, capsys):
    (tmp_path / "fixed_size.py").write_text(
        "from flax import nnx\n"
        "class Net(nnx.Module):\n"
        "    def __init__(self, *, rngs):\n"
        "        self.dense = nnx.Linear(64, 4, rngs=rngs)\n"
        "    def __call__(self, image):\n"
        "        return self.dense(image.reshape(len(image), -1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["summary", "--model", "fixed_size.Net"]) == 2
    assert (
        "error: --image_size (=96) with --in_channels (=1) does not suit fixed_size.Net: TypeError"
    ) in capsys.readouterr().err
    assert main(["summary", "--model", "fixed_size.Net", "--image_size", "8"]) == 0


def test_nan_is_null_in_json(run, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "validate", lambda self: {"val/loss": math.nan, "val/a": 0.5})
    assert main(["validate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (found["val/loss"], found["val/a"]) == (None, 0.5)


def test_a_damaged_or_missing_image_is_named(run, elsewhere, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    for name in ("broken.png", "missing.png"):
        assert main(["predict", str(run), str(tmp_path / name)]) == 1
        assert f"image file {tmp_path / name}" in capsys.readouterr().err


def test_a_resumed_run_may_differ_in_accepted_names(run, tmp_path, monkeypatch, capsys):
    copied = shutil.copytree(run, tmp_path / "logs/tinynet/version_0")
    monkeypatch.chdir(tmp_path)
    again = ["fit", "--resume", str(copied), "--trainer.max_epochs", "3", "--data.batch_size", "64"]
    assert main([*again, "--resume-accept", "schedule"]) == 1
    assert (
        "accept them by name (['schedule'] in `accept` match none of them): --resume-accept "
        in (capsys.readouterr().err)
    )
    assert main([*again, "--resume-accept", "schedule", "data", "seed"]) == 0
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


def test_a_schedule_shorter_than_the_run_is_reported(run, tmp_path, monkeypatch, warnings):
    copied = shutil.copytree(run, tmp_path / "logs/tinynet/version_0")
    monkeypatch.chdir(tmp_path)
    longer = ["fit", "--resume", str(copied), "--trainer.max_epochs", "3"]
    assert main([*longer, "--resume-accept", "schedule"]) == 0
    (line,) = [each for each in warnings.messages if "schedule ends" in each]
    assert line.startswith("The schedule ends at step 20 (`--optimizer.num_steps`)")
    assert "the run has 30 steps" in line


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_leaves_a_usable_run(tmp_path, monkeypatch, capsys):
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
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert f"Run folder: {tmp_path / 'logs/tinynet/version_0'}" in output
    assert f"nnx-alexnet fit --resume {tmp_path / 'logs/tinynet/version_0'}" in output
    monkeypatch.chdir(tmp_path)
    assert main(["test", "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["test/accuracy"] <= 1
