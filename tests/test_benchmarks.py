"""The benchmarks run in their quickest form, and their numbers fit the time that they took."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import ablation
import clocks
import loop_cost
import pytest
import turns

# The slow ones compile in several processes, on a machine that may be busy.
pytestmark = pytest.mark.timeout(1200)
BENCHMARKS = Path(__file__).parent / "benchmarks"


def run(script, *arguments):
    """Returns the lines that a benchmark printed, and the seconds that it took as a process."""
    # One device, as for a user, and not those of the tests.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    argv = [sys.executable, str(BENCHMARKS / script), "--rounds", "1", *arguments]
    began = time.perf_counter()
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines(), seconds


def medians(lines):
    """Returns the first number of each row of the tables, by the row's label."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[0] == "|"]
    return {row[0]: float(row[1]) for row in rows if re.fullmatch(r"[\d.]+", row[1])}


def require(package):
    if package != "ours" and importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed; pip install -e ".[bench]"')


def and_slowly(*peers):
    """Returns ours, and the rest only among the slow tests: each imports a library or compiles."""
    return ["ours", *(pytest.param(peer, marks=pytest.mark.slow) for peer in peers)]


@pytest.mark.parametrize(
    "contender",
    and_slowly(
        "ours-bare",
        "lightning",
        "lightning-log",
        "lightning-bare",
        "keras",
        "keras-bare",
        "keras-scan",
        "keras-scan-bare",
        "tunix",
        "tunix-bare",
    ),
)
def test_the_steps_of_the_loop_take_a_part_of_the_whole_time(contender):
    require(contender.split("-")[0])
    quick = ["--steps", "32", "--warmup", "16"]
    lines, seconds = run("loop_cost.py", *quick, "--contenders", contender)
    assert "jax" in lines[0]
    assert [*medians(lines)] == [loop_cost.CONTENDERS[contender].label]
    # The table has whole microseconds; no library takes a step in less than one.
    (microseconds,) = medians(lines).values()
    assert 1e-6 <= 32 * microseconds / 1e6 < seconds


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["ours", "ours-hook", "torch", "lightning", "keras"])
def test_the_speed_of_training_is_that_of_its_steps(contender):
    require(contender.split("-")[0])
    quick = ["--image-size", "67", "--batch-size", "2", "--steps", "2", "--epochs", "1"]
    quick += ["--contenders", contender]
    lines, seconds = run("training_speed.py", *quick)
    (images_per_second,) = medians(lines).values()
    assert round(2 * 2 / seconds) <= images_per_second < 1e5


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["alexnet", "alexnet-bare", "mlp", "mlp-bare"])
def test_the_speed_of_predict_is_that_of_its_images(contender):
    quick = ["--image-size", "67", "--batch-size", "2", "--images", "4", "--passes", "1"]
    lines, seconds = run("predict_speed.py", *quick, "--contenders", contender)
    (images_per_second,) = medians(lines).values()
    assert 4 / seconds < images_per_second < 1e7


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["ours", "ours-bare", "lightning"])
def test_an_epoch_of_fashion_mnist_takes_a_part_of_the_whole_time(contender, fashion_mnist):
    require(contender.split("-")[0])
    quick = ["--images", "64", "--image-size", "67", "--batch-size", "32", "--epochs", "1"]
    quick += ["--root", str(fashion_mnist), "--contenders", contender]
    lines, seconds = run("epochs.py", *quick)
    (epoch,) = medians(lines).values()
    assert 0 < epoch < seconds


