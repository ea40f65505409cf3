"""Programs compiled for several devices or a GPU, and the arithmetic over what they send."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import scaling_arithmetic as arithmetic

# The slow ones compile in several processes, on a machine that may be busy.
pytestmark = pytest.mark.timeout(1200)
SCRIPTS = Path(__file__).parent / "benchmarks/compiled_programs"


@pytest.fixture(autouse=True)
def _as_users_compile(monkeypatch):
    """The programs have one device and all optimizations."""
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")


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


def test_the_collectives_of_a_program_are_counted_with_their_bytes():
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
    argv = [sys.executable, str(SCRIPTS / "gpu_program.py"), *quick]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    apart, ours = (float(row[3]) for row in rows[-2:])
    assert 0 < ours < apart


def scaling_of(*arguments):
    quick = ["--image-size", "67", "--batch-size", "4", "--warmup", "1", "--steps", "1"]
    argv = [sys.executable, str(SCRIPTS / "scaling.py"), "--rounds", "1", *quick, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


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
    for row in rows[2:]:
        fastest, median = map(float, row[2].split(", "))
        assert fastest == median  # of a single window
    held = {row[1]: float(row[7].replace(",", "")) for row in rows[2:]}
    assert max(held["sharded"], held["model"]) < 0.3 * held["data"]


def test_the_readme_holds_the_tables_of_the_arithmetic():
    text = (SCRIPTS / "README.md").read_text()
    parts = arithmetic.predictions().split("\n\n")
    tables = [part for part in parts if part.startswith("|")]
    assert len(tables) == 4
    assert [table.splitlines()[0] for table in tables if table not in text] == []
