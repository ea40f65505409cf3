"""Settings for every test; they must stand before JAX is imported for the first time."""

import functools
import gc
import logging
import os
import tempfile
from pathlib import Path

# Eight devices, so that a test can shard; on the host, so that the results are the same anywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_NO_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
_flags = os.environ.get("XLA_FLAGS", "").replace(_NO_EMITTERS, "").strip()
os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()

# Many tests compile the very same step: each is compiled once a session, whose workers inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="nnx_alexnet_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    # A program that a test starts imports this checkout, whatever is installed, and test modules.
    _paths = [Path(__file__).parents[1], Path(__file__).parent, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, filter(None, _paths)))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from jax._src import compiler  # noqa: E402

# The first example may compile, and the machine may be busy.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

# No power fails, and one save waits for the disk 30 times. A test of it replaces the function.
os.fsync = lambda _: None

collect_ignore = ["distributed_job.py"]  # a program, whose first line joins others

# What a test does not split stays on one of them.
jax.config.update("jax_default_device", jax.devices()[0])


_state: dict[str, bool | None] = {"is_off": None}
_compile_options = compiler.get_compile_options


def _options(*arguments, **keywords):
    options = _compile_options(*arguments, **keywords)
    if _state["is_off"]:
        options.env_option_overrides = [*options.env_option_overrides, *_fewer_passes()]
    return options


@functools.cache
def _fewer_passes():
    """Returns the option that turns off XLA's fusion emitters, if XLA has it.

    They take two thirds of the compilation time of a small step, even if most optimizations are
    off. JAX has no setting that turns them off for only some programs.
    """
    off = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=off).lower().compile()
    except jax.errors.JaxRuntimeError:
        return []
    return [*off.items()]


compiler.get_compile_options = _options

# A program that a test starts has one device, and is compiled like most tests.
os.environ["XLA_FLAGS"] = f"{_flags} {_NO_EMITTERS if _fewer_passes() else ''}".strip()
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"


@pytest.hookimpl(tryfirst=True)  # before the fixtures of the test
def pytest_runtest_setup(item):
    """Compiles without most optimizations, which take more time than they save in most tests.

    A test whose subject is the compiled program is marked `optimized`. Tests that share a fixture
    that compiles, and compare bits, are all marked or all unmarked.
    """
    is_off = item.get_closest_marker("optimized") is None
    if is_off != _state["is_off"]:
        _state["is_off"] = is_off
        jax.config.update("jax_disable_most_optimizations", is_off)
        jax.clear_caches()  # of programs that draw the first weights, for instance
    _set_charts(item.get_closest_marker("charts") is not None)


_CHARTS = "confusion_matrix", "class_accuracy"
_drawing = {}


def _no_chart(*_):
    return np.zeros((1, 1, 3), np.uint8)


def _set_charts(are_drawn):
    """Draws the charts of Matplotlib, or leaves them out of what a run writes.

    They take a third of the time of a tiny run with a folder. A test that looks at them, or at
    what draws them, is marked `charts`.
    """
    from nnx_alexnet.dashboard import images

    for name in _CHARTS:
        drawing = _drawing.setdefault(name, getattr(images, name))
        setattr(images, name, drawing if are_drawn else _no_chart)


@pytest.hookimpl(tryfirst=True)
def pytest_collection():
    """Lets pytest handle the log, although a conftest may have imported the package before."""
    from nnx_alexnet.support import logger

    logger.handlers.clear()
    logger.propagate, logger.level = True, logging.NOTSET


def pytest_collection_finish():
    """Lets Python look for garbage less often, and not among what was imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_runtest_teardown(item):
    """Collects garbage whose warnings a test ignores, before the next test, which does not."""
    ignored = [text for mark in item.iter_markers("filterwarnings") for text in mark.args]
    if any("Unraisable" in text for text in ignored):
        gc.collect()


@pytest.fixture
def strict_dtype_promotion():
    """An implicit promotion, say of bfloat16 with float32, is an error. For models and steps
    without an optimizer: Optax itself relies on promotion (`decay**count` in its Adam)."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def warnings(caplog, monkeypatch):
    """The records of the package's logger, which do not propagate to the root logger."""
    from nnx_alexnet.support.log import logger

    monkeypatch.setattr(logger, "propagate", False)
    # A conftest that imports the package before pytest logs leaves the logger at INFO.
    level = logger.level
    logger.setLevel("NOTSET")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)


@pytest.fixture
def fashion_mnist(tmp_path):
    """A `root` with the files of Debian's package of Fashion-MNIST."""
    package = Path("/usr/share/datasets/fashion-mnist")
    if not package.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    for file in package.glob("*.gz"):
        (raw / file.name).symlink_to(file)
    return tmp_path


@pytest.fixture
def printed(monkeypatch, capsys):
    """Returns what the logger printed to standard error, as in a program without other logging."""
    from nnx_alexnet.support.log import StandardErrorHandler, logger

    level = logger.level
    logger.setLevel("INFO")
    monkeypatch.setattr(logger, "handlers", [StandardErrorHandler()])
    monkeypatch.setattr(logger, "propagate", False)
    yield lambda: capsys.readouterr().err
    logger.setLevel(level)