@pytest.mark.slow
def test_the_time_to_an_accuracy_is_that_of_a_cold_and_of_a_warm_start():
    argv = [sys.executable, str(BENCHMARKS / "time_to_accuracy.py"), "--", "--trainer.max_steps=2"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    found = medians(done.stdout.splitlines())
    assert 0 < found["warm"] < found["cold"]


@pytest.mark.slow
def test_a_model_is_pretrained_and_fine_tuned(fashion_mnist):
    argv = [sys.executable, str(BENCHMARKS / "fine_tuning.py"), "--root", str(fashion_mnist)]
    argv += ["--pretrain-steps", "2", "--max-epochs", "2", "--accuracy", "0.01"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found = medians(done.stdout.splitlines())
    assert found["from scratch"] == found["fine-tuned"] == 40, "steps of an epoch of the digits"


@pytest.mark.slow
def test_an_ablation_has_a_row_per_change(fashion_mnist):
    argv = [sys.executable, str(BENCHMARKS / "ablation.py"), "--root", str(fashion_mnist)]
    argv += ["--images", "64", "--val-images", "64", "--epochs", "1", "--seeds", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found = medians(done.stdout.splitlines())
    assert [*found] == ["baseline", "EMA", "mixup", "erasing", "all three"]
    assert all(0 <= value <= 100 for value in found.values())


def test_the_gain_of_an_ablation_is_the_mean_of_paired_differences():
    baseline = [0.50, 0.60, 0.70]
    # Differences of 1, 2 and 3 percent: their standard deviation is 1.
    cells = ablation.spread([0.51, 0.62, 0.73], baseline)
    assert cells == ("62.00", "51.00 to 73.00", "+2.00 ± 0.58")
    assert ablation.spread(baseline, None) == ("60.00", "50.00 to 70.00", "")


@pytest.mark.slow
def test_each_operation_in_each_way():
    argv = [sys.executable, str(BENCHMARKS / "layers.py"), "--batch", "2", "--rounds", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line[0] == "|"]
    assert {"conv1 all", "pool5 all", "norm and pool1 all", "plain", "torch", "here"} <= {*rows}


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["ours", "filling", "cached", "torchvision", "waiting"])
def test_loading_a_folder_is_faster_than_the_whole_process(contender):
    quick = ["--images", "8", "--image-size", "67", "--batch-size", "4", "--workers", "1"]
    quick += ["--epochs", "1", "--cached-epochs", "1", "--steps", "1", "--warmup", "1"]
    quick += ["--contenders", contender]
    lines, seconds = run("folder_loading.py", *quick)
    found = medians(lines)
    if contender == "waiting":
        assert 0 <= found["Waiting for data"] <= 100  # percent
        assert 0 <= found.get("`perf/data_wait`", 0) <= 1
    else:
        (images_per_second,) = found.values()
        assert 8 / seconds < images_per_second


@pytest.mark.slow
def test_the_first_step_ends_within_the_time_of_the_whole_process():
    lines, seconds = run("first_step.py", "--contenders", "ours-cold", "script-cold")
    found = medians(lines)
    assert [*found] == ["`nnx-alexnet fit`, cold", "a script, cold"]
    assert min(found.values()) > 1  # importing JAX alone takes half of it
    assert sum(found.values()) < seconds


@pytest.mark.slow
@pytest.mark.parametrize("what", ["step", "compiling"])
def test_the_costs_of_memory_settings_are_parts_of_the_whole_time(what):
    lines, seconds = run("host_memory.py", "--what", what, "--contenders", "default", "kept")
    found = medians(lines)
    assert [*found] == ["glibc's default", "`keep_freed_memory`"]
    assert all(0 < value < (seconds if what == "compiling" else 1e4) for value in found.values())


@pytest.mark.slow
def test_the_times_of_imports_are_parts_of_the_whole_time():
    lines, seconds = run("import_time.py", "--contenders", "ours", "flax")
    found = medians(lines)
    assert set(found) == {"`import nnx_alexnet`", "`import flax.nnx, optax`"}
    # Each was imported twice, the first time uncounted; importing JAX alone takes a tenth.
    assert min(found.values()) > 0.1
    assert sum(found.values()) < seconds
    assert lines[-1] == "`import nnx_alexnet` does not load torch."


def test_a_stopwatch_measures_from_the_end_of_one_step_to_the_end_of_another(monkeypatch):
    waited = []
    monkeypatch.setattr(clocks.time, "perf_counter", iter([10.0, 10.5]).__next__)
    watch = clocks.Stopwatch(first=4, last=9)
    for step in range(1, 12):
        watch.finished(step, lambda step=step: waited.append(step))
    assert waited == [4, 9]
    assert watch.microseconds() == 0.5 / 5 * 1e6


def test_the_time_of_an_epoch_is_the_median_without_the_first(monkeypatch):
    monkeypatch.setattr(clocks.time, "perf_counter", iter([90.0, 92.0, 97.0, 100.0]).__next__)
    epochs = clocks.Epochs()
    for _ in range(4):
        epochs.ended()
    assert epochs.median() == 3.0


def contenders(**is_peer):
    return {name: turns.Contender(name, lambda _: 1.0, (), peer) for name, peer in is_peer.items()}


def test_a_table_compares_medians_with_the_best_peer():
    values = {"ours": [1.0, 9.0, 2.0], "slow": [8.0, 8.0, 8.0], "fast": [5.0, 4.0, 3.0]}
    three = contenders(ours=False, slow=True, fast=True)
    lines = turns.table(values, three, unit="s", less_is_better=True).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[2:] == [
        ["ours", "2", "1 to 9", "0.50"],
        ["slow", "8", "8 to 8", "2.00"],
        ["fast", "4", "3 to 5", "1.00"],
    ]
    assert turns.best_peer(values, three, less_is_better=False) == "slow"


def test_without_peers_there_is_no_ratio():
    alone = turns.table({"ours": [1.0]}, contenders(ours=False), unit="s", less_is_better=True)
    assert alone.splitlines()[-1].replace(" ", "") == "|ours|1|1to1||"


def test_a_command_runs_in_a_terminal():
    code = "import os, sys; print(sys.stderr.isatty(), os.get_terminal_size(2)); sys.exit(3)"
    output, status = turns.run_in_terminal([sys.executable, "-c", code], os.environ)
    assert output.startswith("True os.terminal_size(columns=120, lines=40)")
    assert status == 3


@pytest.mark.slow
def test_the_cost_of_the_dashboard_is_measured_for_each_setting():
    settings = ["scalars alone", "the defaults", "each epoch"]
    lines, seconds = run(
        "dashboard_cost.py", "--epochs", "1", "--steps", "4", "--contenders", *settings
    )
    found = medians(lines)
    assert set(found) == {*settings}
    assert min(found.values()) > 0
    assert sum(found.values()) < seconds
