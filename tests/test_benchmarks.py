"""The benchmarks run, in their quickest form, and their tables hold a number for each contender."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import turns

BENCHMARKS = Path(__file__).parent / "benchmarks"


def run(script, *arguments):
    """Returns the lines that a benchmark printed."""
    # One device, as for a user, and not those of the tests.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    argv = [sys.executable, str(BENCHMARKS / script), "--rounds", "1", *arguments]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


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
    ),
)
def test_the_cost_of_the_loop(contender):
    require(contender.split("-")[0])
    lines = run("loop_cost.py", "--steps", "32", "--warmup", "16", "--contenders", contender)
    assert "jax" in lines[0]
    assert len(medians(lines)) == 1
    assert min(medians(lines).values()) > 0


@pytest.mark.parametrize("contender", and_slowly("torch", "lightning", "keras"))
def test_alexnet(contender):
    require(contender)
    quick = ["--image-size", "67", "--batch-size", "2", "--steps", "2", "--warmup", "2"]
    lines = run("alexnet_cpu.py", *quick, "--contenders", contender)
    assert len(medians(lines)) == 1
    assert min(medians(lines).values()) > 0


@pytest.mark.parametrize("contender", and_slowly("torchvision", "waiting"))
def test_loading_a_folder(contender):
    quick = ["--images", "8", "--image-size", "67", "--batch-size", "4", "--workers", "1"]
    quick += ["--epochs", "1", "--steps", "1", "--warmup", "1"]
    lines = run("folder_loading.py", *quick, "--contenders", contender)
    assert len(medians(lines)) == 1
    assert min(medians(lines).values()) > 0


def test_the_time_of_the_import():
    lines = run("import_time.py", "--contenders", "ours", "flax")
    assert set(medians(lines)) == {"`import nnx_alexnet`", "`import flax.nnx, optax`"}
    assert min(medians(lines).values()) > 0
    assert lines[-1] == "`import nnx_alexnet` does not load torch."


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


def test_the_cost_of_the_dashboard_is_told_for_each_setting():
    found = medians(run("dashboard_cost.py", "--epochs", "1"))
    assert set(found) == {"scalars alone", "the defaults", "each epoch"}
    assert all(found.values())
