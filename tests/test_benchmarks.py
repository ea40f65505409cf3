"""The benchmarks run, in their quickest form, and their tables hold a number for each contender."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import scaling_arithmetic as arithmetic
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


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["ours", "torch", "lightning", "keras"])
def test_alexnet(contender):
    require(contender)
    quick = ["--image-size", "67", "--batch-size", "2", "--steps", "2", "--warmup", "2"]
    lines = run("training_speed.py", *quick, "--contenders", contender)
    assert len(medians(lines)) == 1
    assert min(medians(lines).values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["ours", "ours-bare", "lightning"])
def test_epochs_of_fashion_mnist(contender, fashion_mnist):
    require(contender.split("-")[0])
    quick = ["--images", "64", "--image-size", "67", "--batch-size", "32", "--epochs", "1"]
    lines = run("epochs.py", *quick, "--root", str(fashion_mnist), "--contenders", contender)
    assert len(medians(lines)) == 1
    assert min(medians(lines).values()) > 0


@pytest.mark.slow
def test_the_time_to_an_accuracy_is_that_of_a_cold_and_of_a_warm_start():
    argv = [sys.executable, str(BENCHMARKS / "time_to_accuracy.py"), "--", "--trainer.max_steps=2"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    found = medians(done.stdout.splitlines())
    assert 0 < found["warm"] < found["cold"]


@pytest.mark.slow
def test_each_operation_in_each_way():
    argv = [sys.executable, str(BENCHMARKS / "layers.py"), "--batch", "2", "--rounds", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line[0] == "|"]
    assert {"conv1 all", "pool5 all", "norm and pool1 all", "plain", "torch", "here"} <= {*rows}


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["ours", "torchvision", "waiting"])
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


@pytest.mark.slow
def test_the_cost_of_the_dashboard_is_told_for_each_setting():
    settings = ["scalars alone", "the defaults", "each epoch"]
    found = medians(
        run("dashboard_cost.py", "--epochs", "1", "--steps", "4", "--contenders", *settings)
    )
    assert set(found) == {*settings}
    assert all(found.values())


# As XLA prints them, shortened; the names of other instructions and metadata are no collectives.
PROGRAM = """
HloModule jit_train, is_scheduled=true
  %p = f32[8,4]{1,0} parameter(0), metadata={op_name="all-reduce(x)"}
  %all-reduce.1 = (f32[2,3]{1,0}, /*index=1*/bf16[4]{0:T(256)}, s32[]) all-reduce(%a, %b, %c), to=%f
  %get-tuple-element.7 = f32[2,3]{1,0} get-tuple-element(%all-reduce.1), index=0
  %all-reduce-start = pred[3]{0} all-reduce-start(%d), channel_id=2
  %all-reduce-done = pred[3]{0} all-reduce-done(%all-reduce-start)
  %all-gather-start.2 = ((f32[8]{0}, bf16[2]{0}), (f32[16]{0}, bf16[4]{0})) all-gather-start(%e, %g)
  %all-gather-done.2 = (f32[16]{0}, bf16[4]{0}) all-gather-done(%all-gather-start.2)
  %permuted = (s8[4]{0}, s8[4]{0}, u32[], u32[]) collective-permute-start(%h), pairs={{0,1}}
  %permuted-done = s8[4]{0} collective-permute-done(%permuted)
  ROOT %reduce-scatter = f64[1,5]{1,0} reduce-scatter(%all-gather-done.2), dimensions={0}
"""


def test_the_collectives_of_a_program():
    assert programs.collectives(PROGRAM) == {
        "all-reduce": (2, 2 * 3 * 4 + 4 * 2 + 4 + 3),
        "all-gather": (1, 16 * 4 + 4 * 2),
        "reduce-scatter": (1, 5 * 8),
        "collective-permute": (1, 4),
    }
    assert programs.collectives("%x = f32[4]{0} add(%all-reduce, %all-gather)") == {}


def test_the_prediction_is_that_of_a_calculator():
    # 2 * 7/8 * 62,381,096 * 4 bytes at 370 GB/s are 1.180 ms; 1024 / 59,300 are 17.268 ms
    found = arithmetic.predict(1024, arithmetic.Link(8, 370e9, 10e-6))
    assert found.communication == pytest.approx(1.1802e-3, rel=1e-4)
    assert found.latency == pytest.approx(0.11e-3)
    assert found.none_hidden == pytest.approx(17.2681 / (17.2681 + 1.1802 + 0.11), rel=1e-4)
    assert found.all_hidden == pytest.approx(17.2681 / (17.2681 + 0.11), rel=1e-4)
    # both measured batches lie on the line
    for batch, speed in arithmetic.PLAIN.items():
        assert sum(arithmetic.step_seconds(batch, is_fast=False)) == pytest.approx(batch / speed)


def test_the_prediction_splits_the_parameters_as_the_trainer_does():
    import jax
    from flax import nnx

    from nnx_alexnet import AlexNet
    from nnx_alexnet.devices.sharding import Placement

    model = nnx.eval_shape(lambda: AlexNet(rngs=nnx.Rngs(0)))
    state = nnx.state(model, nnx.Param)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert sorted(shapes) == sorted(arithmetic.SHAPES)
    kept = Placement(devices=8, shard_state=True).shardings(state)
    held = sum(math.prod(k.shard_shape(s)) for k, s in zip(kept, shapes, strict=True))
    split = arithmetic.sharded_parameters(8)
    assert held == arithmetic.PARAMETERS - split + split // 8


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason='the plugin is not installed; pip install -e ".[cuda12]"',
)
def test_a_step_is_compiled_for_a_gpu_that_is_not_there():
    quick = ["--image-size", "67", "--batch-size", "64", "--ways", "pool", "ours"]
    argv = [sys.executable, str(BENCHMARKS / "gpu_program.py"), *quick]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    apart, ours = (float(row[3]) for row in rows[-2:])
    assert 0 < ours < apart


def scaling_of(*arguments):
    quick = ["--image-size", "67", "--batch-size", "4", "--warmup", "1", "--steps", "1"]
    return run("scaling.py", *quick, *arguments)


@pytest.mark.slow
def test_several_devices_reduce_the_gradients():
    lines = scaling_of("--devices", "1", "2", "--ways", "data", "--windows", "0", "--json")
    alone, two = json.loads(lines[-1])
    assert alone["collectives"] == alone["divided"] == {}
    for found in two["collectives"], two["divided"]:
        num, size = found["all-reduce"]
        parameters = two["state_bytes"] / 3
        assert num >= 11
        assert parameters < size < 1.01 * parameters
    assert two["state_bytes"] == alone["state_bytes"]


@pytest.mark.slow
def test_each_way_of_dividing_the_work():
    lines = scaling_of("--devices", "1", "4", "--windows", "1")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[0] == "|"]
    ways = ["alone", "data", "model", "sharded", "mixed"]
    assert [row[1] for row in rows[2:]] == ways
    assert all(float(row[2].split(",")[0]) > 0 for row in rows[2:])
    held = {row[1]: float(row[7].replace(",", "")) for row in rows[2:]}
    assert held["sharded"] < held["model"] < 0.3 * held["data"]
