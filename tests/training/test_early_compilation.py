"""Compiling the train step before its first batch is there."""

import logging
import time

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import Dense, TinyNet, tiny_arrays

from nnx_alexnet import Trainer
from nnx_alexnet.callbacks import Callback
from nnx_alexnet.data import DataModule
from nnx_alexnet.devices import SharedProgram
from nnx_alexnet.training import early_compilation
from nnx_alexnet.training.early_compilation import EarlyCompilation, lower


def compiled_programs(caplog, name):
    """Returns how many programs of a name JAX has compiled, according to its log."""
    return sum(
        record.getMessage().startswith(f"Compiling jit({name})") for record in caplog.records
    )


@pytest.fixture
def compile_log(caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        yield caplog


def test_a_call_finds_the_program_compiled(compile_log):
    def halve(x):
        return x / 2

    program = SharedProgram(jax.jit(halve))
    compilation = EarlyCompilation()
    compilation.wait()  # nothing was started
    compilation.start(lower(program, jax.ShapeDtypeStruct((3,), np.float32)))
    compilation.wait()
    assert compiled_programs(compile_log, "halve") == 1
    assert program(np.array([2, 4, 7], np.float32)).tolist() == [1, 2, 3.5]
    assert compiled_programs(compile_log, "halve") == 1


def test_an_error_of_the_compiler_is_left_to_the_call():
    class Lowered:
        def compile(self):
            raise RuntimeError("out of memory")

    class Function:
        def lower(self, *arguments):
            return Lowered()

        def __call__(self, *arguments):
            raise RuntimeError("out of memory")

    program = SharedProgram(Function())
    compilation = EarlyCompilation()
    compilation.start(lower(program))
    compilation.wait()
    with pytest.raises(RuntimeError, match="out of memory"):
        program()


@pytest.mark.parametrize(
    "case",
    [
        (Dense, {}, {}, "train_many"),  # indices are sent
        (Dense, {}, {"keep_on_device": False}, "train_many"),
        (TinyNet, {}, {}, "train"),  # a convolution on a CPU: single steps
        (TinyNet, {}, {"keep_on_device": False}, "train"),
        (Dense, {"devices": 4}, {}, "train_many"),
        (TinyNet, {"devices": 2}, {"keep_on_device": False}, "train"),
        (Dense, {"devices": 2, "shard_state": True}, {}, "train_many"),
    ],
)
def test_fit_compiles_its_train_step_once(case, compile_log):
    model, options, data, program = case
    made = model() if model is Dense else TinyNet(4, rngs=nnx.Rngs(0))
    module = DataModule(tiny_arrays(num=16), batch_size=4, **data)
    Trainer(
        made, module, optimizer=optax.adam(0.01), max_epochs=2, log_dir=None,
        progress_bar=False, **{"devices": 1} | options,
    ).fit()  # fmt: skip
    assert compiled_programs(compile_log, program) == 1


def test_batches_of_unknown_sizes_are_compiled_when_they_are_there(compile_log):
    batches = [tiny_arrays(num=4), tiny_arrays(num=4, seed=1)]
    Trainer(Dense(), DataModule(batches), max_epochs=1, log_dir=None, devices=1).fit()
    assert compiled_programs(compile_log, "train_many") == 1


def test_a_finished_run_that_is_resumed_compiles_no_train_step(compile_log, tmp_path):
    def fit():
        module = DataModule(tiny_arrays(num=16), batch_size=4)
        options = {"log_dir": tmp_path, "name": "a", "progress_bar": False, "devices": 1}
        Trainer(Dense(), module, max_epochs=1, **options).fit(resume="auto")

    fit()
    compile_log.clear()
    fit()
    assert compiled_programs(compile_log, "train_many") == 0


def test_no_compilation_outlives_a_fit_that_fails(monkeypatch):
    finished = []

    def compile_slowly(lowered):
        time.sleep(0.3)
        finished.append(lowered)

    class Fails(Callback):
        def on_train_start(self, trainer):
            raise RuntimeError("no")

    monkeypatch.setattr(early_compilation, "_compile", compile_slowly)
    split = tiny_arrays(num=16, size=8)
    trainer = Trainer(
        Dense(), DataModule(split, batch_size=8), callbacks=[Fails()], max_epochs=1, log_dir=None,
        progress_bar=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="no"):
        trainer.fit()
    assert len(finished) == 1
